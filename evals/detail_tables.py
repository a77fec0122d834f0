"""The tables of ``details`` and ``costs``, written once for the HTML report and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curbside.evals.detail_schema import Details, Regret
from curbside.evals.schema import Summary
from curbside.evals.schema_base import Estimate
from curbside.evals.table import shown_arms

__all__ = ["Table", "detail_tables", "markdown", "uncorrected"]

#: Said of tables that tell values without their intervals.
_UNTOLD = (
    "The values' own intervals, not corrected for their number, are in `details` of `summary.json`."
)


@dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, and cells as text."""

    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def detail_tables(summary: Summary) -> list[Table]:
    """Those that have rows, in the order in which they are shown."""
    d = summary.details
    found = [_budgets(summary)]
    found += [] if d is None else [_conclusions(d), _regret(d), _confidence(d), _pool(d), _gain(d)]
    found += [] if d is None else [_frontier(d), _routes(d), _persons(d, summary.decision.hybrid)]
    found += [_costs(summary)]
    found += [] if d is None else [_subgroups(d)]
    return [t for t in found if t.rows]


def uncorrected(n: int) -> str:
    """Said wherever n intervals or p-values are read side by side and none is adjusted."""
    return f"Each stands on its own 95 % interval: not corrected for their number ({n})."


def markdown(tables: Sequence[Table]) -> list[str]:
    """Lines of Markdown."""
    out = []
    for t in tables:
        out += [f"## {t.title}", "", t.about, "", "| " + " | ".join(t.head) + " |"]
        out.append("| --- |" + " ---: |" * (len(t.head) - 1))
        out += ["| " + " | ".join(row) + " |" for row in t.rows]
        out.append("")
    return out


def _conclusions(d: Details) -> Table:
    return Table(
        "Better, worse, equivalent or inconclusive",
        "The hybrid against each arm alone, in points of accuracy. Equivalent: the whole interval "
        "lies within the pre-registered margin. McNemar's test is over cases, a cross-check. "
        f"{uncorrected(len(d.conclusions))} The verdict is not one of "
        "them: it rests on the bounds that Holm leaves.",
        ("against", "difference", "95 %", "conclusion", "non-inferior", "detectable", "McNemar p"),
        tuple(
            (
                c.b,
                _points(c.delta),
                _span(c.ci_low, c.ci_high),
                c.conclusion,
                {True: "yes", False: "no", None: "–"}[c.non_inferior],
                _points(c.minimum_detectable),
                "<0.001"
                if c.mcnemar_p is not None and c.mcnemar_p < 0.001
                else _number(c.mcnemar_p, 3),
            )
            for c in d.conclusions
        ),
    )


def _budgets(s: Summary) -> Table:
    """P2 is the mean of these three."""
    budgets = [f"{100 * b:g} %" for b in s.protocol.budgets]
    rows = []
    for name in shown_arms(s):
        gates = s.arms[name].gates
        if gates is None or gates.p2.value is None:
            continue
        better = gates.novelty if gates.better == "novelty" else gates.confidence
        worth = [
            f"{_number(n.net_benefit.value, 3)} ({_number(n.net_benefit.ci_low, 3)} to "
            f"{_number(n.net_benefit.ci_high, 3)})"
            for n in better
        ]
        right = [_percent(n.selective_accuracy) for n in better]
        rows.append((name, gates.better, *worth, *right))
    return Table(
        f"Referring {', '.join(budgets)}",
        "Net benefit (95 %) when that share of the cases goes to a person, under the gate that is "
        "better for the arm, novel cases weighing 10 %; then what is right among the answered, %. "
        f"{uncorrected(len(rows) * len(budgets))}",
        ("arm", "gate", *budgets, *(f"right at {b}" for b in budgets)),
        tuple(rows),
    )


