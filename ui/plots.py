"""Interactive plots of the lab and the index, in the console's palette; plain data in, figure out.

Series differ by colour, dash and marker, so that no plot needs colour to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curbside.ui.theme import Palette

__all__ = ["cost_quality", "deferral", "embedding_map", "regret_bars", "reliability"]

_DASH = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARK = ("circle", "diamond", "square", "triangle-up", "x", "cross", "star")
_SERIF = '"Source Sans", sans-serif'


def _figure(p: Palette, height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _SERIF, "size": 13, "color": p.ink},
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "itemsizing": "constant",
            "font": {"size": 12},
        },
        hoverlabel={"bgcolor": p.panel, "font": {"color": p.ink}, "bordercolor": p.line},
        **layout,
    )
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(
            gridcolor=p.line,
            zerolinecolor=p.line,
            linecolor=p.line,
            title_font={"color": p.quiet, "size": 12.5},
            tickfont={"color": p.quiet},
            automargin=True,
        )
    return figure


def _dash(i: int) -> str:
    """Of the i-th line: where the colours start anew, the dashes have moved on."""
    return _DASH[i % len(_DASH)]


def deferral(
    curves: Mapping[str, Sequence[float | None]], budgets: Sequence[float], p: Palette
) -> Any:
    """Net benefit against the share referred to a person, one line an arm."""
    import plotly.graph_objects as go

    figure = _figure(p, 340)
    for i, (name, values) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=list(budgets),
                y=list(values),
                name=name,
                mode="lines",
                line={"color": p.series[i % 7], "width": 2.2, "dash": _dash(i)},
                hovertemplate="%{x:.1%} referred: %{y:.3f}<extra>" + name + "</extra>",
            )
        )
    figure.update_xaxes(title_text="share of cases referred to a person", tickformat=".0%")
    figure.update_yaxes(title_text="net benefit a case")
    return figure


def cost_quality(points: Sequence[tuple[str, str, float, float, float, float]], p: Palette) -> Any:
    """Accuracy against calls: (arm, kind, cost, accuracy, low, high) each."""
    import plotly.graph_objects as go

    figure = _figure(p, 340)
    kinds = list(dict.fromkeys(kind for _, kind, *_ in points))
    for i, (name, kind, cost, value, low, high) in enumerate(points):
        figure.add_trace(
            go.Scatter(
                x=[cost],
                y=[value],
                name=name,
                mode="markers",
                # shape by kind of arm, colour by arm
                marker={
                    "color": p.series[i % 7],
                    "symbol": _MARK[kinds.index(kind) % 7],
                    "size": 11,
                },
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value],
                    "arrayminus": [value - low],
                    "color": p.quiet,
                    "thickness": 1,
                    "width": 3,
                },
                hovertemplate=f"%{{y:.1%}} at %{{x:.2f}} calls<extra>{name} ({kind})</extra>",
            )
        )
    figure.update_xaxes(title_text="calls a case")
    figure.update_yaxes(title_text="accuracy, macro over modalities", tickformat=".0%")
    return figure


def reliability(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[int]]], p: Palette
) -> Any:
    """Share right against stated confidence: agent → (mean confidence, share right, n) by bin."""
    import plotly.graph_objects as go

    figure = _figure(p, 340)
    figure.add_trace(
        go.Scatter(
            x=[0, 1],
            y=[0, 1],
            mode="lines",
            line={"color": p.quiet, "dash": "dot", "width": 1},
            name="as stated",
            hoverinfo="skip",
        )
    )
    for i, (name, (x, y, n)) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=list(x),
                y=list(y),
                customdata=list(n),
                name=name,
                mode="lines+markers",
                line={"color": p.series[i % 7], "width": 1.8, "dash": _dash(i)},
                marker={"symbol": _MARK[i % 7], "size": 7},
                hovertemplate="says %{x:.0%}, right %{y:.0%} of %{customdata}<extra>"
                + name
                + "</extra>",
            )
        )
    figure.update_xaxes(title_text="stated confidence", tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(title_text="share right", tickformat=".0%", range=[0, 1.02])
    return figure


def regret_bars(counts: Sequence[tuple[str, int, bool]], p: Palette) -> Any:
    """Cases by cause: (cause, n, the router's own fault)."""
    import plotly.graph_objects as go

    figure = _figure(p, 60 + 34 * len(counts), showlegend=False)
    names = [c for c, _, _ in counts][::-1]
    figure.add_trace(
        go.Bar(
            y=names,
            x=[n for _, n, _ in counts][::-1],
            orientation="h",
            marker={
                "color": [p.series[1] if own else p.quiet for _, _, own in counts][::-1],
                "pattern": {"shape": ["" if own else "/" for _, _, own in counts][::-1]},
            },
            text=[str(n) for _, n, _ in counts][::-1],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x} cases<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="cases", rangemode="tozero")
    return figure


def embedding_map(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[str]]],
    new: tuple[Sequence[float], Sequence[float], Sequence[str]] | None,
    p: Palette,
) -> Any:
    """Indexed cases by modality (x, y, hover text), and new cases on top of them."""
    import plotly.graph_objects as go

    figure = _figure(p, 470, dragmode="pan")
    for i, (name, (x, y, words)) in enumerate(groups.items()):
        figure.add_trace(
            go.Scattergl(
                x=list(x),
                y=list(y),
                text=list(words),
                name=name,
                mode="markers",
                marker={
                    "color": p.series[i % 7],
                    "symbol": _MARK[(i // 7) % 7],
                    "size": 5,
                    # the legend's marks have it too, and must be told apart on a dark ground
                    "opacity": 0.9,
                },
                hovertemplate="%{text}<extra>" + name + "</extra>",
            )
        )
    if new is not None and len(new[0]):
        figure.add_trace(
            go.Scattergl(
                x=list(new[0]),
                y=list(new[1]),
                text=list(new[2]),
                name="new cases",
                mode="markers",
                marker={
                    "color": "rgba(0,0,0,0)",
                    "symbol": "circle",
                    "size": 13,
                    "line": {"color": p.ink, "width": 2},
                },
                hovertemplate="%{text}<extra>new</extra>",
            )
        )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return figure
