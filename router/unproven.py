"""Readers that nothing shows to read such cases, and the guard that no answer rests on one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.router.policy import Action, Policy, Responses, Step

__all__ = ["HeldUnproven", "unproven"]

#: P(correct) from which an answer (right +1, wrong −1) is worth more than a referral (−1/4).
WORTH_ANSWERING = 0.375


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
class HeldUnproven:
    """A policy whose answers are provisional where they rest on an unproven reader.

    Args:
        policy: asks and answers; ``unproven`` is among its reasons.
        alpha: of the policy's gate, a number or one a case; where it is 0 nothing is held.
    """

    policy: Policy
    alpha: float | NDArray[np.float64]

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    @property
    def reasons(self) -> tuple[str, ...]:
        """The policy's."""
        return self.policy.reasons

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        """See :class:`curbside.router.policy.Policy`."""
        step = self.policy.next(assessments, responses)
        rests = ((step.weights > 0) & unproven(assessments)).any(axis=1)
        held = (step.action == Action.ANSWER) & rests & (np.asarray(self.alpha) > 0)
        if not held.any():
            return step
        return replace(
            step,
            action=np.where(held, int(Action.REFER), step.action).astype(np.int8),
            reason=np.where(held, self.reasons.index("unproven"), step.reason).astype(np.int16),
        )
