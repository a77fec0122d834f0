"""The study behind this project, replayed: what routing could have gained on its own numbers.

241 cells, one a dataset, model and adaptation (AUROC for diagnosis, accuracy for closed VQA),
of "Can Generalist Vision Language Models (VLMs) Rival Specialist Medical VLMs?"
(arXiv 2506.17337), as tidied from the bootstrap result files in the authors' public repository.
A cell is a whole dataset: the oracle here chooses a model per *dataset*, and no paired
statistics over cases are claimed.  ``ood`` is the authors' flag, relative to the model's
pre-training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from curbside.evals.schema import Summary

__all__ = [
    "PUBLISHED",
    "SOURCE",
    "Replay",
    "cell_means",
    "figure",
    "lines",
    "load",
    "replay",
    "write_page",
]

PUBLISHED = Path(__file__).parent / "published_results.csv"
SOURCE = "arXiv 2506.17337, tidied from the authors' bootstrap result files"
#: task, adaptation: the settings in which every model answers every dataset it is compared on.
SETTINGS = (
    ("diagnosis", "off_the_shelf"),
    ("diagnosis", "linear_probe"),
    ("diagnosis", "lora"),
    ("vqa_closed", "off_the_shelf"),
    ("vqa_closed", "ML"),
)


@dataclass(frozen=True)
class Replay:
    """One setting: what single models, fixed rules and an oracle reach, mean over datasets.

    Args:
        models: those with a cell on every dataset; the others take no part.
        rule: in-domain specialist where there is one, else a generalist, each chosen on the
            *other* datasets; NaN without the authors' domain flag.
        rule_hindsight: the same, chosen on the very dataset: what nobody can know beforehand.
        chosen: the model best on the other datasets, dataset by dataset.
    """

    task: str
    adaptation: str
    datasets: int
    models: int
    best_single: str
    single: float
    chosen: float
    rule: float
    rule_hindsight: float
    oracle: float

    @property
    def gain(self) -> float:
        """What the dataset oracle has over the best single model."""
        return self.oracle - self.single


def load() -> pd.DataFrame:
    """The published cells: task, dataset, model, model_type, adaptation, value, ood …"""
    import pandas as pd

    return pd.read_csv(PUBLISHED)


def cell_means(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(adaptation, group) → mean over diagnosis cells; groups as in the study.

    ``specialist in domain``, ``specialist out of domain``, ``generalist``.
    """
    d = table[table.task == "diagnosis"]
    groups = {
        "specialist in domain": (d.model_type == "medical") & (d.ood == 0),
        "specialist out of domain": (d.model_type == "medical") & (d.ood == 1),
        "generalist": d.model_type == "general",
    }
    return {
        (adaptation, name): float(d[rows & (d.adaptation == adaptation)].value.mean())
        for adaptation in ("off_the_shelf", "linear_probe", "lora")
        for name, rows in groups.items()
    }


def replay(table: pd.DataFrame, task: str, adaptation: str) -> Replay:
    """Single models, rules and the dataset oracle in one setting."""
    cells = table[(table.task == task) & (table.adaptation == adaptation)]
    medical = set(cells[cells.model_type == "medical"].model)
    by: dict[str, dict[str, float]] = {}
    home_of: dict[str, set[str]] = {}
    for row in cells.itertuples():
        by.setdefault(str(row.dataset), {})[str(row.model)] = float(row.value)  # type: ignore[arg-type]  # a column of floats; pandas-stubs says any scalar
        if row.ood == 0 and row.model in medical:
            home_of.setdefault(str(row.dataset), set()).add(str(row.model))
    models = sorted(set.intersection(*(set(v) for v in by.values())))
    general = [m for m in models if m not in medical]
    mean = {m: float(np.mean([v[m] for v in by.values()])) for m in models}
    chosen, rules, hindsight = [], [], []
    for dataset, value in by.items():
        rest = {m: sum(v[m] for d, v in by.items() if d != dataset) for m in models}
        chosen.append(value[max(models, key=rest.__getitem__)])
        home = [m for m in models if m in home_of.get(dataset, ())]
        rules.append(value[max(home or general, key=rest.__getitem__)])
        known = max(value[m] for m in home) if home else value[max(general, key=mean.__getitem__)]
        hindsight.append(known)
    best = max(models, key=mean.__getitem__)
    flagged = bool(cells.ood.notna().all())
    return Replay(
        task=task,
        adaptation=adaptation,
        datasets=len(by),
        models=len(models),
        best_single=best,
        single=mean[best],
        chosen=float(np.mean(chosen)),
        rule=float(np.mean(rules)) if flagged else float("nan"),
        rule_hindsight=float(np.mean(hindsight)) if flagged else float("nan"),
        oracle=float(np.mean([max(v[m] for m in models) for v in by.values()])),
    )


