"""The table that a person reads in ten seconds, with the verdict below it."""

from __future__ import annotations

from curbside.evals.schema import ArmSummary, Control, Estimate, Summary

__all__ = ["control_cells", "print_summary", "rows", "source_of"]

#: Arms in the table, in this order; the rest is in the report.
SHOWN = (
    "S",
    "G16",
    "Gfull",
    "E",
    "linear-lite2",
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


def rows(summary: Summary) -> list[tuple[str, ...]]:
    """One row an arm: name, accuracy with interval, its tiers, P2, calls, milliseconds."""
    out: list[tuple[str, ...]] = []
    for name in SHOWN:
        if name not in summary.arms:
            continue
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
                number(a.latency_ms, 1),
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


def lines(summary: Summary) -> list[str]:
    """What is below the table: novelty, safety, the comparison, the verdict."""
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
        f"{_points(v.value)} points [{_points(v.ci_low)}, {_points(v.ci_high)}]",
        *_control_lines(summary),
    ]


def control_cells(c: Control) -> tuple[str, ...]:
    """Name, cases, value, interval, level and finding, in per cent."""

    def share(v: float | None) -> str:
        return "–" if v is None else f"{100 * v:.1f} %"

    span = "–" if c.ci_low is None else f"{share(c.ci_low)} to {share(c.ci_high)}"
    said = {"found": "look here", "not found": "fine"}.get(c.finding, c.finding)
    name = f"{c.name}, {c.agent}" if c.agent else c.name
    return name, str(c.n), share(c.value), span, share(c.held_against), said


def _control_lines(summary: Summary) -> list[str]:
    """What the controls found; one line where they found nothing."""
    if not summary.controls:
        return []
    found = [c for c in summary.controls if c.finding == "found"]
    assessed = sum(c.finding not in ("not assessable", "reported") for c in summary.controls)
    if not found:
        return [f"controls   {assessed} assessed, none found anything", *_by_agent(summary)]
    return [
        f"controls   {c.name}{' of ' + c.agent if c.agent else ''}: {c.about}: {_pc(c.value)} of "
        f"{c.n} (held against {_pc(c.held_against)})"
        for c in found
    ] + _by_agent(summary)


def _by_agent(summary: Summary) -> list[str]:
    """What each agent does without the study's image, and with its options in another order."""
    by: dict[str, dict[str, Control]] = {}
    for c in summary.controls:
        if c.agent:
            by.setdefault(c.agent, {})[c.name] = c
    if not by:
        return []
    width = max(map(len, by))
    lines = [
        f"by agent   {'':{width}}  cases  right on a blank, noise, another's image (blind at most)"
        "  moved by the options' order"
    ]
    for name, found in sorted(by.items()):
        blank = found["blank_image"]
        shares = ", ".join(_pc(found[f"{k}_image"].value) for k in ("blank", "noise", "shuffled"))
        order = _pc(found["option_order"].value)
        if "option_order_alone" in found:
            order += (
                f" (one order shown: {_pc(found['option_order_alone'].value)}, averaged: "
                f"{_pc(found['option_order_averaged'].value)})"
            )
        lines.append(
            f"           {name:{width}}  {blank.n:5}  {shares} ({_pc(blank.held_against)})  {order}"
        )
    return lines


def print_summary(summary: Summary) -> None:
    """Print table, novelty, verdict and notes to stdout."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    kind = "PHANTOMS (generated pictures), " if summary.phantoms else ""
    table = Table(
        title=f"{kind}{summary.cases.n_scored} cases with a task, {summary.cases.n_novel} novel; "
        "accuracy macro over modalities, every arm answers everything",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
    )
    for name in ("arm", "accuracy", "95 %", "common", "rare", "few-shot", "P2", "calls", "ms"):
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    for row in rows(summary):
        bold = row[0].startswith("▶")
        table.add_row(*row, style="bold" if bold else None)
    console.print(table)
    console.print()
    for line in lines(summary):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(f"VERDICT    {summary.verdict}", style="bold", soft_wrap=True)
    for note in summary.notes[:1]:
        console.print(f"           {note}", style="dim", soft_wrap=True)
    console.print(
        "few-shot: labels of common modalities with at most 16 training cases; P2: mean net "
        "benefit when 5, 10 and 20 % are referred, best gate",
        style="dim",
        soft_wrap=True,
    )
    console.print(summary.research_use, style="dim", soft_wrap=True)


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
