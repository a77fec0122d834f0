"""Two runs, or two arms of one run, paired by case id: better, worse, equivalent or unknown.

Overall first (macro over modalities), then by stratum.  The claim is about the overall number;
strata are adjusted among themselves by Holm and stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from curbside.errors import UserError
from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.metrics import Scope, Scorer
from curbside.evals.outcome_file import RunOutcomes
from curbside.evals.schema_base import Number
from curbside.evals.statistics import (
    LEVEL,
    draw_groups,
    holm,
    interval,
    minimum_detectable,
    p_value,
)

__all__ = ["MARGIN", "Comparison", "Difference", "compare", "lines", "verdict_of"]

#: Pre-registered margin: a difference of less than two points is none that matters.
MARGIN = 0.02
#: What overall is compared on; strata are compared on accuracy.
OVERALL = ("accuracy", "balanced_accuracy", "coverage", "selective_accuracy", "net_benefit", "cost")

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]
Verdict = Literal["better", "worse", "equivalent", "inconclusive", "not assessable"]


class Difference(BaseModel):
    """a − b on one metric and stratum, paired."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    stratum: str
    """``overall``, a tier, ``rare_finding``, or ``modality NAME``."""
    metric: str
    n: int
    a: Number
    b: Number
    delta: Number
    ci_low: Number
    ci_high: Number
    p: Number
    p_holm: Number
    """Over the strata; null for overall numbers."""
    minimum_detectable: Number
    """The difference that such a sample would have shown with 80 % power."""
    verdict: Verdict


