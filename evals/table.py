"""The table that a person reads in ten seconds, with the verdict below it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curbside.evals.schema import ArmSummary, Control, Estimate, Summary

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AGENT_CONTROLS_ARE",
    "CONTROLS_ARE",
    "REGISTERED_ARE",
    "AgentControls",
    "agent_controls",
    "control_cells",
    "print_summary",
    "rows",
    "shown_arms",
    "shown_controls",
    "source_of",
]

#: Arms in the table, in this order, colleagues after ``E``; the rest is in the report.
SHOWN = (
    "S",
    "G16",
    "Gfull",
    "E",
    "E-consult",
    "H-tier",
    "H-competence",
    "H-cascade",
    "H-consult",
    "H-tier16",
    "random",
    "tags",
    "R-similarity",
    "R-mlp",
    "linear-full",
    "case-oracle",
    "pair-oracle",
)


#: Column heads for 80 columns; the words for them stand under the table.
_HEADS = ("arm", "acc.", "95 %", "common", "rare", "few", "P2", "calls", "ms")
#: Width of the first word of a line, and what its further lines are indented by.
_INDENT = 11


def shown_arms(summary: Summary) -> list[str]:
    """Names of the arms that the table shows, in its order."""
    at = SHOWN.index("E") + 1
    colleagues = [name for name, a in summary.arms.items() if a.kind == "colleague"]
    names = dict.fromkeys([*SHOWN[:at], *colleagues, *SHOWN[at:]])
    return [name for name in names if name in summary.arms]


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """One row an arm: name, accuracy with interval, its tiers, P2, calls, milliseconds."""
    out: list[tuple[str, ...]] = []
    for name in shown_arms(summary):
        a = summary.arms[name]
        tier = a.accuracy.per_tier
        mark = "▶ " if name == summary.decision.hybrid else "  "
        out.append(
            (
                mark + name,
                percent(a.accuracy),
                span(a.accuracy),
                percent(tier.get("common")),
                percent(tier.get("rare")),
                percent(tier.get("rare_finding")),
                _p2(a),
                number(a.cost, 2),
                _milliseconds(a.latency_ms),
            )
        )
    return out


_SOURCES = (
    "accuracy.value",
    "accuracy.ci_low and ci_high",
    "accuracy.per_tier.common.value",
    "accuracy.per_tier.rare.value",
    "accuracy.per_tier.rare_finding.value",
    "gates.p2.value",
    "cost.value",
    "latency_ms.value",
)


def source_of(row: str, column: int) -> str:
    """Where in ``summary.json`` a cell of :func:`rows` comes from (columns count from 0)."""
    return f"summary.json: arms.{row.lstrip('▶ ')}.{_SOURCES[column - 1]}"


def lines(summary: Summary, *, agents: bool = True) -> list[str]:
    """What is below the table: novelty, safety, the comparison, the controls.

    Args:
        agents: with the controls of each agent.
    """
    n, m, d = summary.novelty, summary.modality, summary.decision
    worst = sorted(
        (
            (x.novel_answered.value, name)
            for name, x in n.per_modality.items()
            if x.novel_answered is not None and x.novel_answered.value is not None
        ),
        reverse=True,
    )
    per = ", ".join(f"{name} {100 * v:.0f} %" for v, name in worst)
    v = d.versus_best_single
    return [
        f"modality   common {_pc(m.accuracy_common)}, rare {_pc(m.accuracy_rare)}   "
        f"novel against known: AUROC {_raw(n.auroc_vs_known)}, FPR95 {_pc(n.fpr95)}",
        f"gate       at α = {n.alpha:g} it refers {_pc(n.false_deferral)} of common cases   "
        f"novel answered at 5 %: {_pc(n.novel_answered)}" + (f"  ({per})" if per else ""),
        f"P1         {d.hybrid} − {d.best_single} (best alone, chosen on tune): "
        f"{_points(v.value)} points [{_points(v.ci_low)}, {_points(v.ci_high)}]"
        + _non_inferior(d.not_below_margin, d.margin),
        *_control_lines(summary),
        *(_by_agent(summary) if agents else ()),
    ]


def _non_inferior(shown: bool | None, margin: float) -> str:
    if shown is None:
        return ""
    return f", {'' if shown else 'not shown to be '}non-inferior ({100 * margin:g} points)"


def shown_controls(summary: Summary) -> list[Control]:
    """Those of the whole run, and of single agents only what was found."""
    return [c for c in summary.controls if not c.agent or c.finding == "found"]


def control_cells(c: Control) -> tuple[str, ...]:
    """Name, cases, value, interval, level and finding, in per cent."""

    def share(v: float | None) -> str:
        return "–" if v is None else f"{100 * v:.1f} %"

    span = "–" if c.ci_low is None else f"{share(c.ci_low)} to {share(c.ci_high)}"
    said = {"found": "look here", "not found": "fine"}.get(c.finding, c.finding)
    if c.n and c.value is None:
        said = "too few to assess"
    above = None not in (c.value, c.held_against) and (c.value or 0) > (c.held_against or 0)
    if c.finding == "not found" and above:
        said = "above, within chance"
    name = f"{c.name}, {c.agent}" if c.agent else c.name
    return name, str(c.n), share(c.value), span, share(c.held_against), said


def _control_lines(summary: Summary) -> list[str]:
    """What the controls found; one line where they found nothing."""
    if not summary.controls:
        return []
    found = [c for c in summary.controls if c.finding == "found"]
    assessed = sum(c.finding not in ("not assessable", "reported") for c in summary.controls)
    if not found:
        return [f"controls   {assessed} assessed, none found anything"]
    return [
        f"controls   {c.name}{' of ' + c.agent if c.agent else ''}: {c.about}: {_pc(c.value)} of "
        f"{c.n} (held against {_pc(c.held_against)})"
        for c in found
    ]


@dataclass(frozen=True)
class AgentControls:
    """What agents do without the study's image, and with its options in another order.

    Args:
        head: column names after the agent's; rows: name, cases and shares in per cent each.
        few: agents with too few readings to say anything of.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    few: tuple[str, ...]