def lines(table: pd.DataFrame, ours: Summary | None = None) -> list[str]:
    """For people: means of the cells, every setting, and our benchmark beside it."""
    means = cell_means(table)
    out = [f"published cells: {len(table)} ({SOURCE})", "", "diagnosis, mean AUROC over cells"]
    for adaptation in ("off_the_shelf", "linear_probe", "lora"):
        by = ", ".join(f"{g} {100 * v:.1f}" for (a, g), v in means.items() if a == adaptation)
        out.append(f"  {adaptation.replace('_', ' '):<14} {by}")
    out += ["", "mean over datasets; the oracle chooses a model a dataset, not a case"]
    head = ("single", "chosen", "rule", "rule*", "oracle", "gain")
    out.append(f"  {'setting':<27}" + "".join(f"{h:>8}" for h in head) + "  best single model")
    for task, adaptation in SETTINGS:
        r = replay(table, task, adaptation)
        numbers = (r.single, r.chosen, r.rule, r.rule_hindsight, r.oracle, r.gain)
        shown = "".join("       –" if np.isnan(v) else f"{100 * v:8.1f}" for v in numbers)
        name = f"{task.replace('_', ' ')}, {adaptation.replace('_', ' ')}"
        out.append(f"  {name:<27}{shown}  {r.best_single} ({r.models} models, {r.datasets} sets)")
    out += [
        "  chosen: the model best on the other datasets; rule: in-domain specialist, else",
        "  generalist, each best on the other datasets; rule*: the same with hindsight",
    ]
    if ours is not None:
        shown = ", ".join(f"{title} {100 * v:.1f}" for title, v in _ours(ours).items())
        out += ["", f"here ({ours.cases.manifest}, accuracy macro over modalities): {shown}"]
    return out


def _ours(summary: Summary) -> dict[str, float]:
    """Title → accuracy of the arms that stand beside the study's."""
    d = summary.decision
    titles = {
        f"best alone ({d.best_single})": d.best_single,
        f"hybrid ({d.hybrid})": d.hybrid,
        "case oracle": "case-oracle",
    }
    found = {t: summary.arms[a].accuracy.value for t, a in titles.items() if a in summary.arms}
    return {t: v for t, v in found.items() if v is not None}


def figure(table: pd.DataFrame, ours: Summary | None = None) -> Any:
    """A plot of every setting, with our arms beside it (plotly)."""
    import plotly.graph_objects as go

    rows = [replay(table, t, a) for t, a in SETTINGS]
    names = [f"{r.task.replace('_', ' ')}<br>{r.adaptation.replace('_', ' ')}" for r in rows]
    series: list[tuple[str, str, str, list[float]]] = [
        ("best single model", "circle", "#4c6a92", [r.single for r in rows]),
        ("chosen on other datasets", "circle-open", "#4c6a92", [r.chosen for r in rows]),
        ("in-domain rule", "diamond", "#c4572e", [r.rule for r in rows]),
        ("dataset oracle", "star", "#5f9e6e", [r.oracle for r in rows]),
    ]
    figure = go.Figure()
    for name, symbol, colour, values in series:
        figure.add_scatter(
            x=names,
            y=[100 * v for v in values],
            name=name,
            mode="markers",
            marker={"size": 12, "symbol": symbol, "color": colour},
        )
    looks = (("circle", "#4c6a92"), ("diamond", "#c4572e"), ("star", "#5f9e6e"))
    beside = {} if ours is None else _ours(ours)
    for (name, value), (symbol, colour) in zip(beside.items(), looks, strict=False):
        figure.add_scatter(
            x=["here<br>accuracy"],
            y=[100 * value],
            name=f"here: {name}",
            mode="markers",
            marker={"size": 12, "symbol": symbol, "color": colour, "line": {"width": 2}},
        )
    figure.update_layout(
        template="plotly_white",
        height=460,
        yaxis_title="AUROC or accuracy, %",
        legend={"orientation": "h", "y": -0.2},
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 10, "r": 10, "t": 20, "b": 40},
    )
    return figure


def write_page(table: pd.DataFrame, ours: Summary | None, path: Path) -> None:
    """One self-contained page: the plot and the lines.  Raises StorageError."""
    from html import escape

    import plotly.io as pio

    from curbside.storage import write_text

    text = "\n".join(lines(table, ours))
    plot = pio.to_html(
        figure(table, ours), full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<title>curbside: the published study, replayed</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:1060px;margin:24px auto;padding:0 20px}"
        "pre{background:#f6f7f8;padding:12px;overflow-x:auto;font-size:.85rem}</style></head><body>"
        "<h1>The published study, replayed</h1><p>No cell is a case: the oracle chooses a model a "
        "dataset. Numbers of different tasks stand side by side, they do not compare.</p>"
        f"{plot}<pre>{escape(text)}</pre></body></html>\n",
    )
