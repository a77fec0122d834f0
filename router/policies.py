"""The routing policies that ship: ``tier``, ``competence``, ``cascade``,
``average`` and ``consult``.

All are vectorised over cases and pure; serving and replay run the same ``next``.  Each
reduces to an order of agents for every case: ask the first, fall back to the next when it
abstains or fails, refer to a person when none is left.  Whoever decides, no answer rests on a
reader that nothing vouches for (:mod:`curbside.router.unproven`).  Knows no agent but by its
column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

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
from curbside.router.policy_steps import (
    CODE,
    REASONS,
    first_that_reads,
    generalist_first,
    is_novel,
    mean_answers,
    pick,
    shares,
    tier_order,
)
from curbside.router.unproven import HeldUnproven

__all__ = [
    "AverageRule",
    "CascadeRule",
    "CompetenceRule",
    "ConsultRule",
    "TierRule",
    "make_policy",
]


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
        order, reason = tier_order(assessments, self.config.minimum_support, self.generalist)
        order, reason = generalist_first(order, reason, novel, self.generalist)
        return first_that_reads(order, reason, novel, responses, self.config.floor)


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
        order, reason = tier_order(assessments, self.FALLBACK_SUPPORT, self.generalist)
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
        reason = np.where(known, CODE["most_competent"], CODE["competence_unknown"])
        estimate = assessments.competence[rows, order[:, 0]] if len(responses.agents) else mine
        worth = self.config.person_accuracy - self.config.person_cost
        floor = max(self.config.floor, worth)
        doubtful = known & (np.nan_to_num(estimate, nan=1.0) < floor) & ~novel
        order, reason = generalist_first(order, reason, novel, self.generalist)
        step = first_that_reads(order, reason, novel | doubtful, responses, 0.0)
        held = doubtful & (step.action == Action.REFER) & (step.weights.sum(1) > 0)
        reason = np.where(held, CODE["below_floor"], step.reason).astype(np.int16)
        return replace(step, reason=reason)


@dataclass(frozen=True)
class CascadeRule:
    """The first reader answers when it is sure and the case familiar; otherwise both read.

    Then the surer answers, or a person where they differ and ``refer_disagreement`` says so.
    """

    config: CascadePolicy
    generalist: int
    name: str = "cascade"
    reasons: tuple[str, ...] = REASONS

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        novel = is_novel(assessments, self.config.alpha)
        order, reason = tier_order(assessments, self.config.minimum_support, self.generalist)
        order, reason = generalist_first(order, reason, novel, self.generalist)
        step = first_that_reads(order, reason, novel, responses, self.config.floor)
        rows = np.arange(len(order))
        read = responses.status == ResponseStatus.READ
        first, second = order[:, 0], order[:, 1]
        has_second = second >= 0
        first_read = read[rows, first]
        unsure = pick(responses.confidence, first) < self.config.escalate_below
        unsure |= is_novel(assessments, self.config.escalate_unfamiliar)
        unsure &= first_read
        escalate = unsure & has_second & ~novel
        asked = np.where(has_second, responses.status[rows, second] != 0, False)
        ask_second = escalate & ~asked
        both = escalate & asked & np.where(has_second, read[rows, second], False)
        surer = np.where(
            pick(responses.confidence, second) > pick(responses.confidence, first), second, first
        )
        differ = pick(responses.choice, first) != pick(responses.choice, second)
        confidence = pick(responses.confidence, surer)
        action, ask, weights, why = (
            step.action.copy(),
            step.ask.copy(),
            step.weights.copy(),
            step.reason.copy(),
        )
        sure = first_read & ~unsure & ~novel & (action == Action.ANSWER)
        why[sure] = CODE["sure_enough"]
        action[ask_second], ask[ask_second] = Action.ASK, False
        ask[rows[ask_second], second[ask_second]] = True
        weights[both] = 0.0
        weights[rows[both], surer[both]] = 1.0
        low = both & (confidence < self.config.floor)
        refer = low | (both & differ & self.config.refer_disagreement)
        action[both] = np.where(refer[both], Action.REFER, Action.ANSWER)
        code = np.where(differ, CODE["disagreement"], CODE["escalated"])
        why[both] = np.where(low, CODE["below_floor"], code)[both]
        return Step(action, ask, weights, why.astype(np.int16))


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
        weights = shares(weights)

        first, other = specialist.astype(np.int16), np.full(n, g, np.int16)
        parts = [
            np.nan_to_num(pick(responses.confidence, c)) * np.nan_to_num(pick(weights, c))
            for c in (first, other)
        ]
        agree = pick(responses.choice, first) == pick(responses.choice, other)
        sure = np.where(agree, parts[0] + parts[1], np.maximum(parts[0], parts[1]))
        alone = (weights > 0).sum(axis=1) == 1
        thin = np.where(specialist >= 0, CODE["rare"], CODE["no_specialist"])
        single = np.where(both | ~read[:, g], CODE["fallback"], thin)
        reason = np.where(alone, single, CODE["averaged"])
        return mean_answers(ask, weights, sure, reason, novel, self.config.floor)


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
        weights = shares(weights)

        share = np.where(weights > 0, weights * np.nan_to_num(responses.confidence), 0)
        same = np.zeros(n, np.float32)
        for column in columns:
            own = pick(responses.choice, column)
            agreed = (responses.choice == own[:, None]) & (weights > 0)
            same = np.maximum(same, (share * agreed).sum(axis=1))
        own = np.where(known, CODE["sure_enough"], CODE["rare"])
        alone = np.where(read[:, g], own, CODE["fallback"])
        reason = np.where(several, CODE["averaged"], alone)
        return mean_answers(ask, weights, same, reason, novel, self.config.floor)


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
    rule = _rule(config, agents, generalist, costs)
    return HeldUnproven(rule, config.alpha) if config.hold_unproven else rule


def _rule(
    config: PolicyConfig, agents: tuple[str, ...], generalist: str, costs: Mapping[str, float]
) -> Policy:
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
