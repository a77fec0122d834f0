"""Small drawings of the case page as SVG and HTML, in the palette's custom properties.

Each takes plain numbers and says in words what it shows (``role="img"`` with a label), so
that a screen reader has the same.  Knows no Streamlit and no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.ui.components import text

__all__ = ["Whisker", "bars", "calibration_histogram", "whiskers"]

_WIDTH = 460.0


def bars(values: Sequence[tuple[str, float]], *, chosen: str | None = None) -> str:
    """Horizontal bars of shares in [0, 1], longest first as given; ``chosen`` in bold."""
    rows = []
    for name, value in values:
        weight = "600" if name == chosen else "400"
        rows.append(
            f'<div class="cb-row" style="grid-template-columns:minmax(6rem,10rem) 1fr 3rem;'
            f'min-height:1.5rem;font-weight:{weight}"><span>{text(name)}</span>'
            f'<span class="cb-bar"><i style="width:{100 * min(max(value, 0), 1):.1f}%"></i></span>'
            f'<span class="cb-num" style="text-align:right">{100 * value:.0f} %</span></div>'
        )
    return "".join(rows)


@dataclass(frozen=True)
class Whisker:
    """One agent's estimated P(correct) with its interval; ``support`` outcomes behind it."""

    name: str
    estimate: float
    low: float
    high: float
    support: float
    chosen: bool = False


def whiskers(rows: Sequence[Whisker]) -> str:
    """Point and interval of each row on one axis from 0 to 100 %."""
    left, right, step = 150.0, _WIDTH - 66, 24.0
    height = step * len(rows) + 26

    def at(v: float) -> float:
        return left + (right - left) * min(max(v, 0.0), 1.0)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = at(tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 22:.0f}" '
            'stroke="var(--cb-line)"/>'
            f'<text x="{x:.1f}" y="{height - 8:.0f}" fill="var(--cb-quiet)" font-size="11" '
            f'text-anchor="middle">{100 * tick:.0f} %</text>'
        )
    for i, r in enumerate(rows):
        y = step * i + 16
        colour = "var(--cb-series-0)" if r.chosen else "var(--cb-quiet)"
        bold = ' font-weight="600"' if r.chosen else ""
        dot = (
            f'<circle cx="{at(r.estimate):.1f}" cy="{y}" r="5" fill="{colour}"/>'
            if r.chosen
            else f'<circle cx="{at(r.estimate):.1f}" cy="{y}" r="4.2" fill="var(--cb-panel)" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(
            f'<text x="0" y="{y + 4}" font-size="12.5"{bold}>{text(_short(r.name))}</text>'
            f'<line x1="{at(r.low):.1f}" x2="{at(r.high):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{colour}" stroke-width="2"/>{dot}'
            f'<text x="{_WIDTH}" y="{y + 4}" fill="var(--cb-quiet)" font-size="11" '
            f'text-anchor="end">n ≈ {r.support:.0f}</text>'
        )
    said = "; ".join(
        f"{r.name} {100 * r.estimate:.0f} % ({100 * r.low:.0f} to {100 * r.high:.0f})" for r in rows
    )
    return _svg(parts, height, f"Estimated chance of being right: {said}")


def calibration_histogram(
    scores: NDArray[np.float64], score: float, threshold: float, *, p_value: float, stratum: str
) -> str:
    """Novelty scores of a stratum's calibration cases, with the threshold and this case.

    Args:
        scores: float64 (n,), higher is stranger.
        threshold: scores at or above it are novel at the policy's α; may be infinite.
    """
    known = np.asarray(scores, np.float64)
    low, high = float(known.min()), float(max(known.max(), score))
    if np.isfinite(threshold) and threshold < known.max() * 10:
        high = max(high, threshold)
    span = max(high - low, 1e-9)
    low, high = low - 0.02 * span, high + 0.04 * span
    counts, edges = np.histogram(known, bins=36, range=(low, high))
    top, base, height = 26.0, 118.0, 144.0

    def at(v: float) -> float:
        return _WIDTH * (v - low) / (high - low)

    tall = max(int(counts.max()), 1)
    parts = []
    if np.isfinite(threshold) and threshold <= high:
        x = at(max(threshold, low))
        parts.append(
            f'<rect x="{x:.1f}" y="{top}" width="{_WIDTH - x:.1f}" height="{base - top}" '
            'fill="var(--cb-review)" opacity="0.12"/>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{base}" stroke="var(--cb-review)" '
            'stroke-width="1.5" stroke-dasharray="4 3"/>'
            + _label(x, base + 13, "novel from here", "var(--cb-review)", 11)
        )
    for n, a, b in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if n:
            h = (base - top) * n / tall
            parts.append(
                f'<rect x="{at(a) + 0.5:.1f}" y="{base - h:.1f}" '
                f'width="{at(b) - at(a) - 1:.1f}" height="{h:.1f}" fill="var(--cb-quiet)" '
                'opacity="0.55"/>'
            )
    x = at(score)
    parts.append(
        f'<line x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}" stroke="var(--cb-line)"/>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{base}" stroke="var(--cb-accent)" '
        'stroke-width="2.5"/>'
        f'<path d="M{x - 5:.1f} {top - 8} h10 l-5 7z" fill="var(--cb-accent)"/>'
        + _label(x, top - 12, f"this case, p = {p_value:.3f}", "var(--cb-accent)", 12.5)
        + f'<text x="0" y="{height - 1}" fill="var(--cb-quiet)" font-size="11">'
        "familiar</text>"
        f'<text x="{_WIDTH}" y="{height - 1}" fill="var(--cb-quiet)" font-size="11" '
        'text-anchor="end">strange</text>'
    )
    beyond = int((known >= score).sum())
    return _svg(
        parts,
        height,
        f"{len(known)} calibration cases of {stratum}; {beyond} are at least as strange as this "
        f"case, p = {p_value:.3f}",
    )


def _label(x: float, y: float, words: str, colour: str, size: float) -> str:
    anchor = "start" if x < 70 else "end" if x > _WIDTH - 70 else "middle"
    return (
        f'<text x="{x:.1f}" y="{y:.0f}" font-size="{size}" font-weight="600" '
        f'text-anchor="{anchor}" style="fill:{colour}">{text(words)}</text>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="{text(label)}" '
        f'fill="var(--cb-ink)" font-family="Source Sans, sans-serif">{"".join(parts)}</svg>'
    )
