"""One self-contained HTML page from a summary: table, verdict, plots; no network needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.agents.model_card import as_html
from curbside.evals.detail_tables import detail_tables, uncorrected
from curbside.evals.schema import Summary
from curbside.evals.shown import Shown
from curbside.evals.table import (
    AGENT_CONTROLS_ARE,
    CONTROLS_ARE,
    REGISTERED_ARE,
    agent_controls,
    control_cells,
    lines,
    number,
    percent,
    rows,
    shown_arms,
    shown_controls,
    source_of,
    span,
)
from curbside.storage import write_text

__all__ = ["Histogram", "novelty_histogram", "render_report", "write_report"]

#: Fill and line colours by kind of arm; the same in every plot.
COLOURS = {
    "alone": "#4c6a92",
    "colleague": "#4c6a92",
    "ensemble": "#8a6fa8",
    "hybrid": "#c4572e",
    "baseline": "#8c8c8c",
    "linear": "#b0a160",
    "oracle": "#5f9e6e",
    "served": "#c4572e",
}
#: Lines and bars of single arms, told apart without colour vision (Okabe & Ito 2008).
_ARMS = {"S": "#0072b2", "G16": "#56b4e9", "Gfull": "#e69f00", "E": "#7f6aa8"}
_HYBRID = "#c4572e"
_INK = "#76808b"
#: tier → (bin edges, share of its cases in each bin)
Histogram = dict[str, tuple[list[float], list[float]]]


def novelty_histogram(
    score: NDArray[np.float64], tier: NDArray[np.str_], usable: NDArray[np.bool_], bins: int = 60
) -> Histogram:
    """Shares of common, rare and novel cases by novelty score."""
    if not usable.any():
        return {}
    low, high = np.quantile(score[usable], [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    out: Histogram = {}
    for name in ("common", "rare", "novel"):
        values = np.clip(score[usable & (tier == name)], edges[0], edges[-1])
        if len(values):
            count = np.histogram(values, edges)[0] / len(values)
            out[name] = (edges.round(4).tolist(), count.round(5).tolist())
    return out


def render_report(
    summary: Summary,
    histogram: Histogram | None = None,
    cards: Mapping[str, str] = MappingProxyType({}),
    shown: Sequence[Shown] = (),
) -> str:
    """The page.

    Args:
        histogram: from :func:`novelty_histogram`; left out where None.
        cards: model cards in Markdown, by agent.
        shown: cases whose images the page is to hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("curbside.evals", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plots = [
        (title, text, Markup(_html(figure))) for title, text, figure in _plots(summary, histogram)
    ]
    beside = [c.id for c in summary.contrasts if c.p_holm is None]
    return environment.get_template("report.html").render(
        s=summary,
        rows=rows(summary),
        rows_are=uncorrected(len(rows(summary))),
        lines=lines(summary, agents=False),
        beside=beside,
        beside_are=uncorrected(len(beside)),
        agents=agent_controls(summary),
        agents_are=AGENT_CONTROLS_ARE,
        plots=plots,
        tables=detail_tables(summary),
        plotly=Markup(get_plotlyjs()),
        percent=percent,
        span=span,
        number=number,
        source=source_of,
        control_cells=control_cells,
        controls_are=CONTROLS_ARE,
        controls=shown_controls(summary),
        cards={name: Markup(as_html(page)) for name, page in cards.items()},
        shown=shown,
    )


def write_report(
    summary: Summary,
    path: Path,
    histogram: Histogram | None = None,
    cards: Mapping[str, str] = MappingProxyType({}),
    shown: Sequence[Shown] = (),
) -> None:
    """Write the page atomically; see :func:`render_report`.  Raises StorageError."""
    write_text(path, render_report(summary, histogram, cards, shown))


def _plots(summary: Summary, histogram: Histogram | None) -> list[tuple[str, str, Any]]:
    out = [
        (
            "Contrasts",
            "Registered comparisons: the hybrid minus each opponent, with 95 % intervals. Right of "
            f"the line the hybrid is better. {REGISTERED_ARE}",
            _forest(summary),
        ),
        (
            "Accuracy of every arm",
            "Macro over modalities, gate off, with 95 % intervals, not corrected for their number.",
            _accuracy(summary),
        ),
        (
            "Deferral",
            "Net benefit when a share of the cases is referred to a person, each arm under its "
            "better gate; novel cases weigh 10 %.",
            _deferral(summary),
        ),
        (
            "By modality",
            "Accuracy of the arms alone and of the hybrid.",
            _modalities(summary),
        ),
        (
            "Cost and accuracy",
            "Calls a case and accuracy. The line is the zero router: what models alone and their "
            "average give without choosing; a router pays where its points lie above it.",
            _frontier(summary),
        ),
        (
            "Reliability",
            "How often an answer of some confidence is right; on the line it is as often as it "
            "says. One dot a bin of cases, larger with more of them, one sign a modality; the "
            "interval is told at a dot. The hybrid put forward.",
            _reliability(summary),
        ),
    ]
    if histogram:
        out.append(
            (
                "Novelty",
                "Novelty score of common, rare and novel cases, from pixels alone.",
                _histogram(histogram),
            )
        )
    return [p for p in out if p[2] is not None]


def _html(figure: Any) -> str:
    import plotly.io as pio

    return str(
        pio.to_html(figure, full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    )


def _figure(traces: Sequence[Any], height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure(list(traces))
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 34, "b": 40},
        template="plotly_white",
        # readable on a light page and on a dark one
        font={"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.18},
        **layout,
    )
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(automargin=True, **grid)
    return figure


def _forest(s: Summary) -> Any:
    import plotly.graph_objects as go

    found = [c for c in s.contrasts if c.p_holm is not None and c.delta is not None][::-1]
    if not found:
        return None
    y = [f"{c.id.split(':')[0]}  {c.a} − {c.b}" for c in found]
    trace = go.Scatter(
        x=[c.delta for c in found],
        y=y,
        mode="markers",
        marker={"color": COLOURS["hybrid"], "size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [(c.ci_high or 0) - (c.delta or 0) for c in found],
            "arrayminus": [(c.delta or 0) - (c.ci_low or 0) for c in found],
        },
        customdata=[[c.p_holm, c.minimum_detectable, c.verdict] for c in found],
        hovertemplate="%{y}: %{x:.3f}<br>p (Holm) %{customdata[0]:.3f}<br>"
        "minimum detectable %{customdata[1]:.3f}<br>%{customdata[2]}<extra></extra>",
    )
    figure = _figure(
        [trace], 90 + 34 * len(found), xaxis_title="difference (P1: accuracy, P2: net benefit)"
    )
    figure.add_vline(x=0, line_color=_INK, line_width=1)
    return figure


def _accuracy(s: Summary) -> Any:
    import plotly.graph_objects as go

    names = [a for a in shown_arms(s) if s.arms[a].accuracy.value is not None]
    names += [a for a in ("linear-16", "task-oracle", "twin-oracle") if a in s.arms]
    if not names:
        return None
    names = names[::-1]
    value = [s.arms[a].accuracy for a in names]
    trace = go.Bar(
        x=[100 * (v.value or 0) for v in value],
        y=names,
        orientation="h",
        marker_color=[COLOURS[s.arms[a].kind] for a in names],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * ((v.ci_high or 0) - (v.value or 0)) for v in value],
            "arrayminus": [100 * ((v.value or 0) - (v.ci_low or 0)) for v in value],
            "color": _INK,
        },
        hovertext=[s.arms[a].about for a in names],
    )
    return _figure([trace], 90 + 26 * len(names), xaxis_title="accuracy, %")


