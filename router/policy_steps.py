"""What the policies that ship share: their reasons, whom to ask in turn, how the mean answers.

Pure and vectorised over cases, as the policies themselves; knows no configuration.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.responses import ResponseStatus
from curbside.router.policy import Action, Responses, Step

__all__ = [
    "CODE",
    "REASONS",
    "Columns",
    "first_that_reads",
    "generalist_first",
    "is_novel",
    "mean_answers",
    "pick",
    "shares",
    "tier_order",
]

#: Why a case ended as it did; ``explain`` has a sentence for each.
REASONS = (
    "specialist",
    "rare",
    "no_specialist",
    "fallback",
    "novel",
    "below_floor",
    "no_reading",
    "most_competent",
    "competence_unknown",
    "sure_enough",
    "escalated",
    "disagreement",
    "averaged",
    "unproven",
)
CODE = {code: i for i, code in enumerate(REASONS)}

Columns = NDArray[np.int16]


def is_novel(assessments: Assessments, alpha: float) -> NDArray[np.bool_]:
    """bool (n,): the p-value is at or below alpha; nothing is novel at alpha = 0."""
    return np.asarray((assessments.p_value <= alpha) & (alpha > 0), np.bool_)


def tier_order(
    assessments: Assessments, minimum_support: int, generalist: int
) -> tuple[Columns, NDArray[np.int16]]:
    """int16 (n, 2) columns to ask in turn (-1: none), and the reason for the first."""
    specialist = assessments.specialist
    nobody = specialist < 0
    thin = ~nobody & (assessments.support < minimum_support)
    common = ~nobody & ~thin
    first = np.where(common, specialist, generalist)
    second = np.where(common, generalist, specialist)
    reason = np.where(
        common, CODE["specialist"], np.where(thin, CODE["rare"], CODE["no_specialist"])
    )
    return np.stack([first, second], axis=1).astype(np.int16), reason.astype(np.int16)


def generalist_first(
    order: Columns, reason: NDArray[np.int16], novel: NDArray[np.bool_], generalist: int
) -> tuple[Columns, NDArray[np.int16]]:
    swap = novel & (order[:, 0] != generalist)
    order = np.where(swap[:, None], order[:, ::-1], order)
    return order, np.where(novel, CODE["novel"], reason).astype(np.int16)


def first_that_reads(
    order: Columns,
    reason: NDArray[np.int16],
    hold: NDArray[np.bool_],
    responses: Responses,
    floor: float,
) -> Step:
    """Ask in turn until one reads; hold (provisional) or answer with it; refer if none did."""
    n, a = len(order), len(responses.agents)
    rows = np.arange(n)
    read = responses.status == ResponseStatus.READ
    chosen = np.full(n, -1, np.int16)
    wanted = np.full(n, -1, np.int16)
    fell_back = np.zeros(n, bool)
    for turn in range(order.shape[1]):
        column = order[:, turn]
        open_ = (chosen < 0) & (wanted < 0) & (column >= 0)
        done = open_ & read[rows, column]
        chosen[done] = column[done]
        fell_back |= done & (turn > 0)
        fresh = open_ & (responses.status[rows, column] == ResponseStatus.NOT_ASKED)
        wanted[fresh] = column[fresh]
    ask = np.zeros((n, a), bool)
    asking = wanted >= 0
    ask[rows[asking], wanted[asking]] = True
    weights = np.zeros((n, a), np.float32)
    answered = chosen >= 0
    weights[rows[answered], chosen[answered]] = 1.0
    low = answered & ~hold & (pick(responses.confidence, chosen) < floor)
    action = np.full(n, int(Action.REFER), np.int8)
    action[answered & ~hold & ~low] = Action.ANSWER
    action[asking] = Action.ASK
    why = np.where(fell_back & ~hold, CODE["fallback"], reason)
    why = np.where(low, CODE["below_floor"], why)
    why = np.where(~answered & ~asking & ~hold, CODE["no_reading"], why)
    return Step(action, ask, weights, why.astype(np.int16))


def shares(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that add up to 1; a row of zeros stays one."""
    total, out = weights.sum(axis=1, keepdims=True), np.zeros_like(weights)
    np.divide(weights, total, out=out, where=total > 0)
    return out


def mean_answers(
    ask: NDArray[np.bool_],
    weights: NDArray[np.float32],
    sure: NDArray[np.floating],
    reason: NDArray[np.integer],
    novel: NDArray[np.bool_],
    floor: float,
) -> Step:
    """Ask first; then the mean answers, provisionally where novel or less sure than the floor.

    Args:
        reason: why the mean answers, where it does.
    """
    asking, some = ask.any(axis=1), (weights > 0).any(axis=1)
    low = some & (sure < floor) & ~novel
    action = np.where(some & ~novel & ~low, Action.ANSWER, Action.REFER).astype(np.int8)
    action[asking] = Action.ASK
    reason = np.where(low, CODE["below_floor"], reason)
    reason = np.where(~some & ~asking, CODE["no_reading"], reason)
    reason = np.where(novel, CODE["novel"], reason)
    return Step(action, ask, weights, reason.astype(np.int16))


def pick(values: NDArray[np.float32] | NDArray[np.int16], columns: Columns) -> NDArray[np.float32]:
    """values[i, columns[i]], and NaN where the column is -1."""
    picked = values[np.arange(len(values)), np.maximum(columns, 0)].astype(np.float32)
    return np.where(columns >= 0, picked, np.float32(np.nan))
