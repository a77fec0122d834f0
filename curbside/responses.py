"""The response matrix: case × agent → reading or not, probabilities, correctness, cost.

Written by evaluations (and from the ledger), read by competence and by replay.
Models are called once to fill it; every policy is then scored from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError
from curbside.readings import Abstention, Failure, Reading

__all__ = ["ResponseMatrix", "ResponseStatus"]


class ResponseStatus(IntEnum):
    """What a cell of the matrix holds."""

    NOT_ASKED = 0
    READ = 1
    ABSTAINED = 2
    FAILED = 3


@dataclass(frozen=True)
class ResponseMatrix:
    """n cases × a agents, columnar.

    Args:
        cases: ids, length n.
        agents: names, length a.
        status: int8 (n, a), values of :class:`ResponseStatus`.
        probabilities: float32 (n, a, k), over each case's own options, padded with 0.
        n_options: int16 (n,), how many of the k are real (0: an open question).
        truth: int16 (n,), index of the true option, -1 where unknown.
        confidence: float32 (n, a), NaN where there is no reading.
        latency_ms: float32 (n, a).
        cost: float32 (n, a), in the fleet file's unit per study.
    """

    cases: tuple[str, ...]
    agents: tuple[str, ...]
    status: NDArray[np.int8]
    probabilities: NDArray[np.float32]
    n_options: NDArray[np.int16]
    truth: NDArray[np.int16]
    confidence: NDArray[np.float32]
    latency_ms: NDArray[np.float32]
    cost: NDArray[np.float32]

    def __post_init__(self) -> None:
        n, a = len(self.cases), len(self.agents)
        if self.status.shape != (n, a) or self.probabilities.shape[:2] != (n, a):
            raise InternalError(f"response matrix is not {n} cases x {a} agents")

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def read(self) -> NDArray[np.bool_]:
        """bool (n, a): there is a reading."""
        there: NDArray[np.bool_] = self.status == ResponseStatus.READ
        return there

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool (n, a): there is a reading and its top option is the truth."""
        top = self.probabilities.argmax(axis=2)
        right: NDArray[np.bool_] = (top == self.truth[:, None]) & (self.truth[:, None] >= 0)
        return self.read & right

    def column(self, agent: str) -> int:
        """Column of an agent.  Raises InternalError when the matrix has no such agent."""
        try:
            return self.agents.index(agent)
        except ValueError:
            raise InternalError(f"no agent {agent!r} in the matrix; it has {self.agents}") from None

    def take(self, rows: NDArray[np.intp]) -> Self:
        """The same agents on some cases, in the order given."""
        picked = {
            f.name: getattr(self, f.name)[rows]
            for f in fields(self)
            if f.name not in ("cases", "agents")
        }
        return replace(self, cases=tuple(self.cases[i] for i in rows), **picked)

    def select(self, agents: Sequence[str]) -> Self:
        """Some agents on the same cases, in the order given."""
        c = [self.column(a) for a in agents]
        return replace(
            self,
            agents=tuple(agents),
            status=self.status[:, c],
            probabilities=self.probabilities[:, c],
            confidence=self.confidence[:, c],
            latency_ms=self.latency_ms[:, c],
            cost=self.cost[:, c],
        )

    @classmethod
    def concatenated(cls, parts: Sequence[Self]) -> Self:
        """The cases of one or more matrices of the same agents, one after the other.

        Raises:
            InternalError: other agents, or in another order.
        """
        agents = parts[0].agents
        if any(p.agents != agents for p in parts):
            raise InternalError("matrices of different agents cannot be joined by case")
        k = max(p.probabilities.shape[2] for p in parts)
        wide = [
            np.pad(p.probabilities, ((0, 0), (0, 0), (0, k - p.probabilities.shape[2])))
            for p in parts
        ]
        joined = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts])
            for f in fields(cls)
            if f.name not in ("cases", "agents", "probabilities")
        }
        cases = tuple(c for p in parts for c in p.cases)
        return cls(cases=cases, agents=agents, probabilities=np.concatenate(wide), **joined)

    @classmethod
    def from_responses(
        cls,
        cases: Sequence[str],
        agents: Sequence[str],
        options: Sequence[Sequence[str]],
        labels: Sequence[str | None],
        responses: Sequence[Sequence[Reading | Abstention | Failure | None]],
    ) -> Self:
        """Columns from objects: ``responses[i][j]`` is what agent j said of case i, or None."""
        n, a = len(cases), len(agents)
        k = max((len(o) for o in options), default=0)
        status = np.zeros((n, a), np.int8)
        probabilities = np.zeros((n, a, k), np.float32)
        confidence = np.full((n, a), np.nan, np.float32)
        latency = np.zeros((n, a), np.float32)
        cost = np.zeros((n, a), np.float32)
        truth = np.full(n, -1, np.int16)
        for i, (opts, label) in enumerate(zip(options, labels, strict=True)):
            if label is not None and label in opts:
                truth[i] = list(opts).index(label)
            for j, r in enumerate(responses[i]):
                if isinstance(r, Reading):
                    status[i, j] = ResponseStatus.READ
                    probabilities[i, j, : len(r.probabilities)] = r.probabilities
                    confidence[i, j] = r.confidence
                    latency[i, j], cost[i, j] = r.latency_ms, r.cost
                elif isinstance(r, Abstention):
                    status[i, j] = ResponseStatus.ABSTAINED
                elif isinstance(r, Failure):
                    status[i, j] = ResponseStatus.FAILED
        n_options = np.array([len(o) for o in options], np.int16).reshape(n)
        return cls(
            tuple(cases),
            tuple(agents),
            status,
            probabilities,
            n_options,
            truth,
            confidence,
            latency,
            cost,
        )
