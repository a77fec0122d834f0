"""The arms: who answers each case, as mixture weights over the agents of a response matrix.

Each arm answers everything it can (no gate here); gates are crossed with all arms alike in
``gates``.  Hybrids run the very policies that serve, by :mod:`~curbside.evals.replay`,
over two readers: the specialist team and a generalist.  Nothing here reads the truth but
the oracles, which say so in their ``kind``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import CascadePolicy, PolicyConfig
from curbside.evals.replay import Recording, for_agents
from curbside.responses import ResponseMatrix

__all__ = [
    "Arm",
    "Kind",
    "Outcomes",
    "Roster",
    "blend",
    "case_oracle",
    "hybrid",
    "outcomes",
    "prices_of",
    "random_like",
    "single",
    "task_oracle",
    "team",
]

Float = NDArray[np.float32]
Kind = Literal["alone", "colleague", "ensemble", "hybrid", "baseline", "oracle", "linear", "served"]

#: Name of the two readers that a hybrid chooses between, besides the generalist's own.
TEAM = "specialist-team"


@dataclass(frozen=True)
class Arm:
    """One way to answer n cases from a matrix of a agents.

    Args:
        name: as in ``summary.json``.
        kind: what sort of arm.
        weights: float32 (n, a).  The answer is the top option of the weighted mean of the
            readings; with ``draw`` one agent is drawn with these probabilities instead and
            every number of the arm is the exact expectation over the draw.  A row of zeros
            is a referral to a person.
        asked: float32 (n, a), expected calls.
    """

    name: str
    kind: Kind
    weights: Float
    asked: Float
    draw: bool = False


@dataclass(frozen=True)
class Outcomes:
    """What an arm made of n cases; expectations for arms that draw.

    Args:
        right, answered: float32 (n,) in [0, 1]; right ≤ answered, and right is 0 where the
            truth is unknown or nobody answered.
        confidence: float32 (n,), the arm's own; 0 where there is no answer.
        cost, latency_ms: float32 (n,), summed over the calls made.
        probabilities: float32 (n, k) over each case's options; None for arms that draw.
    """

    right: Float
    answered: Float
    confidence: Float
    cost: Float
    latency_ms: Float
    probabilities: Float | None


@dataclass(frozen=True)
class Roster:
    """Who is who among the agents of a matrix.

    Args:
        specialists: modality → agent.
        fallback: the specialist for cases whose recognised modality has none; best on tune.
    """

    specialists: Mapping[str, str]
    fallback: str


def outcomes(matrix: ResponseMatrix, arm: Arm) -> Outcomes:
    """Score an arm against a matrix; an abstention or a failure never counts as an answer."""
    read = matrix.read
    w = (arm.weights * read).astype(np.float32)
    total = w.sum(axis=1)
    confidence = np.where(read, np.nan_to_num(matrix.confidence), 0).astype(np.float32)
    some = np.where(total > 0, total, 1).astype(np.float32)
    own = (w * confidence).sum(axis=1) / some
    # a failed or abstained call is paid for like any other
    cost = (arm.asked * prices_of(matrix)).sum(axis=1)
    latency = (arm.asked * matrix.latency_ms).sum(axis=1)
    if arm.draw:
        right = (w * matrix.correct).sum(axis=1)
        return _outcomes(right, np.minimum(total, 1), own, cost, latency, None)
    mixed = np.einsum("na,nak->nk", w, matrix.probabilities) / some[:, None]
    answered = total > 0
    top = mixed.argmax(axis=1) if mixed.shape[1] else np.full(len(mixed), -1)
    right = answered & (top == matrix.truth) & (matrix.truth >= 0)
    several = (w > 0).sum(axis=1) > 1
    best = mixed.max(axis=1, initial=0)
    return _outcomes(right, answered, np.where(several, best, own), cost, latency, mixed)


def _outcomes(
    right: NDArray[np.generic],
    answered: NDArray[np.generic],
    confidence: NDArray[np.generic],
    cost: NDArray[np.generic],
    latency: NDArray[np.generic],
    probabilities: Float | None,
) -> Outcomes:
    f = np.float32
    return Outcomes(
        right.astype(f),
        answered.astype(f),
        confidence.astype(f),
        cost.astype(f),
        latency.astype(f),
        probabilities,
    )


def single(matrix: ResponseMatrix, agent: str, name: str, kind: Kind = "alone") -> Arm:
    """One agent answers everything."""
    weights = np.zeros(matrix.status.shape, np.float32)
    weights[:, matrix.column(agent)] = 1
    return Arm(name, kind, weights, weights)


def team_columns(
    matrix: ResponseMatrix, assessments: Assessments, roster: Roster
) -> NDArray[np.intp]:
    """Column of the specialist that the team sends each case to, intp (n,)."""
    by = [matrix.column(roster.specialists.get(m, roster.fallback)) for m in assessments.modalities]
    return np.array(by, np.intp)[assessments.modality]


def team(matrix: ResponseMatrix, assessments: Assessments, roster: Roster) -> Arm:
    """S: the specialist of the recognised modality, else the one best on tune."""
    weights = _one_hot(team_columns(matrix, assessments, roster), matrix)
    return Arm("S", "alone", weights, weights)


def blend(name: str, *arms: Arm) -> Arm:
    """The probability average of several arms, at the cost of all."""
    weights = np.stack([a.weights for a in arms]).mean(axis=0, dtype=np.float32)
    return Arm(name, "ensemble", weights, np.maximum.reduce([a.asked for a in arms]))


def hybrid(
    name: str,
    config: PolicyConfig,
    matrix: ResponseMatrix,
    assessments: Assessments,
    roster: Roster,
    generalist: str,
    *,
    colleagues: tuple[str, ...] = (),
    scores: Float | None = None,
    kind: Kind = "hybrid",
) -> Arm:
    """A serving policy over {the specialist team, one generalist, colleagues}, gates off.

    Args:
        assessments: of the same cases; its agents include those of the matrix that the
            policy needs competence of.
        scores: float32 (n, 2), instead of the learned competence of the two.
    """
    from curbside.router.policies import make_policy

    column = team_columns(matrix, assessments, roster)
    names = (TEAM, generalist, *colleagues)
    off: dict[str, object] = {"alpha": 0.0, "floor": 0.0}
    if isinstance(config, CascadePolicy):
        off["refer_disagreement"] = False
    others = [np.full(len(column), matrix.column(a), np.intp) for a in names[1:]]
    pick = np.stack([column, *others], axis=1)
    # the team costs what the dearest of its specialists does
    costs = prices_of(matrix)[pick].max(axis=0, initial=0)
    policy = make_policy(
        config.model_copy(update=off),
        agents=names,
        generalist=generalist,
        costs=dict(zip(names, costs.tolist(), strict=True)),
    )
    facts = _readers_known(assessments, matrix, pick, names)
    if scores is not None:
        facts = replace(facts, competence=scores)
    readers = Recording.of(_readers(matrix, pick, names), facts)
    decided = readers.decide(policy)
    rows = np.arange(len(matrix))

    def spread(values: NDArray[np.generic]) -> Float:
        out = np.zeros(matrix.status.shape, np.float32)
        for j in range(len(names)):
            out[rows, pick[:, j]] += values[:, j].astype(np.float32)
        return out

    return Arm(name, kind, spread(decided.weights), spread(decided.asked))


def served(
    config: PolicyConfig,
    matrix: ResponseMatrix,
    assessments: Assessments,
    agents: tuple[str, ...],
    generalist: str,
) -> Arm:
    """The policy as configured, its gates on, over the agents that serve."""
    from curbside.router.policies import make_policy

    costs = dict(zip(matrix.agents, prices_of(matrix).tolist(), strict=True))
    policy = make_policy(config, agents=agents, generalist=generalist, costs=costs)
    decided = Recording.of(matrix, assessments, agents).decide(policy)
    weights = np.zeros(matrix.status.shape, np.float32)
    asked = np.zeros(matrix.status.shape, np.float32)
    at = [matrix.column(a) for a in agents]
    weights[:, at] = decided.weights * decided.answered[:, None]
    asked[:, at] = decided.asked
    return Arm("served", "served", weights, asked)


def prices_of(matrix: ResponseMatrix) -> Float:
    """What a call of each agent costs in the fleet's unit, float32 (a,): the most recorded."""
    return np.asarray(matrix.cost.max(axis=0, initial=0), np.float32)


