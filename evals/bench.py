"""How fast replay and the bootstrap are here: ``curbside eval bench``.

On drawn cases as many as the reference benchmark has, all confidences distinct: what the
numbers say changes nothing of how long they take, and this is the most operating points
that so many cases can have.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from curbside.assessments import Assessments
from curbside.config import CascadePolicy, CompetencePolicy, PolicyConfig, TierPolicy
from curbside.evals.frame import Frame
from curbside.evals.operating import curve_of, operating_points, replay_points
from curbside.evals.replay import Recording
from curbside.evals.statistics import draw_groups
from curbside.responses import ResponseMatrix
from curbside.router.policies import make_policy

__all__ = ["Speed", "drawn_recording", "measure"]

_MODALITIES, _NOVEL = 17, 4
_GENERALIST = "generalist"


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Args:
        decisions: policy → case-decisions a second through the serving ``next()``.
        points: distinct operating points of the cascade's ``escalate_below``.
        replay_seconds, bootstrap_seconds: for all of them; the second with all replicates.
    """

    cases: int
    agents: int
    decisions: dict[str, float]
    points: int
    replicates: int
    replay_seconds: float
    bootstrap_seconds: float


def measure(cases: int = 2933, agents: int = 12, replicates: int = 5000, seed: int = 0) -> Speed:
    """Measure once; takes seconds.

    Args:
        cases: 2,283 with a task and 650 novel by default, as in the reference benchmark.
    """
    frame, recording = drawn_recording(cases, agents, seed)
    kinds: tuple[PolicyConfig, ...] = (TierPolicy(), CompetencePolicy(), CascadePolicy())
    rates: dict[str, float] = {}
    for config in kinds:
        policy = make_policy(config, agents=recording.agents, generalist=_GENERALIST)
        recording.decide(policy)
        rounds, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.5:
            recording.decide(policy)
            rounds += 1
        rates[config.kind] = cases * rounds / (time.perf_counter() - start)
    start = time.perf_counter()
    configs = operating_points(CascadePolicy(), recording, "escalate_below")
    replayed = replay_points(configs, recording, _GENERALIST)
    replay_seconds = time.perf_counter() - start
    start = time.perf_counter()
    counts = draw_groups(frame.n_groups, replicates, seed, frame.strata)
    curve_of(frame, replayed, counts)
    return Speed(
        cases=cases,
        agents=agents,
        decisions=rates,
        points=len(configs),
        replicates=replicates,
        replay_seconds=replay_seconds,
        bootstrap_seconds=time.perf_counter() - start,
    )


def drawn_recording(cases: int, agents: int, seed: int) -> tuple[Frame, Recording]:
    """Random cases and readings: ``agents`` − 1 specialists and a generalist."""
    rng = np.random.default_rng(seed)
    n, m = cases, _MODALITIES
    names = tuple(f"modality-{i}" for i in range(m))
    who = (*(f"specialist-{i}" for i in range(agents - 1)), _GENERALIST)
    column = rng.integers(0, m + _NOVEL, n)
    novel = column >= m
    predicted = np.where(novel, 0, column)
    modality = np.array([*names, *(f"novel-{i}" for i in range(_NOVEL))])[column]
    label = np.where(novel, "", "label-0")
    frame = Frame(
        ids=np.arange(n).astype(np.str_),
        modality=modality,
        predicted=np.array(names)[predicted],
        tier=np.where(novel, "novel", "common"),
        task=np.where(novel, "", "task"),
        label=label,
        group=rng.permutation(np.arange(n) // 2).astype(np.intp),
        usable=np.ones(n, bool),
        asked=np.ones(n, bool),
        rare_finding=np.zeros(n, bool),
        confounded=np.zeros(n, bool),
    )
    specialist = np.where(predicted < agents - 1, predicted, -1).astype(np.int16)
    competence = rng.random((n, agents)).astype(np.float32)
    posterior = np.zeros((n, m), np.float32)
    posterior[np.arange(n), predicted] = 1
    facts = Assessments(
        modalities=names,
        agents=who,
        strata=("all",),
        posterior=posterior,
        novelty=rng.normal(size=n),
        p_value=rng.random(n),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 500, np.int32),
        support=np.where(specialist >= 0, 300, 40).astype(np.int32),
        specialist=specialist,
        neighbours=np.zeros((n, 10), np.int64),
        similarity=np.ones((n, 10), np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=competence,
        competence_low=competence,
        competence_high=competence,
        competence_support=np.full((n, agents), 50, np.float32),
    )
    probabilities = rng.dirichlet(np.ones(4), size=(n, agents)).astype(np.float32)
    matrix = ResponseMatrix(
        cases=tuple(frame.ids.tolist()),
        agents=who,
        status=np.ones((n, agents), np.int8),
        probabilities=probabilities,
        n_options=np.full(n, 4, np.int16),
        truth=np.where(novel, -1, rng.integers(0, 4, n)).astype(np.int16),
        confidence=probabilities.max(axis=2),
        latency_ms=np.ones((n, agents), np.float32),
        cost=np.ones((n, agents), np.float32),
    )
    return frame, Recording.of(matrix, facts)