def agent_controls(summary: Summary) -> AgentControls:
    """The controls of each agent alone, one row an agent."""
    by: dict[str, dict[str, Control]] = {}
    for c in summary.controls:
        if c.agent:
            by.setdefault(c.agent, {})[c.name] = c
    assessed = {a: found for a, found in sorted(by.items()) if _any_assessed(found)}
    shown = any("option_order_alone" in found for found in assessed.values())
    out = []
    for name, found in assessed.items():
        cells = [_share(found, k) for k in ("blank_image", "noise_image", "shuffled_image")]
        blank = found.get("blank_image")
        held = None if blank is None else blank.held_against
        cells += ["–" if held is None else f"{100 * held:.1f}", _share(found, "option_order")]
        if shown:
            cells += [_share(found, f"option_order_{k}") for k in ("alone", "averaged")]
        out.append((name, str(max(c.n for c in found.values())), *cells))
    return AgentControls(
        ("cases", "blank", "noise", "other", "blind", "order", *(("shown", "mean") * shown)),
        tuple(out),
        tuple(name for name in sorted(by) if name not in assessed),
    )


#: What the registered contrasts rest on.
REGISTERED_ARE = (
    "Conclusions rest on p after Holm over P1 and P2; the 95 % intervals are each its own, before "
    "that correction."
)
#: Said above the controls.
CONTROLS_ARE = (
    "The 95 % intervals are each its own, not corrected for their number; what is found of a "
    "single agent rests on a bound that is."
)
#: What the columns of :func:`agent_controls` are.
AGENT_CONTROLS_ARE = (
    "right, %, on a blank image, noise, another image; blind: the most without an image",
    "order: answers, %, that move when the options are reversed",
)


def _by_agent(summary: Summary) -> list[str]:
    found = agent_controls(summary)
    out = []
    if found.rows:
        width = max(len(r[0]) for r in [*found.rows, ("by agent",)])
        for name, *cells in [("by agent", *found.head), *found.rows]:
            out.append(f"{name:{width}}" + "".join(f"  {c:>5}" for c in cells))
        out += [f"  {line}" for line in AGENT_CONTROLS_ARE]
        if "shown" in found.head:
            out.append("  shown, mean: the same with one order shown, and averaged over several")
    if found.few:
        out.append(f"too few    to assess alone: {', '.join(found.few)}")
    return out


def _any_assessed(found: dict[str, Control]) -> bool:
    return any(c.value is not None for c in found.values())


def _share(found: dict[str, Control], name: str) -> str:
    c = found.get(name)
    return "–" if c is None or c.value is None else f"{100 * c.value:.1f}"


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print table, novelty, verdict and notes; the table fits 80 columns.

    Args:
        console: where to; default: stdout.  On a terminal long lines are broken between words,
            elsewhere they stay whole for whoever searches them.
    """
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False)
    kind = "PHANTOMS (generated pictures), " if summary.phantoms else ""
    table = Table(
        title=f"{kind}{summary.cases.n_scored} cases with a task, {summary.cases.n_novel} novel; "
        "accuracy macro over modalities, every arm answers everything",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    table.add_column(_HEADS[0], overflow="fold")
    for name in _HEADS[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows(summary):
        bold = row[0].startswith("▶")
        table.add_row(*row, style="bold" if bold else None)
    console.print(table)
    console.print()
    for line in lines(summary):
        _print(console, line)
    console.print()
    _print(console, f"VERDICT    {summary.verdict}", "bold")
    for note in summary.notes[:1]:
        _print(console, " " * _INDENT + note, "dim")
    _print(
        console,
        "few: labels of common modalities with at most 16 training cases (few-shot); "
        "P2: mean net benefit when 5, 10 and 20 % are referred, best gate",
        "dim",
    )
    _print(console, summary.research_use, "dim")


def _print(console: Console, line: str, style: str | None = None) -> None:
    if console.is_terminal and len(line) > console.width:
        line = textwrap.fill(
            line,
            console.width,
            subsequent_indent=" " * _INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
    console.print(line, style=style, soft_wrap=True)


def percent(e: Estimate | None) -> str:
    """``71.3``, or – where not assessable."""
    return "–" if e is None or e.value is None else f"{100 * e.value:.1f}"


def span(e: Estimate) -> str:
    """The interval in per cent."""
    if e.ci_low is None or e.ci_high is None:
        return "–"
    return f"{100 * e.ci_low:.1f}–{100 * e.ci_high:.1f}"


def number(e: Estimate, digits: int) -> str:
    """A plain number."""
    return "–" if e.value is None else f"{e.value:.{digits}f}"


def _milliseconds(e: Estimate) -> str:
    """To a tenth; from a hundred on, whole ones."""
    return number(e, 1 if (e.value or 0) < 100 else 0)


def _p2(a: ArmSummary) -> str:
    if a.gates is None or a.gates.p2.value is None:
        return "–"
    return f"{a.gates.p2.value:+.3f}"


def _pc(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _raw(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