def random_like(name: str, arm: Arm, assessments: Assessments, sides: tuple[Arm, Arm]) -> Arm:
    """Chooses between two arms by chance, as often in each recognised modality as ``arm`` does.

    What an arm gains over this is what it knows about single cases.
    """
    first, second = sides
    differ = first.weights != second.weights
    # share of the first side in the answer; where both sides are one agent it does not matter
    share = np.where(differ.any(axis=1), (arm.weights * (first.weights > 0)).sum(axis=1), 0.5).clip(
        0, 1
    )
    calls = arm.asked.sum(axis=1)
    m = assessments.modality
    n_of = np.maximum(np.bincount(m, minlength=len(assessments.modalities)), 1)
    rate = (np.bincount(m, share, len(n_of)) / n_of)[m][:, None].astype(np.float32)
    mean_calls = (np.bincount(m, calls, len(n_of)) / n_of)[m][:, None].astype(np.float32)
    weights = rate * first.weights + (1 - rate) * second.weights
    return Arm(name, "baseline", weights, weights * mean_calls, draw=True)


def case_oracle(name: str, matrix: ResponseMatrix, sides: tuple[Arm, Arm]) -> Arm:
    """Whichever of two arms is right: the most that any choosing between them could reach."""
    first, second = sides
    better = outcomes(matrix, second).right > outcomes(matrix, first).right
    weights = np.where(better[:, None], second.weights, first.weights)
    return Arm(name, "oracle", weights, weights)


