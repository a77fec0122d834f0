"""The table of :mod:`curbside.evals.small_vlm`: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from curbside.evals.small_vlm import CONTROLS, Row

if TYPE_CHECKING:
    from pathlib import Path

    from curbside.evals.schema import Summary

__all__ = ["lines", "place_lines", "write_report"]

_TITLES = {"without": "no image", "blank": "blank", "shuffled": "shuffled"}
_HEAD = ("question", "n", "with image", "seeds", *_TITLES.values(), "others", "skill")


def lines(rows: Sequence[Row]) -> list[str]:
    """One line a row, in percent; ``skill`` only where every control lies below."""
    table = [_HEAD, *(_cells(r) for r in rows)]
    widths = [max(len(r[i]) for r in table) for i in range(len(_HEAD))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]


def write_report(rows: Sequence[Row], facts: Mapping[str, str], folder: Path) -> None:
    """``results.json`` and ``results.md``.  Raises StorageError."""
    from curbside.storage import write_text

    found = [{**asdict(r), "skill": r.skill} for r in rows]
    write_text(folder / "results.json", json.dumps({"facts": dict(facts), "rows": found}, indent=1))
    head = [f"- {k}: {v}" for k, v in facts.items()]
    table = ["| " + " | ".join(_HEAD) + " |", "| " + " | ".join("---" for _ in _HEAD) + " |"]
    table += ["| " + " | ".join(_cells(r)) + " |" for r in rows]
    over = ["", "With the image minus each control, points:", ""]
    over += [
        f"- {r.name}: " + ", ".join(f"{_title(k)} {_points(v)}" for k, v in r.over.items())
        for r in rows
    ]
    body = ["# Small VLM", "", *head, "", *table, *over, ""]
    write_text(folder / "results.md", "\n".join(body))


def place_lines(summary: Summary, agent: str = "small-vlm") -> list[str]:
    """Whether the agent earns a place: what the pool of all readers gains by it."""
    found = [r for r in (summary.details.pool if summary.details else []) if r.without == agent]
    if not found:
        return [f"{agent}: not among the readers that are weighed against each other"]
    gain = found[0].gain
    if gain.value is None or gain.ci_low is None or gain.ci_high is None:
        return [f"{agent}: what the pool gains by it is not known"]
    verdict = "earns its place" if gain.ci_low > 0 else "does not earn a place"
    return [
        f"{agent} {verdict}: all readers with it minus without it "
        f"{100 * gain.value:+.1f} points [{100 * gain.ci_low:+.1f}, {100 * gain.ci_high:+.1f}]"
    ]


def _cells(row: Row) -> tuple[str, ...]:
    value, low, high = row.value
    others = [f"{k} {100 * v[0]:.1f}" for k, v in row.controls.items() if k not in CONTROLS]
    return (
        row.name,
        str(row.n),
        f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        " ".join(f"{100 * s:.1f}" for s in row.seeds),
        *(f"{100 * row.controls[k][0]:.1f}" for k in CONTROLS),
        ", ".join(others) or "–",
        "yes" if row.skill else "not shown",
    )


def _title(control: str) -> str:
    return _TITLES.get(control, control)


def _points(found: tuple[float, float, float]) -> str:
    value, low, high = found
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
