"""What a policy is: one vectorised method over what is known so far.

``next(assessments, asked, responses)`` says for each case: ask these agents, answer
with this mixture of readings, or refer to a person.  Cascades, escalation, fallback
and adjudication are all this loop; serving and replay run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.errors import InternalError

__all__ = [
    "HELD",
    "Action",
    "Decisions",
    "Policy",
    "Responses",
    "Step",
    "codes",
    "next_step",
    "run",
]


class Action(IntEnum):
    """What to do next with a case."""

    ASK = 0
    ANSWER = 1
    REFER = 2


@dataclass(frozen=True)
class Responses:
    """What the asked agents said so far, n cases × a agents (columns as ``agents``).

    Args:
        status: int8 (n, a), :class:`curbside.responses.ResponseStatus`; 0 where not asked.
        confidence: float32 (n, a), NaN where there is no reading.
        choice: int16 (n, a), index of the top option, -1 where there is no reading.
    """

    agents: tuple[str, ...]
    status: NDArray[np.int8]
    confidence: NDArray[np.float32]
    choice: NDArray[np.int16]

    def take(self, rows: NDArray[np.intp]) -> Responses:
        """The same columns for some cases."""
        return Responses(self.agents, self.status[rows], self.confidence[rows], self.choice[rows])


@dataclass(frozen=True)
class Step:
    """One step for n cases.

    Args:
        action: int8 (n,), :class:`Action`.
        ask: bool (n, a), agents to ask where action is ASK.
        weights: float32 (n, a), the mixture of readings that is the answer (ANSWER) or the
            provisional answer (REFER; all zero where there is none).  One-hot but for averages.
        reason: int16 (n,), index into :func:`codes` of the policy.
    """

    action: NDArray[np.int8]
    ask: NDArray[np.bool_]
    weights: NDArray[np.float32]
    reason: NDArray[np.int16]


class Policy(Protocol):
    """A routing policy.  ``reasons`` are stable codes that ``Step.reason`` points into."""

    @property
    def name(self) -> str: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    def next(self, assessments: Assessments, responses: Responses) -> Step: ...


#: Reasons that come after any policy's own: what holds whichever policy decides.
HELD = ("tag_disagreement",)


def codes(policy: Policy) -> tuple[str, ...]:
    """What ``Step.reason`` and ``Decisions.reason`` point into."""
    return (*policy.reasons, *HELD)


def next_step(policy: Policy, assessments: Assessments, responses: Responses) -> Step:
    """The policy's next step, held where its tags name another modality than its pixels do.

    Such a study is mislabelled or misread: agents are asked as the policy says, and what they
    say is provisional.  Serving and replay both come through here.
    """
    step = policy.next(assessments, responses)
    held = assessments.tag_disagreement & (step.action == Action.ANSWER)
    if not held.any():
        return step
    return replace(
        step,
        action=np.where(held, int(Action.REFER), step.action).astype(np.int8),
        reason=np.where(held, len(policy.reasons), step.reason).astype(np.int16),
    )


@dataclass(frozen=True)
class Decisions:
    """How n cases ended under a policy.

    Args:
        answered: bool (n,); where False the case is referred to a person.
        weights: float32 (n, a), as in :class:`Step`.
        asked: bool (n, a), every agent that was called on the way.
        reason: int16 (n,), the final step's reason.
    """

    answered: NDArray[np.bool_]
    weights: NDArray[np.float32]
    asked: NDArray[np.bool_]
    reason: NDArray[np.int16]


#: Given rows (into the n cases) and a bool (len(rows), a) of agents to ask, returns what
#: those agents said: a Responses of len(rows) with status != 0 exactly where asked.
Ask = Callable[[NDArray[np.intp], NDArray[np.bool_]], Responses]


def run(policy: Policy, assessments: Assessments, agents: tuple[str, ...], ask: Ask) -> Decisions:
    """Run the policy loop on n cases until each is answered or referred.

    Raises:
        InternalError: the policy asks for nothing new, or does not end within a + 1 steps.
    """
    n, a = len(assessments), len(agents)
    status = np.zeros((n, a), np.int8)
    confidence = np.full((n, a), np.nan, np.float32)
    choice = np.full((n, a), -1, np.int16)
    answered = np.zeros(n, bool)
    weights = np.zeros((n, a), np.float32)
    reason = np.zeros(n, np.int16)
    rows = np.arange(n)
    for _ in range(a + 2):
        if not len(rows):
            return Decisions(answered, weights, status != 0, reason)
        if len(rows) == n:  # copies of a million rows are what replay would spend its time on
            so_far, facts = Responses(agents, status, confidence, choice), assessments
        else:
            so_far = Responses(agents, status[rows], confidence[rows], choice[rows])
            facts = assessments.take(rows)
        step = next_step(policy, facts, so_far)
        done = step.action != Action.ASK
        ended = rows[done]
        answered[ended] = step.action[done] == Action.ANSWER
        weights[ended] = step.weights[done]
        reason[ended] = step.reason[done]
        rows, wanted = rows[~done], step.ask[~done] & (so_far.status[~done] == 0)
        if not wanted.any(axis=1).all():
            raise InternalError(f"policy {policy.name} asks for agents already asked, or for none")
        if len(rows):
            new = ask(rows, wanted)
            r, c = np.nonzero(wanted)
            status[rows[r], c] = new.status[r, c]
            confidence[rows[r], c] = new.confidence[r, c]
            choice[rows[r], c] = new.choice[r, c]
    raise InternalError(f"policy {policy.name} does not end")
