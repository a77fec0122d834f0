"""The few-shot curves as one picture: how well with so many labels, and when as well as whom."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from curbside.evals.curve_text import lines
from curbside.evals.curves import ALL, Curves
from curbside.storage import write_text

__all__ = ["figure", "write_page"]

#: Arm → what people call it, and its colour (Okabe & Ito 2008, told apart by the colour-blind).
_ARMS = {
    "generalist": ("one generalist, adapted (LoRA)", "#D55E00", "rgba(213,94,0,.15)"),
    "linear": ("linear probe, nothing adapted", "#0072B2", "rgba(0,114,178,.15)"),
}
_TEAM = "#444444"


def figure(curves: Curves) -> Any:
    """A plotly figure: accuracy by labels on the left, labels until matched on the right."""
    from plotly.subplots import make_subplots

    made = make_subplots(
        1,
        2,
        column_widths=[0.52, 0.48],
        horizontal_spacing=0.16,
        subplot_titles=(
            f"How well it reads ({len(curves.specialists)} modalities that have a specialist)",
            "Labels until it reads as well as the specialist",
        ),
    )
    _accuracy(made, curves)
    _matched(made, curves)
    made.update_layout(
        template="plotly_white",
        height=520,
        margin={"t": 60, "b": 110, "l": 60, "r": 20},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        font={"size": 13},
    )
    return made


def write_page(curves: Curves, path: Path) -> None:
    """One self-contained page: the picture, how to read it, the table.  Raises StorageError."""
    import plotly.io as pio

    plot = pio.to_html(
        figure(curves), full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    draws = max((len(curves.of(p.arm, p.shots)) for p in curves.points), default=0)
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<title>curbside: how many labels?</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:1160px;margin:24px auto;padding:0 20px}"
        "pre{background:#f6f7f8;padding:12px;overflow-x:auto;font-size:.85rem}</style></head><body>"
        "<h1>How many labelled cases does the generalist need?</h1>"
        "<p>Left: share of test cases read right, mean over modalities, against the number of "
        "labelled cases it was given. The band is the range over "
        f"{draws} draws of cases and seeds. The dashed line is the team of specialists, each "
        "trained on every labelled case of its modality. Right: the number of labelled cases of a "
        "modality at which the reader first matches that modality's specialist; in the column "
        "<i>never</i> it did not, with all of them.</p>"
        f"{plot}<pre>{escape(chr(10).join(lines(curves)))}</pre>"
        "<p>Research software, not a medical device. Not for clinical decisions.</p>"
        "</body></html>\n",
    )


def _accuracy(made: Any, curves: Curves) -> None:
    levels = sorted({p.shots for p in curves.points})
    at = list(range(len(levels)))
    for arm, (title, colour, band) in _ARMS.items():
        there = [
            (i, v) for i, k in enumerate(levels) if (v := curves.accuracy(arm, k, common=True))
        ]
        if not there:
            continue
        x = [i for i, _ in there]
        low, high = [min(v) for _, v in there], [max(v) for _, v in there]
        made.add_scatter(
            x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=band, mode="lines",
            line={"width": 0}, showlegend=False, hoverinfo="skip", row=1, col=1,
        )  # fmt: skip
        made.add_scatter(
            x=x, y=[float(np.mean(v)) for _, v in there], name=title, mode="lines+markers",
            line={"color": colour, "width": 3}, marker={"size": 9}, row=1, col=1,
        )  # fmt: skip
    if curves.specialists:
        team = float(np.mean(list(curves.specialists.values())))
        made.add_scatter(
            x=[at[0], at[-1]], y=[team, team], name=f"specialists together, {100 * team:.0f} %",
            mode="lines", line={"color": _TEAM, "dash": "dash", "width": 2}, row=1, col=1,
        )  # fmt: skip
    total = {p.shots: sum(p.labels.values()) for p in curves.points}
    names = [
        f"{'all' if k >= ALL else k} a finding<br>{total[k]:,} cases" if k in total else ""
        for k in levels
    ]
    made.update_xaxes(
        tickvals=at, ticktext=names, title="labelled cases given", row=1, col=1, zeroline=False
    )
    made.update_yaxes(tickformat=".0%", title="read right", row=1, col=1)


def _matched(made: Any, curves: Curves) -> None:
    given: dict[str, int] = {}
    for p in curves.points:
        for task, n in p.labels.items():
            if task in curves.modality:
                given[task] = max(given.get(task, 0), n)
    whole: dict[str, int] = {}
    for task, n in given.items():
        whole[curves.modality[task]] = whole.get(curves.modality[task], 0) + n
    rows = sorted(curves.specialists)
    end = 2.5 * max([whole.get(m, 1) for m in rows], default=10)
    # side by side, so that one that never got there hides no other
    for shift, (arm, (title, colour, _)) in zip((-0.14, 0.14), _ARMS.items(), strict=True):
        if arm not in curves.met:
            continue
        found = [curves.met[arm][m] for m in rows]
        made.add_scatter(
            x=[end if f is None else f for f in found], y=[i + shift for i in range(len(rows))],
            mode="markers", name=title,
            marker={
                "color": colour, "size": 11, "line": {"color": colour, "width": 2},
                "symbol": ["x-thin" if f is None else "circle" for f in found],
            },
            showlegend=False, row=1, col=2,
        )  # fmt: skip
    made.add_scatter(
        x=[whole.get(m) for m in rows], y=list(range(len(rows))), mode="markers", row=1, col=2,
        name="labels that the specialist had",
        marker={"symbol": "line-ns", "size": 12, "line": {"color": _TEAM, "width": 2}},
    )  # fmt: skip
    ticks = [n for n in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if n < end / 1.5]
    made.update_xaxes(
        type="log", tickvals=[*ticks, end], ticktext=[*map(str, ticks), "never"],
        title="labelled cases of the modality", row=1, col=2,
    )  # fmt: skip
    made.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[m.replace("_", " ") for m in rows],
        autorange="reversed", row=1, col=2,
    )  # fmt: skip
