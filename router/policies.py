"""The routing policies that ship: ``tier``, ``competence``, ``cascade``,
``average`` and ``consult``.

All are vectorised over cases and pure; serving and replay run the same ``next``.  Each
reduces to an order of agents for every case: ask the first, fall back to the next when it
abstains or fails, refer to a person when none is left.  Knows no agent but by its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import (
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    PolicyConfig,
    TierPolicy,
)
from curbside.errors import ConfigError, InternalError
from curbside.responses import ResponseStatus
from curbside.router.policy import Action, Policy, Responses, Step

__all__ = [
    "REASONS",
    "AverageRule",
    "CascadeRule",
    "CompetenceRule",
    "ConsultRule",
    "TierRule",
    "is_novel",
    "make_policy",
    "unproven",
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
_CODE = {code: i for i, code in enumerate(REASONS)}

#: P(correct) from which an answer (right +1, wrong −1) is worth more than a referral (−1/4).
WORTH_ANSWERING = 0.375

Columns = NDArray[np.int16]


def is_novel(assessments: Assessments, alpha: float) -> NDArray[np.bool_]:
    """bool (n,): the p-value is at or below alpha; nothing is novel at alpha = 0."""
    return np.asarray((assessments.p_value <= alpha) & (alpha > 0), np.bool_)


def unproven(assessments: Assessments) -> NDArray[np.bool_]:
    """bool (n, a): nothing shows that the agent reads such cases, or it reads them too badly.

    P(correct) is unknown where competence was learned of some agent, or below 3/8: there a
    referral, at a quarter of what a wrong answer costs, is worth more than an answer.  Where
    nothing was learned of any agent, nobody is unproven.
    """
    learned = (assessments.competence_support > 0).any(axis=1, keepdims=True)
    unknown = np.isnan(assessments.competence) & learned
    return np.asarray(unknown | (assessments.competence < WORTH_ANSWERING), np.bool_)


@dataclass(frozen=True)
class TierRule:
    """Common to its specialist, rare to the generalist, novel to a person.

    A novel case is read by the generalist and that reading is provisional: the case ends
    in a referral.
    """

    config: TierPolicy
    generalist: int
    name: str = "tier"
    reasons: tuple[str, ...] = REASONS

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        novel = is_novel(assessments, self.config.alpha)
        order, reason = _tier_order(assessments, self.config.minimum_support, self.generalist)
        order, reason = _generalist_first(order, reason, novel, self.generalist)
        step = _first_that_reads(order, reason, novel, responses, self.config.floor)
        return _held_unproven(step, assessments, self.config)


@dataclass(frozen=True)
class CompetenceRule:
    """The specialist of the modality or the generalist: who is likelier right, minus cost.

    Only these two compete: another modality's specialist says in its card that the case is
    not its own.  Where competence knows neither, the tier rule decides and the reason says so.
    A person reads where the better of the two is estimated below the floor, or where a
    referral is worth more: P(correct) < ``person_accuracy`` − ``person_cost``.
    """

    config: CompetencePolicy
    generalist: int
    costs: tuple[float, ...]
    name: str = "competence"
    reasons: tuple[str, ...] = REASONS

    #: Labelled cases from which the fallback takes the specialist.
    FALLBACK_SUPPORT = TierPolicy().minimum_support

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        n = len(assessments)
        novel = is_novel(assessments, self.config.alpha)
        order, reason = _tier_order(assessments, self.FALLBACK_SUPPORT, self.generalist)
        rows, specialist = np.arange(n), assessments.specialist
        utility = assessments.competence - self.config.cost_weight * np.asarray(self.costs)
        mine = np.where(specialist >= 0, utility[rows, specialist], np.nan)
        other = utility[:, self.generalist] if utility.shape[1] else np.full(n, np.nan)
        known = np.isfinite(mine) | np.isfinite(other)
        prefer = np.nan_to_num(mine, nan=-np.inf) > np.nan_to_num(other, nan=-np.inf)
        chosen = np.stack(
            [
                np.where(prefer, specialist, self.generalist),
                np.where(prefer, self.generalist, specialist),
            ],
            axis=1,
        ).astype(np.int16)
        order = np.where(known[:, None], chosen, order)
        reason = np.where(known, _CODE["most_competent"], _CODE["competence_unknown"])
        estimate = assessments.competence[rows, order[:, 0]] if len(responses.agents) else mine
        worth = self.config.person_accuracy - self.config.person_cost
        floor = max(self.config.floor, worth)
        doubtful = known & (np.nan_to_num(estimate, nan=1.0) < floor) & ~novel
        order, reason = _generalist_first(order, reason, novel, self.generalist)
        step = _first_that_reads(order, reason, novel | doubtful, responses, 0.0)
        held = doubtful & (step.action == Action.REFER) & (step.weights.sum(1) > 0)
        reason = np.where(held, _CODE["below_floor"], step.reason).astype(np.int16)
        return _held_unproven(replace(step, reason=reason), assessments, self.config)


@dataclass(frozen=True)
class CascadeRule:
    """The first reader answers when it is sure; otherwise both read and the surer answers."""

    config: CascadePolicy
    generalist: int
    name: str = "cascade"
    reasons: tuple[str, ...] = REASONS

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        novel = is_novel(assessments, self.config.alpha)
        order, reason = _tier_order(assessments, self.config.minimum_support, self.generalist)
        order, reason = _generalist_first(order, reason, novel, self.generalist)
        step = _first_that_reads(order, reason, novel, responses, self.config.floor)
        rows = np.arange(len(order))
        read = responses.status == ResponseStatus.READ
        first, second = order[:, 0], order[:, 1]
        has_second = second >= 0
        first_read = read[rows, first]
        unsure = first_read & (_at(responses.confidence, first) < self.config.escalate_below)
        escalate = unsure & has_second & ~novel
        asked = np.where(has_second, responses.status[rows, second] != 0, False)
        ask_second = escalate & ~asked
        both = escalate & asked & np.where(has_second, read[rows, second], False)
        surer = np.where(
            _at(responses.confidence, second) > _at(responses.confidence, first), second, first
        )
        differ = _at(responses.choice, first) != _at(responses.choice, second)
        confidence = _at(responses.confidence, surer)
        action, ask, weights, why = (
            step.action.copy(),
            step.ask.copy(),
            step.weights.copy(),
            step.reason.copy(),
        )
        sure = first_read & ~unsure & ~novel & (action == Action.ANSWER)
        why[sure] = _CODE["sure_enough"]
        action[ask_second], ask[ask_second] = Action.ASK, False
        ask[rows[ask_second], second[ask_second]] = True
        weights[both] = 0.0
        weights[rows[both], surer[both]] = 1.0
        low = both & (confidence < self.config.floor)
        action[both] = np.where(low[both], Action.REFER, Action.ANSWER)
        code = np.where(differ, _CODE["disagreement"], _CODE["escalated"])
        why[both] = np.where(low, _CODE["below_floor"], code)[both]
        step = Step(action, ask, weights, why.astype(np.int16))
        return _held_unproven(step, assessments, self.config)


@dataclass(frozen=True)
class AverageRule:
    """Both read and the weighted mean of their probabilities answers.

    Where only one of them reads (no specialist, thin support, an abstention, a failure) that
    one answers alone; a novel case is the generalist's, provisionally.  What is compared
    with the floor is the least that the mean's top option can have: their weighted
    confidence where they agree, the larger part where they differ.
    """

    config: AveragePolicy
    generalist: int
    name: str = "average"
    reasons: tuple[str, ...] = REASONS

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        n, g = len(assessments), self.generalist
        rows, specialist = np.arange(n), assessments.specialist
        novel = is_novel(assessments, self.config.alpha)
        both = (specialist >= 0) & (assessments.support >= self.config.minimum_support) & ~novel
        status = responses.status
        ask = np.zeros(status.shape, bool)
        ask[:, g] = status[:, g] == ResponseStatus.NOT_ASKED
        # where the generalist gave no reading a specialist that was not to read is asked too
        want = both | ((specialist >= 0) & (status[:, g] > ResponseStatus.READ))
        theirs = np.where(specialist >= 0, status[rows, specialist], ResponseStatus.FAILED)
        second = want & (theirs == ResponseStatus.NOT_ASKED)
        ask[rows[second], specialist[second]] = True

        read = status == ResponseStatus.READ
        weights = np.zeros(status.shape, np.float32)
        weights[:, g] = read[:, g] * np.float32(1 - self.config.weight)
        mine = np.flatnonzero(specialist >= 0)
        own = specialist[mine]
        weights[mine, own] = read[mine, own] * np.float32(self.config.weight)
        weights = _shares(weights)

        first, other = specialist.astype(np.int16), np.full(n, g, np.int16)
        parts = [
            np.nan_to_num(_at(responses.confidence, c)) * np.nan_to_num(_at(weights, c))
            for c in (first, other)
        ]
        agree = _at(responses.choice, first) == _at(responses.choice, other)
        sure = np.where(agree, parts[0] + parts[1], np.maximum(parts[0], parts[1]))
        alone = (weights > 0).sum(axis=1) == 1
        thin = np.where(specialist >= 0, _CODE["rare"], _CODE["no_specialist"])
        single = np.where(both | ~read[:, g], _CODE["fallback"], thin)
        reason = np.where(alone, single, _CODE["averaged"])
        step = _mean_answers(ask, weights, sure, reason, novel, self.config.floor)
        return _held_unproven(step, assessments, self.config)


@dataclass(frozen=True)
class ConsultRule:
    """The generalist answers when it is sure; otherwise colleagues read too, and the mean answers.

    They are also asked where the generalist gave no reading.  A case of a thinly supported
    modality is the generalist's alone, and so is a novel one, provisionally.  What is
    compared with the floor is the least that the mean's top option can have: the weighted
    confidence of those who chose it.

    Args:
        colleagues: columns; -1 stands for the specialist of the recognised modality.
    """

    config: ConsultPolicy
    generalist: int
    colleagues: tuple[int, ...]
    name: str = "consult"
    reasons: tuple[str, ...] = REASONS

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        n, g, status = len(assessments), self.generalist, responses.status
        novel = is_novel(assessments, self.config.alpha)
        columns = [np.full(n, g, np.int16)]
        columns += [
            np.full(n, c, np.int16) if c >= 0 else assessments.specialist.astype(np.int16)
            for c in self.colleagues
        ]
        read = status == ResponseStatus.READ
        always = self.config.escalate_below >= 1
        unsure = always | (responses.confidence[:, g] < self.config.escalate_below)
        known = ~novel & (assessments.support >= self.config.minimum_support)
        want = (read[:, g] & unsure & known) | (status[:, g] > ResponseStatus.READ)
        ask = np.zeros(status.shape, bool)
        weights = np.zeros(status.shape, np.float32)
        ask[:, g] = status[:, g] == ResponseStatus.NOT_ASKED
        weights[:, g] = read[:, g]
        for column in columns[1:]:
            at = np.flatnonzero(want & (column >= 0))
            ask[at, column[at]] = status[at, column[at]] == ResponseStatus.NOT_ASKED
            weights[at, column[at]] = read[at, column[at]]
        several = (weights > 0).sum(axis=1) > 1
        weights = _shares(weights)

        share = np.where(weights > 0, weights * np.nan_to_num(responses.confidence), 0)
        same = np.zeros(n, np.float32)
        for column in columns:
            own = _at(responses.choice, column)
            agreed = (responses.choice == own[:, None]) & (weights > 0)
            same = np.maximum(same, (share * agreed).sum(axis=1))
        own = np.where(known, _CODE["sure_enough"], _CODE["rare"])
        alone = np.where(read[:, g], own, _CODE["fallback"])
        reason = np.where(several, _CODE["averaged"], alone)
        step = _mean_answers(ask, weights, same, reason, novel, self.config.floor)
        return _held_unproven(step, assessments, self.config)


def make_policy(
    config: PolicyConfig,
    *,
    agents: tuple[str, ...],
    generalist: str,
    costs: Mapping[str, float] = MappingProxyType({}),
) -> Policy:
    """The policy that a configuration names, over these agents.

    Args:
        costs: agent → cost per study, 1 where not given (only ``competence`` uses it).

    Raises:
        InternalError: the generalist is none of the agents.
        ConfigError: a colleague of ``consult`` is none of them.
    """
    if generalist not in agents:
        raise InternalError(f"generalist {generalist!r} is none of {agents}")
    column = agents.index(generalist)
    if isinstance(config, TierPolicy):
        return TierRule(config, column)
    if isinstance(config, CascadePolicy):
        return CascadeRule(config, column)
    if isinstance(config, AveragePolicy):
        return AverageRule(config, column)
    if isinstance(config, ConsultPolicy):
        return ConsultRule(config, column, _colleagues(config, agents, generalist))
    return CompetenceRule(config, column, tuple(costs.get(a, 1.0) for a in agents))


def _colleagues(config: ConsultPolicy, agents: tuple[str, ...], generalist: str) -> tuple[int, ...]:
    valid = ("specialist", *(a for a in agents if a != generalist))
    for name in config.colleagues:
        if name not in valid:
            raise ConfigError(
                f"policy.colleagues names {name!r}, which does not serve; "
                f"valid: {', '.join(valid)}",
                hint="curbside fleet show lists the agents",
            )
    return tuple(-1 if c == "specialist" else agents.index(c) for c in config.colleagues)


def _tier_order(
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
        common, _CODE["specialist"], np.where(thin, _CODE["rare"], _CODE["no_specialist"])
    )
    return np.stack([first, second], axis=1).astype(np.int16), reason.astype(np.int16)


def _generalist_first(
    order: Columns, reason: NDArray[np.int16], novel: NDArray[np.bool_], generalist: int
) -> tuple[Columns, NDArray[np.int16]]:
    swap = novel & (order[:, 0] != generalist)
    order = np.where(swap[:, None], order[:, ::-1], order)
    return order, np.where(novel, _CODE["novel"], reason).astype(np.int16)


def _first_that_reads(
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
    low = answered & ~hold & (_at(responses.confidence, chosen) < floor)
    action = np.full(n, int(Action.REFER), np.int8)
    action[answered & ~hold & ~low] = Action.ANSWER
    action[asking] = Action.ASK
    why = np.where(fell_back & ~hold, _CODE["fallback"], reason)
    why = np.where(low, _CODE["below_floor"], why)
    why = np.where(~answered & ~asking & ~hold, _CODE["no_reading"], why)
    return Step(action, ask, weights, why.astype(np.int16))


def _shares(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows that add up to 1; a row of zeros stays one."""
    total, out = weights.sum(axis=1, keepdims=True), np.zeros_like(weights)
    np.divide(weights, total, out=out, where=total > 0)
    return out


