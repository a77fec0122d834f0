"""Familiar cases flagged, by calibration stratum, and the band that chance allows: one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curbside.evals.familiarity import Band
from curbside.indexes.conformal import POOLED
from curbside.storage import write_text

__all__ = ["figure", "write_page"]

# Okabe & Ito 2008, told apart by the colour-blind
_BAND, _INSIDE, _ABOVE, _PROMISED = "#BBBBBB", "#0072B2", "#D55E00", "#444444"


def figure(bands: Sequence[Band]) -> Any:
    """A plotly figure: a panel for each α, a row for each stratum.

    Args:
        bands: as from :func:`~curbside.evals.familiarity.bands`; at least one.
    """
    from plotly.subplots import make_subplots

    alphas = sorted({b.alpha for b in bands})
    strata = list(dict.fromkeys(b.stratum for b in bands))
    made = make_subplots(
        1,
        len(alphas),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"promised: at most {a:.0%}" for a in alphas],
    )
    for column, alpha in enumerate(alphas, 1):
        mine = {b.stratum: b for b in bands if b.alpha == alpha}
        _panel(made, column, alpha, [mine[s] for s in strata if s in mine], strata)
    made.update_yaxes(
        tickvals=list(range(len(strata))),
        ticktext=["pooled" if s == POOLED else s.replace("_", " ") for s in strata],
        range=[len(strata) - 0.4, -0.6],
    )
    made.update_layout(
        template="plotly_white",
        height=150 + 26 * len(strata),
        margin={"t": 50, "b": 90, "l": 20, "r": 20},
        legend={"orientation": "h", "x": 0, "y": -0.16},
        font={"size": 13},
    )
    return made


def write_page(bands: Sequence[Band], path: Path) -> None:
    """One self-contained page: the picture and how to read it.  Raises StorageError."""
    import plotly.io as pio

    plot = pio.to_html(
        figure(bands), full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<title>curbside: familiar cases flagged</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:1160px;margin:24px auto;padding:0 20px}"
        "</style></head><body><h1>Familiar cases called novel</h1>"
        "<p>A dot is the share of held-back familiar cases with p ≤ α, each group weighing the "
        "same; the dashed line is α. The bar is where 95 % of all indexes would have every "
        "dot at once, if held-back cases were like those that calibrate (beta-binomial). "
        "Left of the bar is no fault: fewer cases go to people. A wide bar proves little.</p>"
        f"{plot}<p>Research software, not a medical device. Not for clinical decisions.</p>"
        "</body></html>\n",
    )


def _panel(made: Any, column: int, alpha: float, bands: Sequence[Band], strata: list[str]) -> None:
    first = column == 1
    x: list[float | None] = []
    y: list[int | None] = []
    for b in bands:  # None: a gap between one stratum's bar and the next
        x.extend((b.low, b.high, None))
        y.extend((strata.index(b.stratum), strata.index(b.stratum), None))
    made.add_scatter(
        x=x, y=y, mode="lines", name="what chance allows",
        line={"color": _BAND, "width": 9}, hoverinfo="skip", showlegend=first, row=1, col=column,
    )  # fmt: skip
    for inside, name, colour in ((True, "flagged", _INSIDE), (False, "flagged, above", _ABOVE)):
        mine = [b for b in bands if b.inside == inside]
        # a dot that is nowhere keeps the legend the same, whatever was found
        at: list[tuple[float, int] | tuple[None, None]] = [
            (b.flagged, strata.index(b.stratum)) for b in mine
        ]
        at = at or [(None, None)]
        made.add_scatter(
            x=[share for share, _ in at], y=[row for _, row in at],
            text=[f"{b.cases} cases, {b.groups} groups, n = {b.calibration}" for b in mine],
            mode="markers", name=name, marker={"color": colour, "size": 9},
            showlegend=first, row=1, col=column,
        )  # fmt: skip
    made.add_vline(x=alpha, line={"color": _PROMISED, "dash": "dash", "width": 1.5}, col=column)
    made.update_xaxes(
        tickformat=".0%", title="share flagged", range=[-0.01, _end(bands)], row=1, col=column
    )


def _end(bands: Sequence[Band]) -> float:
    return 1.05 * max(0.05, *(max(b.high, b.flagged) for b in bands))