def _regret(d: Details) -> Table:
    return Table(
        "Where hybrids lose",
        "Points of accuracy lost to the oracles over the two readers named, and every wrong answer "
        "by its fault: to the generalist, where the other was right; to the other, where the "
        "generalist was right. H-consult asks its colleague for a mean, whatever the modality. "
        "What two seeds of one model gain over one of them is luck; both wrong is no router's "
        f"fault. {_UNTOLD}",
        (
            "hybrid",
            "other, generalist",
            "to case oracle",
            "to task oracle",
            "luck alone",
            "wrong modality",
            "to generalist",
            "to other",
            "both wrong",
            "novel to other",
        ),
        tuple(
            (
                name,
                ", ".join(r.between),
                *(_percent(e) for e in (r.to_case_oracle, r.to_task_oracle, r.twin_gain)),
                _part(r, "wrong_modality"),
                _part(r, "to_generalist"),
                _part(r, "to_colleague" if "to_colleague" in r.parts else "to_specialist"),
                _part(r, "both_wrong"),
                _percent(r.novel_to_specialist),
            )
            for name, r in d.regret.items()
        ),
    )


def _part(r: Regret, name: str) -> str:
    return _percent(r.parts[name]) if name in r.parts else "–"


def _confidence(d: Details) -> Table:
    return Table(
        "How good the confidence of each arm is",
        "Lower is better but for the deferral area (mean net benefit over 0 to 50 % referred), "
        "accuracy over cases, and recall of labels that must not be missed. "
        f"{_UNTOLD}",
        (
            "arm",
            "AURC",
            "AUGRC",
            "wrong among surest 80 %",
            "Brier",
            "ECE",
            "deferral area",
            "micro accuracy",
            "must not miss",
        ),
        tuple(
            (
                name,
                *(_number(e.value, 3) for e in (a.aurc, a.augrc)),
                _percent(a.risk_at["0.8"]),
                *(_number(e.value, 3) for e in (a.brier, a.ece, a.deferral_area)),
                _percent(a.accuracy_micro),
                _percent(a.must_not_miss),
            )
            for name, a in d.arms.items()
        ),
    )


def _pool(d: Details) -> Table:
    return Table(
        "Which reader earns its place",
        "All readers as one weighted mean, weights fitted on tune, then without each in turn. A "
        "reader earns its place where the gain's interval lies above 0; the first row's gain is "
        f"over the best arm alone. {uncorrected(len(d.pool))}",
        ("left out", "accuracy", "95 %", "gain", "95 %", "weights"),
        tuple(
            (
                r.without or "nobody",
                _percent(r.accuracy),
                _span(r.accuracy.ci_low, r.accuracy.ci_high),
                _points(r.gain.value),
                _span(r.gain.ci_low, r.gain.ci_high),
                ", ".join(f"{a} {w:.2f}" for a, w in r.weights.items() if w and w >= 0.005),
            )
            for r in d.pool
        ),
    )


def _gain(d: Details) -> Table:
    return Table(
        "What choosing gains",
        "Over choosing by chance, at the rates of the best hybrid over S and Gfull, and as a share "
        "of what the case oracle gains over chance (0 is chance, 100 the oracle). H-consult: over "
        "asking its colleague by chance, at its own rates, and against the oracle over the two. "
        f"{uncorrected(len(d.gain))}",
        ("hybrid", "over chance", "95 %", "of the oracle's gain, %", "95 %"),
        tuple(
            (
                name,
                _points(g.over_random.value),
                _span(g.over_random.ci_low, g.over_random.ci_high),
                _percent(g.normalised),
                _span(g.normalised.ci_low, g.normalised.ci_high),
            )
            for name, g in d.gain.items()
        ),
    )