def _deferral(s: Summary) -> Any:
    import plotly.graph_objects as go

    dash = {"hybrid": "solid", "alone": "dot", "ensemble": "dash"}
    traces = []
    for name in ("S", "G16", "Gfull", "E", s.decision.hybrid):
        gates = s.arms[name].gates if name in s.arms else None
        if gates is None or name not in s.deferral_curves:
            continue
        kind = s.arms[name].kind
        traces.append(
            go.Scatter(
                x=[100 * b for b in s.curve_budgets],
                y=s.deferral_curves[name][gates.better],
                name=f"{name} ({gates.better} gate)",
                mode="lines",
                line={
                    "dash": dash.get(kind, "solid"),
                    "width": 3 if kind == "hybrid" else 2,
                    "color": _ARMS.get(name, _HYBRID),
                },
            )
        )
    if not traces:
        return None
    return _figure(traces, 420, xaxis_title="referred to a person, %", yaxis_title="net benefit")


def _modalities(s: Summary) -> Any:
    import plotly.graph_objects as go

    traces = []
    for name in ("S", "Gfull", s.decision.hybrid):
        if name not in s.arms:
            continue
        by = {m: e for m, e in s.arms[name].accuracy.per_modality.items() if e.value is not None}
        if by:
            traces.append(
                go.Bar(
                    x=list(by),
                    y=[100 * (e.value or 0) for e in by.values()],
                    name=name,
                    marker_color=_ARMS.get(name, _HYBRID),
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": [100 * ((e.ci_high or 0) - (e.value or 0)) for e in by.values()],
                        "arrayminus": [
                            100 * ((e.value or 0) - (e.ci_low or 0)) for e in by.values()
                        ],
                        "thickness": 1,
                    },
                )
            )
    return _figure(traces, 420, yaxis_title="accuracy, %", barmode="group") if traces else None


