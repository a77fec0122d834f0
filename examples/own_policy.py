"""A routing policy of one's own, replayed over recorded readings: no model is called.

    python examples/own_policy.py

The policy asks the two cheapest agents at once and answers only when they agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from curbside.assessments import Assessments
from curbside.responses import ResponseStatus
from curbside.router.policy import Action, Decisions, Responses, Step, run


@dataclass(frozen=True)
class Agree:
    """Both readers or a person."""

    first: int
    second: int
    name: str = "agree"
    reasons: tuple[str, ...] = ("agree", "differ")

    def next(self, assessments: Assessments, responses: Responses) -> Step:
        n, a = responses.status.shape
        pair = [self.first, self.second]
        ask = np.zeros((n, a), bool)
        ask[:, pair] = responses.status[:, pair] == ResponseStatus.NOT_ASKED
        waiting = ask.any(axis=1)
        read = (responses.status[:, pair] == ResponseStatus.READ).all(axis=1)
        same = read & (responses.choice[:, self.first] == responses.choice[:, self.second])
        action = np.where(waiting, Action.ASK, np.where(same, Action.ANSWER, Action.REFER))
        weights = np.zeros((n, a), np.float32)
        weights[np.ix_(np.flatnonzero(same), pair)] = 0.5
        return Step(action.astype(np.int8), ask, weights, (~same).astype(np.int16))


def replay(assessments: Assessments, recorded: Responses) -> Decisions:
    """Run the policy over what was recorded."""

    def ask(rows: np.ndarray, wanted: np.ndarray) -> Responses:
        said = recorded.take(rows)
        return Responses(
            said.agents,
            np.where(wanted, said.status, 0).astype(np.int8),
            np.where(wanted, said.confidence, np.nan).astype(np.float32),
            np.where(wanted, said.choice, -1).astype(np.int16),
        )

    return run(Agree(0, 1), assessments, recorded.agents, ask)


def main(n: int = 1000) -> None:
    """Two readers of two options that agree about half of the time."""
    rng = np.random.default_rng(0)
    nothing = np.zeros((n, 2), np.float32)
    facts = Assessments(
        modalities=("ct",),
        agents=("a", "b"),
        strata=("all",),
        posterior=np.ones((n, 1), np.float32),
        novelty=np.zeros(n),
        p_value=np.ones(n),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 100, np.int32),
        support=np.full(n, 100, np.int32),
        specialist=np.zeros(n, np.int16),
        neighbours=np.zeros((n, 1), np.int64),
        similarity=np.ones((n, 1), np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=nothing,
        competence_low=nothing,
        competence_high=nothing,
        competence_support=nothing,
    )
    recorded = Responses(
        ("a", "b"),
        np.full((n, 2), ResponseStatus.READ, np.int8),
        rng.random((n, 2)).astype(np.float32),
        rng.integers(0, 2, (n, 2)).astype(np.int16),
    )
    done = replay(facts, recorded)
    print(f"answered {done.answered.mean():.0%}, referred {1 - done.answered.mean():.0%}")


if __name__ == "__main__":
    main()
