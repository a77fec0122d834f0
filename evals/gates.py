"""Gates, crossed with every arm alike: what is referred to a person, at a given budget.

``novelty``: the least familiar first (one order for all arms).  ``confidence``: what the arm
itself is least sure of first.  At a budget of b, exactly the share b of the weighted cases is
referred, the last one in part, so that arms are compared at equal refusals.  What an arm
left unanswered is its first referral: it is no free one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.metrics import NOVEL_PREVALENCE, Utility, ratio

__all__ = ["BUDGETS", "GATES", "Gated", "case_weights", "familiarity", "gate_order", "gated"]

Float = NDArray[np.float32]

#: Shares of cases referred at which P2 compares arms.
BUDGETS = (0.05, 0.10, 0.20)
GATES = ("novelty", "confidence")


@dataclass(frozen=True)
class Gated:
    """An arm under one gate, each float32 (r, budgets).

    ``answered`` and ``right`` are shares of the weighted known cases.
    """

    net_benefit: Float
    coverage: Float
    selective_accuracy: Float


def familiarity(assessments: Assessments) -> NDArray[np.float64]:
    """One order over all cases, higher is more familiar: the p-value, then the score.

    Conformal p-values are steps of 1 / (n + 1); within a step the novelty score decides.
    """
    order = np.lexsort((-assessments.novelty, assessments.p_value))
    rank = np.empty(len(order), np.float64)
    pairs = np.stack([assessments.p_value, -assessments.novelty], axis=1)[order]
    new = np.ones(len(order), bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    rank[order] = np.cumsum(new)
    return rank


def case_weights(frame: Frame, counts: Float, prevalence: float = NOVEL_PREVALENCE) -> Float:
    """Weight of each case in each replicate, float32 (r, n), rows sum to 1.

    Known modalities with tasks share 1 − prevalence evenly, novel ones the rest evenly.
    """
    drawn = counts[:, frame.group]
    weights = np.zeros_like(drawn)
    known, novel = frame.scored, frame.novel
    for flags, share in ((known, 1 - prevalence), (novel, prevalence)):
        part = np.zeros_like(drawn)
        for m in sorted(set(frame.modality[flags].tolist())):
            rows = np.flatnonzero(flags & (frame.modality == m))
            part[:, rows] = np.nan_to_num(
                ratio(
                    drawn[:, rows], drawn[:, rows].sum(axis=1, keepdims=True) + drawn[:, rows] * 0
                )
            )
        total = part.sum(axis=1, keepdims=True)
        weights += share * np.nan_to_num(ratio(part, total + part * 0))
    whole = weights.sum(axis=1, keepdims=True)
    return np.nan_to_num(ratio(weights, whole + weights * 0))


def gate_order(
    gate: str, frame: Frame, outcomes: Outcomes, familiar: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Rows in the order in which they are referred; ties by familiarity, then by id."""
    first = familiar if gate == "novelty" else outcomes.confidence
    return np.lexsort((frame.ids, familiar, first, outcomes.answered >= 0.5))


def gated(
    order: NDArray[np.intp],
    frame: Frame,
    outcomes: Outcomes,
    weights: Float,
    budgets: tuple[float, ...] = BUDGETS,
    utility: Utility | None = None,
) -> Gated:
    """An arm when the first cases of ``order`` are referred, for all replicates.

    Args:
        weights: float32 (r, n) from :func:`case_weights`.
    """
    utility = utility or Utility()
    known = frame.scored.astype(np.float32)
    worth = utility.of(outcomes.right, outcomes.answered, frame.novel)
    first, share = _head(order, weights, max(budgets))
    head = weights[:, first]
    cut = _cuts(share, head, budgets)

    def kept(values: Float) -> Float:
        """Weighted sum of a per-case number over what is not referred, (r, budgets)."""
        referred = _at(np.cumsum(head * values[first], axis=1), cut)
        return np.asarray((weights @ values)[:, None] - referred, np.float32)

    answered, right = kept(outcomes.answered * known), kept(outcomes.right * known)
    whole = (weights @ known)[:, None] + answered * 0
    return Gated(
        net_benefit=kept(worth) + utility.referral * _at(share, cut),
        coverage=ratio(answered, whole),
        selective_accuracy=ratio(right, answered),
    )


def _head(order: NDArray[np.intp], weights: Float, budget: float) -> tuple[NDArray[np.intp], Float]:
    """The first rows of an order, as many as every replicate needs to fill the budget."""
    n = len(order)
    length = min(n, 64)
    while True:
        share = np.cumsum(weights[:, order[:length]], axis=1)
        if length == n or bool((share[:, -1] >= budget).all()):
            return order[:length], share
        # the sample says about how many it takes; growing by half covers the replicates
        reach = int(np.searchsorted(np.cumsum(weights[0, order]), budget)) + 64
        length = min(n, max(reach, length + length // 2))


Cut = tuple[NDArray[np.intp], Float]


def _cuts(share: Float, weights: Float, budgets: tuple[float, ...]) -> Cut:
    """For each replicate and budget: how many are referred whole, and how much of the next."""
    r, n = share.shape
    whole = np.empty((r, len(budgets)), np.intp)
    for i in range(r):
        whole[i] = np.searchsorted(share[i], budgets, side="left")
    whole = np.minimum(whole, n - 1)
    rows = np.arange(r)[:, None]
    before = share[rows, whole] - weights[rows, whole]
    part = ratio(np.asarray(budgets, np.float32) - before, weights[rows, whole])
    return whole, np.clip(np.nan_to_num(part), 0, 1)


def _at(cumulative: Float, cut: Cut) -> Float:
    """A cumulative sum at the cuts, the last case in part."""
    whole, part = cut
    rows = np.arange(len(cumulative))[:, None]
    upto = cumulative[rows, whole]
    before = np.where(whole > 0, cumulative[rows, np.maximum(whole - 1, 0)], 0)
    return np.asarray(before + part * (upto - before), np.float32)
