"""Everything beside the verdict, from scored arms to the key ``details`` of the summary.

Numbers with intervals are recomputed in every replicate of the same draw as the registered
comparisons; with several trained draws their mean is taken.  Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from curbside.config import CascadePolicy, Config, ConsultPolicy, PolicyConfig
from curbside.evals import arms as arm_
from curbside.evals.arms import Arm, Outcomes, Roster
from curbside.evals.compare import MARGIN, verdict_of
from curbside.evals.detail_schema import (
    ArmDetail,
    Conclusion,
    Details,
    Frontier,
    Gain,
    PersonRow,
    PoolRow,
    Regret,
    ReliabilityBin,
    Route,
    SubgroupRow,
)
from curbside.evals.frame import Frame
from curbside.evals.frontier import aiq, hull
from curbside.evals.gates import GATES, case_weights, gate_order, gated
from curbside.evals.metrics import Utility, ratio
from curbside.evals.peers import FOLDS
from curbside.evals.pool import pool_weights, pooled, subsets
from curbside.evals.protocol import (
    CONSULT,
    DISPATCHERS,
    GFULL,
    OPPONENTS,
    Scored,
    Trained,
    is_gated,
    plain_arms,
)
from curbside.evals.regret import consult_parts_of, parts_of, to_specialist_share
from curbside.evals.replay import right_of
from curbside.evals.schema_base import Estimate
from curbside.evals.selective import (
    COVERAGES,
    brier,
    calibration_error,
    reliability,
    selective,
    share_interval,
)
from curbside.evals.statistics import interval, minimum_detectable, over_models
from curbside.evals.subgroups import CaseFacts, subgroup_rates
from curbside.evals.sweeps import CURVE_BUDGETS

__all__ = ["Looked", "look"]

Float = NDArray[np.float32]

#: P(correct) of the person, and what reading a case costs, in units of one right answer.
PERSON_ACCURACY = (0.8, 0.9, 0.95, 1.0)
PERSON_COST = (0.1, 0.25, 0.5, 1.0)
_ESCALATE = tuple(round(0.1 * i, 1) for i in range(11))
#: What needs no router.
_ZERO = ("S", "G16", "Gfull", "linear-full", "linear-16", "E")


@dataclass(frozen=True)
class Looked:
    """What is looked at.

    Args:
        frame: n asked cases; counts: float32 (r, g); models: float32 (r, draws).
        by_draw: for each trained draw, arm → scored.
        flagged: bool (n,), called novel by its p-value.
        familiar: float64 (n,), the order of the novelty gate.
        consulted: colleagues that ``H-consult`` asks.
    """

    frame: Frame
    counts: Float
    models: Float
    by_draw: Sequence[Mapping[str, Scored]]
    trained: Sequence[Trained]
    rosters: Sequence[Roster]
    flagged: NDArray[np.bool_]
    familiar: NDArray[np.float64]
    hybrid: str
    best_single: str
    consulted: tuple[str, ...]
    facts: CaseFacts | None

    @property
    def rows(self) -> NDArray[np.intp]:
        """Known cases with a truth."""
        return np.flatnonzero(self.frame.scored)

    def each(self, name: str, value: Callable[[Outcomes], Float]) -> Float:
        """A number of an arm in every replicate, mean over the trained draws."""
        return over_models([value(d[name].outcomes) for d in self.by_draw], self.models)


def look(x: Looked) -> Details | None:
    """All of it; None where no case has a truth."""
    if not len(x.rows):
        return None
    known = case_weights(x.frame, x.counts, prevalence=0.0)[:, x.rows]
    everything = case_weights(x.frame, x.counts)
    accuracy = {
        a: x.each(a, lambda o: np.asarray(known @ o.right[x.rows], np.float32))
        for a in x.by_draw[0]
    }
    shown = [a for a in x.by_draw[0] if is_gated(x.by_draw[0][a].arm)]
    first = x.by_draw[0]
    facts = x.facts
    choosers = [h for h in DISPATCHERS if "case-oracle" in accuracy]
    chance = _asked_by_chance(x, known)
    return Details(
        arms={a: _arm(x, a, known, everything) for a in shown},
        gain={h: _gain(accuracy[h], accuracy["random"], accuracy["case-oracle"]) for h in choosers}
        | (
            {}
            if chance is None
            else {CONSULT: _gain(accuracy[CONSULT], chance, accuracy["pair-oracle"])}
        ),
        regret={h: _regret(x, h, known, accuracy) for h in choosers}
        | ({CONSULT: _consult_regret(x, known, accuracy)} if "pair-oracle" in accuracy else {}),
        frontier=_frontier(x, known, accuracy),
        routes=_routes(x),
        conclusions=[
            _conclude(x, b, accuracy)
            for b in dict.fromkeys(
                (x.best_single, *OPPONENTS, *x.trained[0].colleagues, "E-consult")
            )
            if b in accuracy
        ],
        pool=_pool(x, known, accuracy[x.best_single]),
        persons=_persons(x, everything),
        reliability={
            a: {
                m: [
                    ReliabilityBin(
                        confidence=b.confidence,
                        accuracy=b.accuracy,
                        n=b.n,
                        ci_low=b.low,
                        ci_high=b.high,
                    )
                    for b in bins
                ]
                for m, bins in reliability(x.frame, first[a].outcomes, x.rows, x.counts).items()
            }
            for a in dict.fromkeys((x.hybrid, x.best_single))
        },
        subgroups=_subgroups(x),
        must_not_miss_declared=0
        if facts is None
        else int((facts.must_not_miss & x.frame.scored).sum()),
    )


def _estimate(draws: Float) -> Estimate:
    value, low, high = interval(draws)
    return Estimate(value=value, ci_low=low, ci_high=high)


def _unknown() -> Estimate:
    return Estimate(value=None, ci_low=None, ci_high=None)


def _arm(x: Looked, name: str, known: Float, everything: Float) -> ArmDetail:
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
        accuracy_micro=_estimate(micro),
        must_not_miss=_must_not_miss(x, name),
        aurc=_estimate(over_models([s.aurc for s in each], x.models)),
        augrc=_estimate(over_models([s.augrc for s in each], x.models)),
        risk_at={
            f"{c:g}": _estimate(over_models([s.risk[c] for s in each], x.models)) for c in COVERAGES
        },
        brier=_unknown()
        if any(b is None for b in squares)
        else _estimate(over_models([known @ b for b in squares if b is not None], x.models)),
        ece=_unknown()
        if draws
        else _estimate(
            x.each(name, lambda o: calibration_error(o.confidence[rows], o.right[rows], known))
        ),
        deferral_area=_estimate(np.max(np.stack(areas), axis=0)),
    )


def _area(x: Looked, outcomes: Outcomes, gate: str, everything: Float) -> Float:
    """Mean net benefit over the deferral curve under one gate."""
    order = gate_order(gate, x.frame, outcomes, x.familiar)
    curve = gated(order, x.frame, outcomes, everything, CURVE_BUDGETS)
    return np.asarray(curve.net_benefit.mean(axis=1), np.float32)


def _must_not_miss(x: Looked, name: str) -> Estimate:
    if x.facts is None:
        return _unknown()
    at = np.flatnonzero(x.facts.must_not_miss & x.frame.scored)
    if not len(at):
        return _unknown()
    weight = x.counts[:, x.frame.group[at]]
    return _estimate(x.each(name, lambda o: ratio(weight @ o.right[at], weight.sum(axis=1))))


def _gain(own: Float, by_chance: Float, oracle: Float) -> Gain:
    over, room = own - by_chance, oracle - by_chance
    share = np.divide(over, room, out=np.full_like(over, np.nan), where=room > 1e-6)
    return Gain(over_random=_estimate(over), normalised=_estimate(share))


def _asked_by_chance(x: Looked, known: Float) -> Float | None:
    """Accuracy if colleagues were asked by chance, as often in each recognised modality.

    None where nobody is consulted, or not those that ``E-consult`` averages.
    """
    if CONSULT not in x.by_draw[0]:
        return None
    _, modality = np.unique(x.frame.predicted, return_inverse=True)
    values = []
    for d in x.by_draw:
        own, always = d[CONSULT].arm, d["E-consult"].arm
        asked = own.asked.sum(axis=1) > 1
        if not np.allclose(own.weights[asked], always.weights[asked]):
            return None
        rate = (np.bincount(modality, asked) / np.bincount(modality))[modality]
        mean = d["E-consult"].outcomes.right
        right = rate * mean + (1 - rate) * d["Gfull"].outcomes.right
        values.append(np.asarray(known @ right[x.rows].astype(np.float32), np.float32))
    return over_models(values, x.models)


def _regret(x: Looked, name: str, known: Float, accuracy: Mapping[str, Float]) -> Regret:
    return Regret(
        to_task_oracle=_estimate(accuracy["task-oracle"] - accuracy[name]),
        to_case_oracle=_estimate(accuracy["case-oracle"] - accuracy[name]),
        twin_gain=_twin_gain(accuracy),
        parts=_parts(
            x,
            known,
            lambda d: parts_of(x.frame, d[name].outcomes, d["S"].outcomes, d["Gfull"].outcomes),
        ),
        novel_to_specialist=_novel_away(x, name),
    )


def _consult_regret(x: Looked, known: Float, accuracy: Mapping[str, Float]) -> Regret:
    first = x.consulted[0]  # as the pair oracle
    return Regret(
        between=(first, "Gfull"),
        to_task_oracle=_unknown(),
        to_case_oracle=_estimate(accuracy["pair-oracle"] - accuracy[CONSULT]),
        twin_gain=_twin_gain(accuracy),
        parts=_parts(
            x,
            known,
            lambda d: consult_parts_of(
                x.frame, d[CONSULT].outcomes, d[first].outcomes, d["Gfull"].outcomes
            ),
        ),
        novel_to_specialist=_novel_away(x, CONSULT),
    )


def _twin_gain(accuracy: Mapping[str, Float]) -> Estimate:
    if "twin-oracle" not in accuracy:
        return _unknown()
    return _estimate(accuracy["twin-oracle"] - accuracy["Gfull"])


def _parts(
    x: Looked, known: Float, split: Callable[[Mapping[str, Scored]], Mapping[str, Float]]
) -> dict[str, Estimate]:
    """Part → its share in every replicate, mean over the trained draws."""
    each = [split(d) for d in x.by_draw]
    return {
        part: _estimate(over_models([known @ e[part][x.rows] for e in each], x.models))
        for part in each[0]
    }


def _novel_away(x: Looked, name: str) -> Estimate:
    """Share of the answers to novel cases that is not the generalist's."""
    novel = np.flatnonzero(x.frame.novel)
    if not len(novel):
        return _unknown()
    # novel modalities count evenly, as known ones do
    whole = case_weights(x.frame, x.counts, prevalence=1.0)[:, novel]
    values = [whole @ to_specialist_share(d[name].arm, d["Gfull"].arm)[novel] for d in x.by_draw]
    return _estimate(over_models(values, x.models))