def task_oracle(
    tasks: NDArray[np.str_],
    tune_tasks: NDArray[np.str_],
    tune_right: tuple[Float, Float],
    sides: tuple[Arm, Arm],
) -> Arm:
    """The arm that did better on the case's task on tune (a task is no input of a router)."""
    gain = tune_right[1] - tune_right[0]
    overall = float(gain.mean()) if len(gain) else 0.0
    by = {t: float(gain[tune_tasks == t].mean()) for t in set(tune_tasks.tolist())}
    second = np.array([by.get(t, overall) > 0 for t in tasks.tolist()], bool)[:, None]
    weights = np.where(second, sides[1].weights, sides[0].weights)
    return Arm("task-oracle", "oracle", weights, weights)


def best_fallback(score: Callable[[str], float], specialists: Mapping[str, str]) -> str:
    """The specialist with the highest score; ties go to the first by name."""
    return max(sorted(set(specialists.values())), key=score)


def _one_hot(column: NDArray[np.intp], matrix: ResponseMatrix) -> Float:
    weights = np.zeros(matrix.status.shape, np.float32)
    weights[np.arange(len(column)), column] = 1
    return weights


def _readers(
    matrix: ResponseMatrix, pick: NDArray[np.intp], names: tuple[str, ...]
) -> ResponseMatrix:
    """A matrix of the readers that a hybrid has, intp (n, len(names)) columns of each case."""
    rows = np.arange(len(pick))[:, None]
    return replace(
        matrix,
        agents=names,
        status=matrix.status[rows, pick],
        probabilities=matrix.probabilities[rows, pick],
        confidence=matrix.confidence[rows, pick],
        latency_ms=matrix.latency_ms[rows, pick],
        cost=matrix.cost[rows, pick],
    )


def _readers_known(
    assessments: Assessments,
    matrix: ResponseMatrix,
    pick: NDArray[np.intp],
    names: tuple[str, ...],
) -> Assessments:
    wide = for_agents(assessments, matrix.agents)
    rows = np.arange(len(pick))[:, None]
    return replace(
        wide,
        agents=names,
        specialist=np.zeros(len(pick), np.int16),
        competence=wide.competence[rows, pick],
        competence_low=wide.competence_low[rows, pick],
        competence_high=wide.competence_high[rows, pick],
        competence_support=wide.competence_support[rows, pick],
    )
