"""What choosing gains, what it loses to the oracles, and by whose fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from curbside.evals.compare import MARGIN, verdict_of
from curbside.evals.detail_schema import Conclusion, Gain, Regret
from curbside.evals.gates import case_weights
from curbside.evals.looked import Float, Looked, estimate, unknown
from curbside.evals.protocol import CONSULT, DISPATCHERS, OPPONENTS, Scored
from curbside.evals.regret import consult_parts_of, parts_of, to_specialist_share
from curbside.evals.schema_base import Estimate
from curbside.evals.statistics import interval, minimum_detectable, over_models

__all__ = ["conclusions", "gains", "regrets"]


def gains(x: Looked, known: Float, accuracy: Mapping[str, Float]) -> dict[str, Gain]:
    """Hybrid → its gain over choosing by chance, and as a share of the oracle's.

    Args:
        known: weights of known cases, float32 (r, rows).
        accuracy: arm → accuracy in every replicate, float32 (r,).
    """
    chance = _asked_by_chance(x, known)
    out = {
        h: _gain(accuracy[h], accuracy["random"], accuracy["case-oracle"])
        for h in DISPATCHERS
        if "case-oracle" in accuracy
    }
    if chance is not None:
        out[CONSULT] = _gain(accuracy[CONSULT], chance, accuracy["pair-oracle"])
    return out


def regrets(x: Looked, known: Float, accuracy: Mapping[str, Float]) -> dict[str, Regret]:
    """Hybrid → what it loses to the oracles, split by fault; arguments as of :func:`gains`."""
    out = {h: _regret(x, h, known, accuracy) for h in DISPATCHERS if "case-oracle" in accuracy}
    if "pair-oracle" in accuracy:
        out[CONSULT] = _consult_regret(x, known, accuracy)
    return out


def conclusions(x: Looked, accuracy: Mapping[str, Float]) -> list[Conclusion]:
    """The hybrid against each arm alone: better, worse, equivalent or inconclusive."""
    against = (x.best_single, *OPPONENTS, *x.trained[0].colleagues, "E-consult")
    return [_conclude(x, b, accuracy) for b in dict.fromkeys(against) if b in accuracy]


def _gain(own: Float, by_chance: Float, oracle: Float) -> Gain:
    over, room = own - by_chance, oracle - by_chance
    share = np.divide(over, room, out=np.full_like(over, np.nan), where=room > 1e-6)
    return Gain(over_random=estimate(over), normalised=estimate(share))


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
        to_task_oracle=estimate(accuracy["task-oracle"] - accuracy[name]),
        to_case_oracle=estimate(accuracy["case-oracle"] - accuracy[name]),
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
        to_task_oracle=unknown(),
        to_case_oracle=estimate(accuracy["pair-oracle"] - accuracy[CONSULT]),
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
        return unknown()
    return estimate(accuracy["twin-oracle"] - accuracy["Gfull"])


def _parts(
    x: Looked, known: Float, split: Callable[[Mapping[str, Scored]], Mapping[str, Float]]
) -> dict[str, Estimate]:
    """Part → its share in every replicate, mean over the trained draws."""
    each = [split(d) for d in x.by_draw]
    return {
        part: estimate(over_models([known @ e[part][x.rows] for e in each], x.models))
        for part in each[0]
    }


def _novel_away(x: Looked, name: str) -> Estimate:
    """Share of the answers to novel cases that is not the generalist's."""
    novel = np.flatnonzero(x.frame.novel)
    if not len(novel):
        return unknown()
    # novel modalities count evenly, as known ones do
    whole = case_weights(x.frame, x.counts, prevalence=1.0)[:, novel]
    values = [whole @ to_specialist_share(d[name].arm, d["Gfull"].arm)[novel] for d in x.by_draw]
    return estimate(over_models(values, x.models))


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