def _frontier(x: Looked, known: Float, accuracy: Mapping[str, Float]) -> Frontier | None:
    if "E" not in accuracy:
        return None
    cost = {
        a: x.each(a, lambda o: np.asarray(known @ o.cost[x.rows], np.float32)) for a in accuracy
    }
    others = [a for a, s in x.by_draw[0].items() if s.arm.kind == "colleague"]
    zero = [a for a in (*_ZERO, "E-consult", *others) if a in accuracy]
    routers = {"cascade": [_point(x, known, CascadePolicy(escalate_below=v)) for v in _ESCALATE]}
    if x.consulted:
        who = x.consulted
        routers["consult"] = [
            _point(x, known, ConsultPolicy(colleagues=who, escalate_below=v)) for v in _ESCALATE
        ]

    def at(replicate: int, points: Sequence[tuple[Float, Float]]) -> NDArray[np.float64]:
        return np.array([(c[replicate], q[replicate]) for c, q in points], np.float64)

    alone = [(cost[a], accuracy[a]) for a in zero]
    costs = [float(c[0]) for points in routers.values() for c, _ in points]
    low, high = min(costs), max(costs)

    def over_costs(points: Sequence[tuple[Float, Float]]) -> Float:
        return np.array([aiq(at(i, points), low, high) for i in range(len(known))], np.float32)

    own, none = {name: over_costs(points) for name, points in routers.items()}, over_costs(alone)
    return Frontier(
        points=[(a, float(cost[a][0]), float(accuracy[a][0])) for a in accuracy],
        zero=[(float(c), float(q)) for c, q in hull(at(0, alone))],
        routers={n: [(float(c[0]), float(q[0])) for c, q in p] for n, p in routers.items()},
        low=low,
        high=high,
        aiq={n: _estimate(v) for n, v in own.items()} | {"zero": _estimate(none)},
        above_zero={n: _estimate(np.asarray(v - none, np.float32)) for n, v in own.items()},
    )