class Comparison(BaseModel):
    """Two arms on the cases that both runs have."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    a: str
    b: str
    margin: float
    replicates: int
    n: int
    n_groups: int
    only_a: int
    """Cases of a that b lacks; they are left out."""
    only_b: int
    other_truth: int
    """Cases whose label or task differs between the runs; they are left out."""
    mcnemar_p: Number
    """Exact two-sided McNemar test over the cases, groups ignored: a cross-check."""
    a_only_right: int
    b_only_right: int
    overall: list[Difference]
    strata: list[Difference]
    verdict: Verdict


@dataclass(frozen=True)
class _Paired:
    frame: Frame
    a: Outcomes
    b: Outcomes


def verdict_of(delta: float, low: float, high: float, margin: float) -> Verdict:
    """Of a difference with its interval: what it shows at this margin."""
    if np.isnan([delta, low, high]).any():
        return "not assessable"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "equivalent" if -margin < low and high < margin else "inconclusive"


def compare(
    first: RunOutcomes,
    second: RunOutcomes,
    names: tuple[str, str],
    *,
    titles: tuple[str, str] | None = None,
    margin: float = MARGIN,
    replicates: int = 5000,
    seed: int = 0,
) -> Comparison:
    """Compare arm ``names[0]`` of the first run with arm ``names[1]`` of the second.

    Args:
        titles: what the two are called in the result; default: the arms' names.
        margin: half-width within which a difference is ``equivalent``, in the metric's unit.
        replicates: of the bootstrap over groups (the first run's groups).

    Raises:
        UserError: an arm is not there, or the runs share no scored case.
    """
    a, b = first.arm(names[0]), second.arm(names[1])
    at = {c: i for i, c in enumerate(second.frame.ids.tolist())}
    left = np.array([i for i, c in enumerate(first.frame.ids.tolist()) if c in at], np.intp)
    right = np.array([at[c] for c in first.frame.ids[left].tolist()], np.intp)
    one, two = first.frame.take(left), second.frame.take(right)
    same = (one.label == two.label) & (one.task == two.task)
    paired = _Paired(one.take(same), _take(a, left[same]), _take(b, right[same]))
    if not paired.frame.scored.any():
        raise UserError(
            f"the two runs share {int(same.sum())} cases, none with a task and a truth: "
            "nothing can be compared",
            hint="evaluate the same manifest twice: curbside eval run --cases MANIFEST --out DIR",
        )
    counts = draw_groups(paired.frame.n_groups, replicates, seed, paired.frame.strata)
    scorer = Scorer(paired.frame, counts)
    sums = (scorer.sums(paired.a), scorer.sums(paired.b))
    scored = paired.frame.scored

    def difference(stratum: str, metric: str, n: int, cells: Flags | None = None) -> Difference:
        x, y = (scorer.metric(metric, s, cells) for s in sums)
        delta, low, high = interval(np.asarray(x - y, np.float32))
        detectable = minimum_detectable(x - y)
        if metric != "cost" and low == high == 0:
            # not one case differs: the bootstrap knows no spread, the rule of three does
            high = min(3 / n, 1.0)
            low, detectable = -high, high
        return Difference(
            stratum=stratum,
            metric=metric,
            n=n,
            a=float(x[0]),
            b=float(y[0]),
            delta=delta,
            ci_low=low,
            ci_high=high,
            p=p_value(x - y),
            p_holm=None,
            minimum_detectable=detectable,
            verdict=_costly(metric, verdict_of(delta, low, high, margin)),
        )

    overall = [difference("overall", m, int(scored.sum())) for m in OVERALL]
    strata = []
    for s in scorer.scopes():
        name = f"modality {s.name}" if s.kind == "modality" else s.name
        n = int((scored & _rows_of(paired.frame, s)).sum())
        if n:
            strata.append(difference(name, "accuracy", n, s.cells))
    adjusted = holm({d.stratum: np.nan if d.p is None else d.p for d in strata})
    strata = [_adjusted(d, adjusted[d.stratum], margin) for d in strata]
    only = _discordant(paired.a.right[scored], paired.b.right[scored])
    title = titles or names
    return Comparison(
        a=title[0],
        b=title[1],
        margin=margin,
        replicates=replicates,
        n=int(scored.sum()),
        n_groups=len(set(paired.frame.group[scored].tolist())),
        only_a=len(first.frame) - len(left),
        only_b=len(second.frame) - len(right),
        other_truth=int((~same).sum()),
        mcnemar_p=_mcnemar(*only),
        a_only_right=only[0],
        b_only_right=only[1],
        overall=overall,
        strata=strata,
        verdict=overall[0].verdict,
    )


def _rows_of(frame: Frame, scope: Scope) -> Flags:
    if scope.kind == "modality":
        return np.asarray(frame.modality == scope.name, bool)
    return frame.rare_finding if scope.name == "rare_finding" else frame.tier == scope.name


def _take(o: Outcomes, rows: NDArray[np.intp]) -> Outcomes:
    numbers = {k: getattr(o, k)[rows] for k in ("right", "answered", "confidence", "cost")}
    return replace(o, **numbers, latency_ms=o.latency_ms[rows], probabilities=None)


def _costly(metric: str, verdict: Verdict) -> Verdict:
    """A higher cost is worse."""
    swapped: Mapping[Verdict, Verdict] = {"better": "worse", "worse": "better"}
    return swapped.get(verdict, verdict) if metric == "cost" else verdict


def _adjusted(d: Difference, p: float, margin: float) -> Difference:
    """A stratum is better or worse only where Holm leaves that."""
    verdict = d.verdict
    if verdict in ("better", "worse") and not p <= LEVEL:
        inside = max(abs(d.ci_low or 0), abs(d.ci_high or 0)) < margin
        verdict = "equivalent" if inside else "inconclusive"
    return Difference.model_validate(d.model_dump() | {"p_holm": p, "verdict": verdict})


def _discordant(a: Float, b: Float) -> tuple[int, int]:
    """Cases that only one of the two gets right (arms that draw count from one half on)."""
    x, y = a >= 0.5, b >= 0.5
    return int((x & ~y).sum()), int((y & ~x).sum())


def _mcnemar(only_a: int, only_b: int) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    if not only_a + only_b:
        return float("nan")
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def lines(c: Comparison) -> list[str]:
    """For people: overall numbers, strata, and the verdict."""
    head = f"{'':<22}{'n':>6}{'a':>8}{'b':>8}{'a − b':>9}  {'95 %':<18}{'MDE':>7}  "
    out = [f"a = {c.a}", f"b = {c.b}", "", head]
    out += [_line(d, d.metric.replace("_", " ")) for d in c.overall]
    out += ["", "accuracy by stratum (verdicts after Holm over the strata)"]
    out += [_line(d, d.stratum) for d in c.strata]
    left_out = c.only_a + c.only_b + c.other_truth
    out += ["", f"paired on {c.n} cases in {c.n_groups} groups, {c.replicates} replicates"]
    if left_out:
        out.append(
            f"left out: {c.only_a} cases only in a, {c.only_b} only in b, "
            f"{c.other_truth} with another task or label"
        )
    p = "–" if c.mcnemar_p is None else f"{c.mcnemar_p:.3f}"
    out.append(f"only a right {c.a_only_right}, only b right {c.b_only_right}; McNemar p = {p}")
    return out


def _line(d: Difference, name: str) -> str:
    scale = 1 if d.metric in ("cost", "net_benefit") else 100

    def show(v: float | None, spec: str) -> str:
        return "–" if v is None else format(v * scale, spec)

    digits = ".3f" if scale == 1 else ".1f"
    span = f"[{show(d.ci_low, '+' + digits)}, {show(d.ci_high, '+' + digits)}]"
    return (
        f"{name:<22}{d.n:>6}{show(d.a, digits):>8}{show(d.b, digits):>8}"
        f"{show(d.delta, '+' + digits):>9}  {span:<18}{show(d.minimum_detectable, digits):>7}"
        f"  {d.verdict}"
    )
