"""The whole evaluation by replay: from response matrices to values, replicates and verdict.

Reads no image and calls no model.  Everything that is *chosen* (the hybrid put forward, the
best arm alone, the team's fallback specialist, oracles by task) is chosen on ``tune``;
everything that is *reported* is measured on the evaluated cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import Config
from curbside.evals.arms import Arm
from curbside.evals.detail_schema import Details
from curbside.evals.details import look
from curbside.evals.frame import Frame
from curbside.evals.gates import BUDGETS, GATES, case_weights, familiarity, gate_order, gated
from curbside.evals.looked import Looked
from curbside.evals.metrics import METRICS, Scorer, Sums, mean_known
from curbside.evals.novelty import NoveltyValues, answered_at, measure_novelty
from curbside.evals.outcome_file import RunOutcomes, mean_outcomes
from curbside.evals.protocol import (
    DISPATCHERS,
    HYBRIDS,
    OPPONENTS,
    Scored,
    Trained,
    best,
    consulted_of,
    is_gated,
    roster_of,
    score_arms,
    single_names,
    test_arms,
    tune_accuracy,
)
from curbside.evals.statistics import (
    Contrast,
    Family,
    Verdict,
    contrasts,
    draw_groups,
    draw_models,
    interval,
    intervals,
    minimum_detectable,
    over_models,
    p_value,
    verdict,
)
from curbside.evals.subgroups import CaseFacts
from curbside.evals.sweeps import deferral_curves, sweep_worths

__all__ = ["ArmResult", "Interval", "Result", "evaluate"]

Float = NDArray[np.float32]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class ArmResult:
    """One arm's numbers: (estimate, low, high) each.

    Args:
        overall: metric → interval; ``METRICS`` and ``auroc``, ``accuracy_unconfounded``.
        per_tier, per_modality: metric → name → interval.
        gates: gate → budget → number → interval (empty for arms that no gate is crossed with).
        novel_answered: gate → interval, at 5 % of its common cases referred.
    """

    name: str
    kind: str
    overall: dict[str, Interval]
    per_tier: dict[str, dict[str, Interval]]
    per_modality: dict[str, dict[str, Interval]]
    gates: dict[str, dict[float, dict[str, Interval]]] = field(default_factory=dict)
    novel_answered: dict[str, Interval] = field(default_factory=dict)
    p2: Interval = (float("nan"), float("nan"), float("nan"))
    better_gate: str = ""


@dataclass(frozen=True)
class Result:
    """Everything that the summary is written from."""

    frame: Frame
    arms: dict[str, ArmResult]
    contrasts: list[Contrast]
    verdict: Verdict
    hybrid: str
    best_single: str
    fallbacks: tuple[str, ...]
    consulted: tuple[str, ...]
    tune_accuracy: dict[str, float]
    novelty: NoveltyValues
    novelty_score: NDArray[np.float64]
    curves: dict[str, dict[str, list[float]]]
    sweep: list[dict[str, float | str]]
    alpha: float
    replicates: int
    seed: int
    draws: tuple[int, ...]
    outcomes: RunOutcomes
    details: Details | None


def evaluate(
    everything: Frame,
    assessments: Assessments,
    trained: Sequence[Trained],
    config: Config,
    *,
    replicates: int = 2000,
    seed: int = 0,
    facts: CaseFacts | None = None,
) -> Result:
    """Replay all arms and gates, and reach the verdict.

    Args:
        everything: all evaluated cases, asked or not, N rows.
        assessments: of all of them.
        trained: one or more trained draws; each one's test part holds the asked rows of
            ``everything`` in the same order.
        replicates: bootstrap replicates over groups (and draws, where there are several).
        facts: what the manifest says of the asked cases beside the truth.
    """
    counts = draw_groups(everything.n_groups, replicates, seed, everything.strata)
    models = draw_models(len(trained), replicates, seed)
    asked = np.flatnonzero(everything.asked)
    # groups keep their numbers, so that one draw serves all cases and the asked ones alike
    frame = replace(everything.take(asked), group=everything.group[asked])
    scorer = Scorer(frame, counts)
    alpha = config.policy.alpha or 0.05
    familiar_all = familiarity(assessments)
    familiar = familiar_all[asked]

    rosters = [roster_of(t) for t in trained]
    consulted = consulted_of(trained)
    tune = tune_accuracy(trained, rosters, config, consulted)
    hybrid = best(tune, HYBRIDS)
    alone = [a for a in tune if a in ("S", "G16", "Gfull") or a in single_names(trained)]
    best_single = best(tune, alone)
    by_draw = [
        score_arms(test_arms(t, r, frame, config, best(tune, DISPATCHERS), consulted), t)
        for t, r in zip(trained, rosters, strict=True)
    ]

    weights = case_weights(frame, counts) if len(frame) else np.zeros((len(counts), 0), np.float32)
    truth = trained[0].test.matrix.truth
    results: dict[str, ArmResult] = {}
    p1: dict[str, Float] = {}
    p2: dict[str, Float] = {}
    beside: dict[str, dict[str, Float]] = {
        "balanced_accuracy": {},
        "auroc": {},
        "accuracy_unconfounded": {},
    }
    for name in by_draw[0]:
        runs = [d[name] for d in by_draw]
        # sums by cell and replicate are large: those of one arm at a time
        sums = [scorer.sums(r.outcomes) for r in runs]
        values = _overall(scorer, runs, sums, truth, models)
        p1[name] = values["accuracy"]
        for metric, into in beside.items():
            into[name] = values[metric]
        result = _arm_result(scorer, runs[0].arm, sums, models, values)
        if is_gated(runs[0].arm) and len(frame):
            gates, p2[name], better = _cross_gates(runs, frame, familiar, weights, models)
            result = replace(
                result,
                gates=gates,
                p2=interval(p2[name]),
                better_gate=better,
                novel_answered=_safety(runs, frame, familiar, counts, models),
            )
        results[name] = result

    families = [Family("P1", "accuracy", p1), Family("P2", "net_benefit", p2)]
    # whoever can be asked alone must be beaten alone
    colleagues = [c for c in trained[0].colleagues if c in p1]
    opponents = [*(o for o in OPPONENTS if o in p1), *colleagues]
    found = contrasts(hybrid, opponents, families) if frame.scored.any() else []
    costs = {a: results[a].overall["cost"][0] for a in results}
    return Result(
        frame=everything,
        arms=results,
        contrasts=found + _secondary(hybrid, best_single, opponents, p1, p2, beside),
        verdict=verdict(
            hybrid, found, cost=costs.get(hybrid, np.nan), ensemble_cost=costs.get("E", np.nan)
        ),
        hybrid=hybrid,
        best_single=best_single,
        fallbacks=tuple(r.fallback for r in rosters),
        consulted=consulted,
        tune_accuracy=tune,
        novelty=measure_novelty(
            everything, assessments.novelty, assessments.p_value, familiar_all, counts, alpha
        ),
        novelty_score=assessments.novelty,
        curves=deferral_curves(by_draw, frame, familiar, weights[:1]),
        sweep=sweep_worths(by_draw, frame, familiar, weights[:1], [hybrid, *opponents]),
        alpha=alpha,
        replicates=replicates,
        seed=seed,
        draws=tuple(t.seed for t in trained),
        outcomes=RunOutcomes(
            frame,
            {a: mean_outcomes([d[a].outcomes for d in by_draw]) for a in by_draw[0]},
            assessments.novelty[asked],
            assessments.p_value[asked],
        ),
        details=look(
            Looked(
                frame,
                counts,
                models,
                by_draw,
                trained,
                rosters,
                assessments.p_value[asked] <= alpha,
                familiar,
                hybrid,
                best_single,
                consulted,
                facts,
            )
        ),
    )


def _overall(
    scorer: Scorer,
    runs: Sequence[Scored],
    sums: Sequence[Sums],
    truth: NDArray[np.int16],
    models: Float,
) -> dict[str, Float]:
    out = {m: over_models([scorer.metric(m, s) for s in sums], models) for m in METRICS}
    clean = scorer.known & ~scorer.confounded
    out["accuracy_unconfounded"] = over_models(
        [scorer.metric("accuracy", s, clean) for s in sums], models
    )
    out["auroc"] = np.full(len(models), np.nan, np.float32)
    if is_gated(runs[0].arm):
        out["auroc"] = over_models([scorer.auroc(r.outcomes, truth) for r in runs], models)
    return out


def _arm_result(
    scorer: Scorer,
    arm: Arm,
    sums: Sequence[Sums],
    models: Float,
    overall: Mapping[str, Float],
) -> ArmResult:
    keys = [(m, s) for m in METRICS for s in scorer.scopes()]
    rows = [over_models([scorer.metric(m, x, s.cells) for x in sums], models) for m, s in keys]
    found = intervals(np.stack([*overall.values(), *rows]))
    triple = [(float(a), float(b), float(c)) for a, b, c in found]
    per: dict[str, dict[str, dict[str, Interval]]] = {
        "tier": {m: {} for m in METRICS},
        "modality": {m: {} for m in METRICS},
    }
    for (metric, scope), value in zip(keys, triple[len(overall) :], strict=True):
        per[scope.kind][metric][scope.name] = value
    return ArmResult(
        name=arm.name,
        kind=arm.kind,
        overall=dict(zip(overall, triple, strict=False)),
        per_tier=per["tier"],
        per_modality=per["modality"],
    )


def _cross_gates(
    runs: Sequence[Scored],
    frame: Frame,
    familiar: NDArray[np.float64],
    weights: Float,
    models: Float,
) -> tuple[dict[str, dict[float, dict[str, Interval]]], Float, str]:
    """Gate → budget → numbers; P2, the mean over budgets under the better gate, (r,); its name."""
    numbers: dict[str, dict[float, dict[str, Interval]]] = {}
    means = []
    for gate in GATES:
        each = [
            gated(gate_order(gate, frame, r.outcomes, familiar), frame, r.outcomes, weights)
            for r in runs
        ]
        numbers[gate] = {
            budget: {
                number: interval(over_models([getattr(e, number)[:, j] for e in each], models))
                for number in ("net_benefit", "coverage", "selective_accuracy")
            }
            for j, budget in enumerate(BUDGETS)
        }
        means.append(over_models([e.net_benefit.mean(axis=1) for e in each], models))
    both = np.stack(means)
    # re-chosen in every replicate, for every arm alike
    return numbers, np.asarray(both.max(axis=0), np.float32), GATES[int(both[:, 0].argmax())]


def _safety(
    runs: Sequence[Scored],
    frame: Frame,
    familiar: NDArray[np.float64],
    counts: Float,
    models: Float,
) -> dict[str, Interval]:
    """Gate → share of novel cases answered when 5 % of the arm's common cases are referred."""
    common = frame.scored & frame.usable & (frame.tier == "common")
    novel = frame.novel & frame.usable
    if not common.any() or not novel.any():
        return {}
    weight = counts[:, frame.group]
    out = {}
    for gate in GATES:
        # the novelty gate looks at no arm: one draw stands for all
        scores = [familiar] if gate == "novelty" else [r.outcomes.confidence for r in runs]
        values = []
        for score in scores:
            by = answered_at(score, frame, common, novel, weight)
            values.append(mean_known(np.stack(list(by.values()))))
        out[gate] = interval(over_models(values, models))
    return out