def _point(x: Looked, known: Float, policy: PolicyConfig) -> tuple[Float, Float]:
    """Cost and accuracy of a policy over {S, Gfull, colleagues} in every replicate."""
    who = x.consulted if isinstance(policy, ConsultPolicy) else ()
    scored = [
        arm_.outcomes(
            t.test.matrix,
            arm_.hybrid(
                "curve", policy, t.test.matrix, t.test.assessments, r, GFULL, colleagues=who
            ),
        )
        for t, r in zip(x.trained, x.rosters, strict=True)
    ]
    cost, right = (
        over_models([known @ getattr(o, k)[x.rows] for o in scored], x.models)
        for k in ("cost", "right")
    )
    return cost, right


def _routes(x: Looked) -> list[Route]:
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


def _conclude(x: Looked, opponent: str, accuracy: Mapping[str, Float]) -> Conclusion:
    from statsmodels.stats.contingency_tables import mcnemar

    d = accuracy[x.hybrid] - accuracy[opponent]
    delta, low, high = interval(d)
    a = x.by_draw[0][x.hybrid].outcomes.right[x.rows] >= 0.5
    b = x.by_draw[0][opponent].outcomes.right[x.rows] >= 0.5
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    return Conclusion(
        a=x.hybrid,
        b=opponent,
        delta=delta,
        ci_low=low,
        ci_high=high,
        margin=MARGIN,
        conclusion=verdict_of(delta, low, high, MARGIN),
        non_inferior=None if np.isnan(low) else low > -MARGIN,
        minimum_detectable=minimum_detectable(d),
        mcnemar_p=float(mcnemar(table, exact=True).pvalue),
        a_only=table[0][1],
        b_only=table[1][0],
    )