def _mean_answers(
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
    reason = np.where(low, _CODE["below_floor"], reason)
    reason = np.where(~some & ~asking, _CODE["no_reading"], reason)
    reason = np.where(novel, _CODE["novel"], reason)
    return Step(action, ask, weights, reason.astype(np.int16))


def _held_unproven(step: Step, assessments: Assessments, config: PolicyConfig) -> Step:
    """An answer that rests on an unproven reader is provisional, and a person decides."""
    if not config.hold_unproven:
        return step
    held = (step.action == Action.ANSWER) & ((step.weights > 0) & unproven(assessments)).any(axis=1)
    # counterfactuals give each case an alpha of its own
    held &= np.asarray(config.alpha) > 0
    if not held.any():
        return step
    return replace(
        step,
        action=np.where(held, int(Action.REFER), step.action).astype(np.int8),
        reason=np.where(held, _CODE["unproven"], step.reason).astype(np.int16),
    )


def _at(values: NDArray[np.float32] | NDArray[np.int16], columns: Columns) -> NDArray[np.float32]:
    """values[i, columns[i]], and NaN where the column is -1."""
    picked = values[np.arange(len(values)), np.maximum(columns, 0)].astype(np.float32)
    return np.where(columns >= 0, picked, np.float32(np.nan))