def _frontier(d: Details) -> Table:
    rows = []
    if d.frontier is not None:
        rows = [
            (name, _percent(e), _span(e.ci_low, e.ci_high), _points(above.value),
             _span(above.ci_low, above.ci_high))
            for name, e in d.frontier.aiq.items()
            if (above := d.frontier.above_zero.get(name)) is not None
        ]  # fmt: skip
    return Table(
        "Accuracy for its cost",
        "Mean accuracy over the range of costs (AIQ), every threshold of the policy, and above the "
        "zero router: the hull of models alone and their averages, which needs no router. "
        f"{uncorrected(len(rows))}",
        ("policy", "AIQ", "95 %", "above zero router", "95 %"),
        tuple(rows),
    )


def _routes(d: Details) -> Table:
    return Table(
        "Which way cases went",
        "The hybrid put forward, gates off; accuracy over known cases. "
        f"{uncorrected(sum(r.ci_low is not None for r in d.routes))}",
        ("route", "cases", "share, %", "accuracy, %", "95 %", "calls", "ms"),
        tuple(
            (
                r.route,
                str(r.n),
                _number(None if r.share is None else 100 * r.share, 1),
                _number(None if r.accuracy is None else 100 * r.accuracy, 1),
                _span(r.ci_low, r.ci_high),
                _number(r.calls, 2),
                _number(r.latency_ms, 1),
            )
            for r in d.routes
        ),
    )


def _persons(d: Details, hybrid: str) -> Table:
    return Table(
        "When a person should read",
        "The share to refer at which net benefit is highest, if a person is right so often and "
        "costs so much of one right answer. Share and gate are the best on these very cases, which "
        "makes the net benefit a little too good; its interval is of that share and gate. "
        f"{uncorrected(len(d.persons))}",
        ("person right, %", "cost", f"refer under {hybrid}, %", "net benefit", "95 %", "best arm"),
        tuple(
            (
                f"{100 * p.accuracy:.0f}",
                f"{p.cost:g}",
                f"{100 * p.best[hybrid][0]:.1f}",
                _number(p.best[hybrid][1], 3),
                f"{_number(p.ci_low, 3)} to {_number(p.ci_high, 3)}",
                max(p.best.items(), key=lambda arm: arm[1][1] or -1.0)[0],
            )
            for p in d.persons
            if hybrid in p.best
        ),
    )


def _costs(s: Summary) -> Table:
    prices = ", ".join(f"{k} {v:g}" for k, v in (s.prices or {}).items())
    return Table(
        "What each arm takes and brings",
        f"Cheapest to build first; money at stated prices ({prices}).",
        (
            "arm",
            "labels",
            "trained parameters",
            "share, %",
            "train s",
            "peak MiB",
            "calls",
            "ms a case",
            "accuracy, %",
            "to build",
            "1,000 cases",
        ),
        tuple(
            (
                c.arm,
                f"{c.labels:,}",
                f"{c.trainable_parameters:,}",
                _number(None if c.trainable_share is None else 100 * c.trainable_share, 1),
                _number(c.train_seconds, 0),
                _number(c.peak_mib, 0),
                _number(c.calls, 2),
                _number(c.ms_per_case, 1),
                _number(None if c.accuracy is None else 100 * c.accuracy, 1),
                _number(c.money_to_build, 2),
                _number(c.money_per_1000, 5),
            )
            for c in s.costs
        ),
    )


def _subgroups(d: Details) -> Table:
    return Table(
        "Subgroups",
        "Groups of too few cases are suppressed. Differences are the largest between two groups. "
        f"{uncorrected(len(d.subgroups))}",
        ("column", "group", "number", "cases", "value", "95 %"),
        tuple(
            (
                r.attribute,
                r.group,
                r.metric.replace("_", " "),
                str(r.n),
                "suppressed" if r.suppressed else _number(r.rate.value, 3),
                "–"
                if r.suppressed
                else f"{_number(r.rate.ci_low, 3)} to {_number(r.rate.ci_high, 3)}",
            )
            for r in d.subgroups
        ),
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(e: Estimate) -> str:
    return "–" if e.value is None else f"{100 * e.value:.1f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _span(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
