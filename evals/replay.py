"""Replay: a policy run against what was recorded instead of against agents.

The same ``next()`` that serves decides here, through the same :func:`~curbside.router.policy.run`;
only the asking is a look-up.  A :class:`Recording` is prepared once, so that a policy over
thousands of cases costs a millisecond or two and every distinct operating point of a
threshold can be replayed, each with all its bootstrap replicates.  Calls no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.responses import ResponseMatrix, ResponseStatus
from curbside.router.policy import Decisions, Policy, Responses, run

__all__ = ["Recording", "Replayed", "distinct_points", "for_agents", "replay_all", "right_of"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """What agents said of n cases, as the policy loop looks it up; columns ``agents``.

    Args:
        assessments: of the same cases, with the same agents.
        status, confidence, choice: (n, a), as in :class:`~curbside.router.policy.Responses`.
        matrix: the same agents' readings, for scoring.
    """

    assessments: Assessments
    agents: tuple[str, ...]
    status: NDArray[np.int8]
    confidence: Float
    choice: NDArray[np.int16]
    matrix: ResponseMatrix

    @classmethod
    def of(
        cls, matrix: ResponseMatrix, assessments: Assessments, agents: Sequence[str] | None = None
    ) -> Self:
        """Prepare a matrix for replay.

        Args:
            agents: those that the policy may ask, in order; default: all of the matrix.
        """
        names = tuple(agents if agents is not None else matrix.agents)
        part = matrix.select(names)
        top = part.probabilities.argmax(axis=2) if part.probabilities.shape[2] else part.status * 0
        # an agent that was never asked cannot be replayed: it failed, as far as the policy knows
        status = np.where(part.status == ResponseStatus.NOT_ASKED, 3, part.status)
        return cls(
            for_agents(assessments, names),
            names,
            status.astype(np.int8),
            np.where(part.read, part.confidence, np.nan).astype(np.float32),
            np.where(part.read, top, -1).astype(np.int16),
            part,
        )

    def __len__(self) -> int:
        return len(self.status)

    def decide(self, policy: Policy) -> Decisions:
        """How every case ends under a policy."""

        def ask(rows: NDArray[np.intp], wanted: NDArray[np.bool_]) -> Responses:
            # run takes what it wanted and nothing else
            if len(rows) == len(self.status):
                return Responses(self.agents, self.status, self.confidence, self.choice)
            return Responses(
                self.agents, self.status[rows], self.confidence[rows], self.choice[rows]
            )

        return run(policy, self.assessments, self.agents, ask)


@dataclass(frozen=True)
class Replayed:
    """P policies on n cases, each float32 (n, P): shares in [0, 1], right ≤ answered.

    ``calls`` is the number of agents asked.
    """

    right: Float
    answered: Float
    calls: Float


def replay_all(recording: Recording, policies: Sequence[Policy]) -> Replayed:
    """Every policy over every case; what was referred is neither right nor answered."""
    matrix, correct = recording.matrix, recording.matrix.correct
    shape = (len(recording), len(policies))
    out = Replayed(*(np.zeros(shape, np.float32, order="F") for _ in range(3)))
    for j, policy in enumerate(policies):
        decided = recording.decide(policy)
        out.right[:, j] = right_of(matrix, decided.weights, correct) * decided.answered
        out.answered[:, j] = decided.answered
        out.calls[:, j] = decided.asked.sum(axis=1)
    return out


def right_of(
    matrix: ResponseMatrix, weights: Float, correct: NDArray[np.bool_] | None = None
) -> Float:
    """1 where the top option of the weighted mean of the readings is the truth, float32 (n,)."""
    correct = matrix.correct if correct is None else correct
    used = weights * matrix.read
    right = (used * correct).sum(axis=1) > 0
    several = np.flatnonzero((used > 0).sum(axis=1) > 1)
    if len(several):
        mixed = np.einsum("na,nak->nk", used[several], matrix.probabilities[several])
        truth = matrix.truth[several]
        right[several] = (mixed.argmax(axis=1) == truth) & (truth >= 0)
    return np.asarray(right, np.float32)


def distinct_points(values: NDArray[np.floating]) -> list[float]:
    """Thresholds that tell apart every two distinct values: the values, and one above all.

    Between two of them no decision of the form ``value < threshold`` changes, so these are
    all the operating points that there are.
    """
    known = np.unique(values[np.isfinite(values)])
    if not len(known):
        return [0.0]
    points = np.append(known, np.nextafter(known[-1], known.dtype.type(np.inf)))
    return [float(p) for p in points]


def for_agents(assessments: Assessments, agents: tuple[str, ...]) -> Assessments:
    """The competence columns of some agents; NaN for those that are not assessed."""
    if assessments.agents == agents:
        return assessments
    have = {name: i for i, name in enumerate(assessments.agents)}

    def columns(values: Float, absent: float) -> Float:
        out = np.full((len(assessments), len(agents)), absent, np.float32)
        for j, name in enumerate(agents):
            if name in have:
                out[:, j] = values[:, have[name]]
        return out

    place = {have[name]: j for j, name in enumerate(agents) if name in have}
    specialist = np.array([place.get(int(s), -1) for s in assessments.specialist], np.int16)
    return replace(
        assessments,
        agents=agents,
        specialist=specialist.reshape(len(assessments)),
        competence=columns(assessments.competence, np.nan),
        competence_low=columns(assessments.competence_low, np.nan),
        competence_high=columns(assessments.competence_high, np.nan),
        competence_support=columns(assessments.competence_support, 0.0),
    )