def _pool(x: Looked, known: Float, best: Float) -> list[PoolRow]:
    """Leave one reader out of the weighted mean of all."""
    on_tune = [plain_arms(t.tune, r, Config()) for t, r in zip(x.trained, x.rosters, strict=True)]
    # agents that no rule names stand beside those that the arms are made of
    others = [a for a, arm in on_tune[0].items() if arm.kind == "colleague"]
    readers = [*(a for a in _ZERO if a != "E" and a in on_tune[0]), *others]
    if len(readers) < 2:
        return []
    found = []
    for left_out, names in subsets(readers):
        weights, cross, values = [], [], []
        for draw, t in enumerate(x.trained):
            arms = [on_tune[draw][n] for n in names]
            w, accuracy = _fitted_pool(t, arms)
            arm = pooled("pool", [x.by_draw[draw][n].arm for n in names], w)
            right = right_of(t.test.matrix, arm.weights)
            weights.append(w)
            cross.append(accuracy)
            values.append(np.asarray(known @ right[x.rows], np.float32))
        found.append(
            (left_out, names, weights, float(np.mean(cross)), over_models(values, x.models))
        )
    whole = found[0][-1]
    return [
        PoolRow(
            without=left_out,
            weights=dict(zip(names, (float(v) for v in np.mean(weights, axis=0)), strict=True)),
            tune_accuracy=cross_fitted,
            accuracy=_estimate(values),
            gain=_estimate(np.asarray(whole - (values if left_out else best), np.float32)),
        )
        for left_out, names, weights, cross_fitted, values in found
    ]


