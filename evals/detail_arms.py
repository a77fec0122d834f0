"""Each arm by itself: confidence, must-not-miss labels, the ways that cases went, subgroups."""

from __future__ import annotations

from functools import partial

import numpy as np

from curbside.evals.arms import Outcomes
from curbside.evals.detail_schema import ArmDetail, ReliabilityBin, Route, SubgroupRow
from curbside.evals.gates import GATES, gate_order, gated
from curbside.evals.looked import Float, Looked, estimate, unknown
from curbside.evals.metrics import ratio
from curbside.evals.schema_base import Estimate
from curbside.evals.selective import (
    COVERAGES,
    brier,
    calibration_error,
    reliability,
    selective,
    share_interval,
)
from curbside.evals.statistics import over_models
from curbside.evals.subgroups import subgroup_rates
from curbside.evals.sweeps import CURVE_BUDGETS

__all__ = ["arm_detail", "reliability_of", "routes", "subgroups"]


def arm_detail(x: Looked, name: str, known: Float, everything: Float) -> ArmDetail:
    """Selective risk, calibration, recall and deferral of one arm.

    Args:
        known: weights of known cases, float32 (r, rows); everything: of all, float32 (r, n).
    """
    rows = x.rows
    drawn = x.counts[:, x.frame.group[rows]]
    micro = x.each(name, lambda o: ratio(drawn @ o.right[rows], drawn.sum(axis=1)))
    each = [selective(d[name].outcomes.confidence[rows], d[name].outcomes.right[rows], known)
            for d in x.by_draw]  # fmt: skip
    truth = [t.test.matrix.truth for t in x.trained]
    squares = [brier(d[name].outcomes, t, rows) for d, t in zip(x.by_draw, truth, strict=True)]
    draws = x.by_draw[0][name].arm.draw
    areas = [x.each(name, partial(_area, x, gate=gate, everything=everything)) for gate in GATES]
    return ArmDetail(
        accuracy_micro=estimate(micro),
        must_not_miss=_must_not_miss(x, name),
        aurc=estimate(over_models([s.aurc for s in each], x.models)),
        augrc=estimate(over_models([s.augrc for s in each], x.models)),
        risk_at={
            f"{c:g}": estimate(over_models([s.risk[c] for s in each], x.models)) for c in COVERAGES
        },
        brier=unknown()
        if any(b is None for b in squares)
        else estimate(over_models([known @ b for b in squares if b is not None], x.models)),
        ece=unknown()
        if draws
        else estimate(
            x.each(name, lambda o: calibration_error(o.confidence[rows], o.right[rows], known))
        ),
        deferral_area=estimate(np.max(np.stack(areas), axis=0)),
    )


def _area(x: Looked, outcomes: Outcomes, gate: str, everything: Float) -> Float:
    """Mean net benefit over the deferral curve under one gate."""
    order = gate_order(gate, x.frame, outcomes, x.familiar)
    curve = gated(order, x.frame, outcomes, everything, CURVE_BUDGETS)
    return np.asarray(curve.net_benefit.mean(axis=1), np.float32)


def _must_not_miss(x: Looked, name: str) -> Estimate:
    if x.facts is None:
        return unknown()
    at = np.flatnonzero(x.facts.must_not_miss & x.frame.scored)
    if not len(at):
        return unknown()
    weight = x.counts[:, x.frame.group[at]]
    return estimate(x.each(name, lambda o: ratio(weight @ o.right[at], weight.sum(axis=1))))


def reliability_of(x: Looked, name: str) -> dict[str, list[ReliabilityBin]]:
    """Modality → bins of the first draw's confidence with the share right."""
    outcomes = x.by_draw[0][name].outcomes
    return {
        m: [
            ReliabilityBin(
                confidence=b.confidence, accuracy=b.accuracy, n=b.n, ci_low=b.low, ci_high=b.high
            )
            for b in bins
        ]
        for m, bins in reliability(x.frame, outcomes, x.rows, x.counts).items()
    }


def routes(x: Looked) -> list[Route]:
    """Which agents the hybrid asked, commonest first, and what came of it."""
    scored, agents = x.by_draw[0][x.hybrid], x.trained[0].test.matrix.agents
    used = scored.arm.asked > 0
    names = np.array([" + ".join(np.array(agents)[u].tolist()) or "nobody" for u in used])
    known, o = x.frame.scored, scored.outcomes
    out = []
    for name in sorted(set(names.tolist()), key=lambda n: -(names == n).sum()):
        at = names == name
        right = o.right[at & known]
        low, high = share_interval(x.counts[:, x.frame.group[at & known]], right)
        out.append(
            Route(
                route=name,
                n=int(at.sum()),
                share=float(at.mean()),
                accuracy=float(right.mean()) if len(right) else None,
                ci_low=low if len(right) else None,
                ci_high=high if len(right) else None,
                calls=float(scored.arm.asked[at].sum(axis=1).mean()),
                latency_ms=float(o.latency_ms[at].mean()),
            )
        )
    return out


def subgroups(x: Looked) -> list[SubgroupRow]:
    """Rates by attribute column; nothing where the cases have none."""
    if x.facts is None or not x.facts.attributes:
        return []
    served = x.by_draw[0]["served"].outcomes
    rates = subgroup_rates(
        x.frame,
        x.facts,
        x.by_draw[0][x.hybrid].outcomes,
        served.answered < 0.5,
        x.flagged,
        x.trained[0].test.matrix.truth,
        x.counts,
    )
    return [
        SubgroupRow(
            attribute=g.attribute,
            group=g.group,
            metric=g.metric,
            n=g.n,
            suppressed=g.value is None,
            rate=unknown()
            if g.value is None
            else Estimate(value=g.value[0], ci_low=g.value[1], ci_high=g.value[2]),
        )
        for g in rates
    ]