def _frontier(s: Summary) -> Any:
    import plotly.graph_objects as go

    f = None if s.details is None else s.details.frontier
    if f is None:
        return None
    known = set(shown_arms(s))
    shown = [p for p in f.points if p[0] in known and p[2] is not None]
    names, places = _apart(s, shown, [f.zero, *f.routers.values()])
    traces = [
        go.Scatter(
            x=[p[0] for p in f.zero],
            y=[100 * (p[1] or 0) for p in f.zero],
            name="zero router",
            mode="lines",
            line={"color": _INK, "dash": "dot"},
        ),
        *(
            go.Scatter(
                x=[p[0] for p in points],
                y=[100 * (p[1] or 0) for p in points],
                name=f"{name}, every threshold",
                mode="lines+markers",
                line={"color": COLOURS["hybrid"], "dash": dash},
            )
            for (name, points), dash in zip(f.routers.items(), ("solid", "dash"), strict=False)
        ),
        go.Scatter(
            x=[p[1] for p in shown],
            y=[100 * (p[2] or 0) for p in shown],
            text=names,
            hovertext=[p[0] for p in shown],
            name="arms",
            mode="markers+text",
            textposition=places,
            marker={"color": [COLOURS[s.arms[p[0]].kind] for p in shown], "size": 9},
        ),
    ]
    return _figure(traces, 440, xaxis_title="calls a case", yaxis_title="accuracy, %")


def _apart(
    s: Summary,
    points: Sequence[tuple[str, float | None, float | None]],
    drawn: Sequence[Sequence[tuple[float | None, float | None]]] = (),
) -> tuple[list[str], list[str]]:
    """The names of points and where each stands; "" where it would cover a name or a point.

    The hybrid's comes first.  Above its point, or below where a line would run through it.

    Args:
        drawn: lines of (calls, accuracy), by calls.
    """
    calls = [p[1] or 0.0 for p in points]
    span = max(calls, default=0.0) - min(calls, default=0.0) or 1.0
    values = [p[2] or 0.0 for p in points]
    high = max(values, default=0.0) - min(values, default=0.0) or 1.0
    named: list[tuple[float, float]] = []
    names, places = [""] * len(points), ["top center"] * len(points)

    def free(x: float, y: float) -> bool:
        dots = zip(calls, values, strict=True)
        return not any(
            abs(x - a) < 0.12 * span and abs(y - b) < 0.055 * high for a, b in named
        ) and not any(abs(x - a) < 0.04 * span and abs(y - b) < 0.03 * high for a, b in dots)

    def crossed(x: float, y: float) -> bool:
        for line in drawn:
            at = np.array([p[0] or 0.0 for p in line]), np.array([p[1] or 0.0 for p in line])
            if (
                at[0].size
                and at[0][0] <= x <= at[0][-1]
                and abs(np.interp(x, *at) - y) < 0.03 * high
            ):
                return True
        return False

    for i in sorted(range(len(points)), key=lambda i: points[i][0] != s.decision.hybrid):
        x, above, below = calls[i], values[i] + 0.045 * high, values[i] - 0.045 * high
        if not free(x, above):
            continue
        under = crossed(x, above) and not crossed(x, below) and free(x, below)
        named.append((x, below if under else above))
        names[i], places[i] = points[i][0], "bottom center" if under else "top center"
    return names, places


def _reliability(s: Summary) -> Any:
    import plotly.graph_objects as go

    by = None if s.details is None else s.details.reliability.get(s.decision.hybrid)
    if not by:
        return None
    traces = [
        go.Scatter(
            x=[b.confidence for b in bins],
            y=[b.accuracy for b in bins],
            text=[f"{b.n} cases, 95 %: {b.ci_low or 0:.2f} to {b.ci_high or 0:.2f}" for b in bins],
            name=modality,
            mode="markers",
            marker={"size": [5 + b.n**0.5 for b in bins], "opacity": 0.7, "symbol": i % 10},
        )
        for i, (modality, bins) in enumerate(by.items())
    ]
    line = go.Scatter(
        x=[0, 1], y=[0, 1], name="as it says", mode="lines", line={"color": _INK, "dash": "dot"}
    )
    return _figure([line, *traces], 480, xaxis_title="confidence", yaxis_title="share right")


def _histogram(histogram: Histogram) -> Any:
    import plotly.graph_objects as go

    colour = {"common": "#4c6a92", "rare": "#b0a160", "novel": "#c4572e"}
    traces = [
        go.Bar(
            x=[(a + b) / 2 for a, b in pairwise(edges)],
            y=[100 * v for v in share],
            name=tier,
            marker_color=colour[tier],
            opacity=0.65,
        )
        for tier, (edges, share) in histogram.items()
    ]
    return _figure(
        traces,
        360,
        xaxis_title="novelty score",
        yaxis_title="cases of the tier, %",
        barmode="overlay",
        bargap=0,
    )