def _fitted_pool(t: Trained, arms: Sequence[Arm]) -> tuple[Float, float]:
    """Weights from all tune cases, and the macro accuracy of cross-fitted ones on them."""
    frame, matrix = t.tune.frame, t.tune.matrix
    rows = np.flatnonzero(frame.scored)
    outcomes = [arm_.outcomes(matrix, a).probabilities for a in arms]
    true = matrix.truth[rows].astype(np.intp)
    given = np.stack([o[rows, true] for o in outcomes if o is not None], axis=1)
    even = case_weights(frame, np.ones((1, frame.n_groups), np.float32), prevalence=0.0)[0, rows]
    fold = np.random.default_rng(0).permutation(frame.n_groups)[frame.group[rows]] % FOLDS
    right = np.zeros(len(rows), np.float32)
    for k in range(FOLDS):
        rest, own = fold != k, fold == k
        if own.any() and rest.any():
            arm = pooled("fold", arms, pool_weights(given[rest], even[rest]))
            right[own] = right_of(matrix, arm.weights)[rows][own]
    return pool_weights(given, even), float(even @ right)


def _persons(x: Looked, everything: Float) -> list[PersonRow]:
    weights = everything[:1]
    names = [a for a in dict.fromkeys((x.hybrid, *OPPONENTS)) if a in x.by_draw[0]]
    out = []
    for accuracy in PERSON_ACCURACY:
        for cost in PERSON_COST:
            worth = Utility()
            read = worth.right * accuracy + worth.wrong * (1 - accuracy) - cost
            utility = Utility(referral=read)
            best: dict[str, tuple[float, float | None]] = {}
            gate_of: dict[str, str] = {}
            for name in names:
                curves = []
                for gate in GATES:
                    each = [
                        gated(
                            gate_order(gate, x.frame, d[name].outcomes, x.familiar),
                            x.frame,
                            d[name].outcomes,
                            weights,
                            CURVE_BUDGETS,
                            utility,
                        ).net_benefit[0]
                        for d in x.by_draw
                    ]
                    curves.append(np.mean(each, axis=0))
                curve = np.max(curves, axis=0)
                at = int(curve.argmax())
                gate_of[name] = GATES[int(np.argmax([c[at] for c in curves]))]
                best[name] = (CURVE_BUDGETS[at], float(curve[at]))
            share = best[x.hybrid][0]
            worths = [
                gated(
                    gate_order(gate_of[x.hybrid], x.frame, d[x.hybrid].outcomes, x.familiar),
                    x.frame,
                    d[x.hybrid].outcomes,
                    everything,
                    (share,),
                    utility,
                ).net_benefit[:, 0]
                for d in x.by_draw
            ]
            _, low, high = interval(over_models(worths, x.models))
            out.append(PersonRow(accuracy=accuracy, cost=cost, best=best, ci_low=low, ci_high=high))
    return out


def _subgroups(x: Looked) -> list[SubgroupRow]:
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
            rate=_unknown()
            if g.value is None
            else Estimate(value=g.value[0], ci_low=g.value[1], ci_high=g.value[2]),
        )
        for g in rates
    ]
