"""The evidence of a selection: JSON for machines, a Markdown table, and a plot of the trade-off."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curbside.indexes.selection import Result
from curbside.indexes.standings import Choice, Standing
from curbside.storage import write_text

__all__ = ["markdown", "plot", "write_selection"]

_SHOWN = 16


def write_selection(
    folder: Path,
    results: Sequence[Result],
    found: Sequence[Standing],
    choice: Choice,
    provenance: dict[str, Any],
) -> None:
    """Write ``selection.json``, ``selection.md`` and ``selection.html``.

    Args:
        provenance: what it was measured on: cases, encoder, roles, date.

    Raises:
        StorageError: a file cannot be written.
    """
    body = {
        "provenance": provenance,
        "configuration": configuration(choice),
        "why": choice.why,
        "standings": [_plain(asdict(s)) for s in found],
        "folds": [
            _plain(asdict(r))
            for r in results
            if (r.projection, r.score) == (choice.standing.projection, choice.score)
        ],
    }
    write_text(folder / "selection.json", json.dumps(body, indent=1) + "\n")
    write_text(folder / "selection.md", markdown(results, found, choice, provenance))
    write_text(folder / "selection.html", plot(results, choice))


def configuration(choice: Choice) -> dict[str, Any]:
    """What ``curbside.yaml`` would hold."""
    return {
        "encoder": {"projection": choice.projection.model_dump(mode="json")},
        "index": {"novelty": choice.score},
    }


def markdown(
    results: Sequence[Result],
    found: Sequence[Standing],
    choice: Choice,
    provenance: dict[str, Any],
) -> str:
    """The standings, and the chosen candidate fold by fold."""
    chosen = choice.standing
    lines = [
        "# Selection of projection and novelty score",
        "",
        ", ".join(f"{k}: {v}" for k, v in provenance.items()),
        "",
        f"Chosen: **{chosen.projection}** with **{chosen.score}**: {choice.why}.",
        "",
        "Far: a modality left out. Near: a finding left out, against others of its modality. "
        "Shift: a source left out; its cases are known, so flags are false alarms. Flagged: at "
        "5 % false alarms among tune cases. Pairs are rank averages and are only measured.",
        "",
        "| projection | score | far AUROC | worst | FPR95 | flagged | near AUROC | worst "
        "| shift flagged | worst | modality right | unchanged |",
        "| --- | --- " + "| ---: " * 10 + "|",
    ]
    single = [s for s in found if s.served]
    pairs = [s for s in found if not s.served][: _SHOWN // 4]
    for s in [*single, *pairs]:
        mark = "**" if s is chosen or s == chosen else ""
        numbers = (
            f"{s.far:.4f} | {s.far_worst:.3f} | {s.far_fpr95:.3f} | {s.far_flagged:.3f} "
            f"| {s.near:.3f} | {s.near_worst:.3f} | {s.shift_flagged:.3f} | {s.shift_worst:.3f} "
            f"| {s.shift_accuracy:.3f} | {s.unchanged:.3f}"
        )
        lines.append(f"| {mark}{s.projection}{mark} | {mark}{s.score}{mark} | {numbers} |")
    lines += [
        "",
        "## The chosen candidate, fold by fold",
        "",
        "| left out | modality | which | cases | AUROC | FPR95 | flagged | modality right |",
        "| --- | --- | --- " + "| ---: " * 5 + "|",
    ]
    for r in results:
        if (r.projection, r.score) == (chosen.projection, chosen.score):
            right = "–" if r.fold.kind == "modality" else f"{r.modality_accuracy:.3f}"
            lines.append(
                f"| {r.fold.kind} | {r.fold.modality} | {r.fold.name} | {r.n} | {r.auroc:.3f} "
                f"| {r.fpr95:.3f} | {r.flagged:.3f} | {right} |"
            )
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Result], choice: Choice) -> str:
    """One self-contained page: AUROC of every fold by kind, the chosen candidate marked."""
    import plotly.graph_objects as go
    import plotly.io as pio

    figure = go.Figure()
    candidates = sorted({(r.projection, r.score) for r in results if " + " not in r.score})
    chosen = (choice.standing.projection, choice.standing.score)
    for kind, colour in (("modality", "#4c6a92"), ("label", "#5f9e6e"), ("source", "#c4572e")):
        rows = [r for r in results if r.fold.kind == kind and " + " not in r.score]
        figure.add_trace(
            go.Box(
                x=[f"{r.projection} {r.score}" for r in rows],
                y=[r.auroc for r in rows],
                text=[f"{r.fold.modality} {r.fold.name}" for r in rows],
                name={"modality": "far", "label": "near", "source": "shift"}[kind],
                boxpoints="all",
                jitter=0.4,
                pointpos=0,
                marker={"size": 4, "color": colour},
            )
        )
    figure.update_layout(
        template="plotly_white",
        boxmode="group",
        title="Held-out cases against known tune cases: far and near should be high, shift low. "
        f"Chosen: {chosen[0]} {chosen[1]}",
        yaxis_title="AUROC, one point a fold",
        xaxis={"categoryorder": "array", "categoryarray": [f"{p} {s}" for p, s in candidates]},
    )
    page: str = pio.to_html(figure, full_html=True, include_plotlyjs=True)
    return page


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