def _secondary(
    hybrid: str,
    best_single: str,
    opponents: Sequence[str],
    p1: Mapping[str, Float],
    p2: Mapping[str, Float],
    beside: Mapping[str, Mapping[str, Float]],
) -> list[Contrast]:
    """Contrasts beside the registered ones, without adjustment and without a say."""
    pairs = [("accuracy", p1, hybrid, best_single)] if best_single not in opponents else []
    pairs += [(metric, values, hybrid, b) for metric, values in beside.items() for b in opponents]
    for a, b in (
        (hybrid, "random"),
        (hybrid, "tags"),
        ("H-tier16", "S"),
        ("H-tier16", "G16"),
        ("Gfull", "G16"),
        ("Gfull", "linear-full"),
        ("G16", "linear-16"),
        ("S", "linear-full"),
        ("case-oracle", "twin-oracle"),
        (hybrid, "E-consult"),
        ("E-consult", "Gfull"),
        ("E-consult", "E"),
        ("pair-oracle", "twin-oracle"),
        ("task-oracle", hybrid),
        *((h, hybrid) for h in HYBRIDS if h != hybrid),
    ):
        if a in p1 and b in p1:
            pairs.append(("accuracy", p1, a, b))
        if a in p2 and b in p2:
            pairs.append(("net_benefit", p2, a, b))
    out = []
    for metric, values, a, b in pairs:
        d = values[a] - values[b]
        delta, low, high = interval(d)
        nan = float("nan")
        out.append(
            Contrast(
                "beside", a, b, metric, delta, low, high, nan, p_value(d), nan,
                minimum_detectable(d),
            )
        )  # fmt: skip
    return out
