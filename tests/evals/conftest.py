"""Planted worlds: cases, assessments and readings whose truth is known, without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from curbside.assessments import Assessments
from curbside.evals.frame import Frame
from curbside.evals.protocol import Part, Trained
from curbside.responses import ResponseMatrix

COMMON = ("cxr", "fundus", "mri_brain")
RARE = ("us_lung", "slit_lamp")
NOVEL = ("oct", "ecg_image")
SPECIALISTS = {m: f"specialist-{m}" for m in COMMON}
AGENTS = (
    *SPECIALISTS.values(),
    "generalist-16",
    "generalist-full",
    "generalist-full-b",
    "linear-16",
    "linear-full",
)
_K = 3


@dataclass(frozen=True)
class World:
    """What an evaluation needs."""

    everything: Frame
    assessments: Assessments
    trained: tuple[Trained, ...]


#: (agent, modality) → P(correct)
Skill = Callable[[str, str], float]


def plant(
    skill: Skill,
    *,
    per: int = 60,
    common: tuple[str, ...] = COMMON,
    rare: tuple[str, ...] = RARE,
    novel: tuple[str, ...] = NOVEL,
    agents: tuple[str, ...] = AGENTS,
    draws: int = 1,
    seed: int = 0,
) -> World:
    """A world where agent a is right on modality m with probability ``skill(a, m)``.

    Confidence is higher where right; novel cases have small p-values.
    """
    rng = np.random.default_rng(seed)
    names = tuple(sorted((*common, *rare)))
    test, facts = _cases(rng, (*common, *rare, *novel), per, names, common, novel, agents, "t")
    tune_frame, tune_facts = _cases(
        rng, (*common, *rare), max(per // 2, 12), names, common, novel, agents, "u"
    )
    tune_facts = _with_skill(tune_facts, tune_frame, skill, agents)
    facts = _with_skill(facts, test, skill, agents)
    specialists = {m: f"specialist-{m}" for m in common}
    trained = tuple(
        Trained(
            seed=d,
            specialists=specialists,
            serving="generalist-full",
            test=Part(test, facts, _matrix(rng, test, skill, agents)),
            tune=Part(tune_frame, tune_facts, _matrix(rng, tune_frame, skill, agents)),
        )
        for d in range(draws)
    )
    return World(test, facts, trained)


def _cases(rng, modalities, per, names, common, novel, agents, prefix):
    n = per * len(modalities)
    modality = np.repeat(np.array(modalities), per)
    is_novel = np.isin(modality, novel)
    truth = np.tile(np.arange(per) % _K, len(modalities))
    predicted = np.where(is_novel, names[0], modality)
    tier = np.where(is_novel, "novel", np.where(np.isin(modality, common), "common", "rare"))
    frame = Frame(
        ids=np.array([f"{prefix}{i:05d}" for i in range(n)]),
        modality=modality,
        predicted=predicted,
        tier=tier,
        task=np.where(is_novel, "", np.char.add("task-", modality)),
        label=np.where(is_novel, "", np.char.add("label-", truth.astype(str))),
        group=(np.arange(n) // 2).astype(np.intp),
        usable=np.ones(n, bool),
        asked=np.ones(n, bool),
        rare_finding=(tier == "common") & (truth == 2),
        confounded=modality == "cxr",
    )
    column = np.array([names.index(p) for p in predicted])
    posterior = np.full((n, len(names)), 0.01, np.float32)
    posterior[np.arange(n), column] = 1 - 0.01 * (len(names) - 1)
    a = len(agents)
    support = np.where(np.isin(predicted, common), 300, 40).astype(np.int32)
    place = {f"specialist-{m}": i for i, m in enumerate(common)}
    nothing = np.full((n, a), np.nan, np.float32)
    novelty = rng.normal(size=n) + 4 * is_novel
    facts = Assessments(
        modalities=names,
        agents=tuple(agents),
        strata=("all",),
        posterior=posterior,
        novelty=novelty,
        p_value=np.where(is_novel, rng.uniform(0.001, 0.08, n), rng.uniform(0.001, 1, n)),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 500, np.int32),
        support=support,
        specialist=np.array(
            [
                agents.index(f"specialist-{p}") if f"specialist-{p}" in place else -1
                for p in predicted
            ],
            np.int16,
        ),
        neighbours=np.zeros((n, 1), np.int64),
        similarity=np.ones((n, 1), np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=nothing,
        competence_low=nothing,
        competence_high=nothing,
        competence_support=np.zeros((n, a), np.float32),
    )
    return frame, facts


def _with_skill(facts, frame, skill, agents):
    from dataclasses import replace

    known = np.array([[skill(a, m) for a in agents] for m in frame.predicted], np.float32).reshape(
        len(frame), len(agents)
    )
    return replace(
        facts,
        competence=known,
        competence_low=np.clip(known - 0.1, 0, 1),
        competence_high=np.clip(known + 0.1, 0, 1),
        competence_support=np.full(known.shape, 50, np.float32),
    )


def _matrix(rng, frame, skill, agents):
    n, a = len(frame), len(agents)
    truth = np.array([int(x[-1]) if x else -1 for x in frame.label], np.int16)
    right = np.array([[rng.random() < skill(g, m) for g in agents] for m in frame.modality])
    shift = rng.integers(1, _K, (n, a))
    choice = np.where(right, truth[:, None], (np.maximum(truth, 0)[:, None] + shift) % _K)
    choice = np.where(truth[:, None] < 0, rng.integers(0, _K, (n, a)), choice)
    top = np.where(right, rng.uniform(0.55, 0.95, (n, a)), rng.uniform(0.4, 0.8, (n, a)))
    probabilities = np.repeat(((1 - top) / (_K - 1))[..., None], _K, axis=2).astype(np.float32)
    np.put_along_axis(probabilities, choice[..., None], top[..., None].astype(np.float32), axis=2)
    return ResponseMatrix(
        cases=tuple(frame.ids.tolist()),
        agents=tuple(agents),
        status=np.ones((n, a), np.int8),
        probabilities=probabilities,
        n_options=np.full(n, _K, np.int16),
        truth=truth,
        confidence=top.astype(np.float32),
        latency_ms=np.full((n, a), 5, np.float32),
        cost=np.ones((n, a), np.float32),
    )


@pytest.fixture(name="plant")
def plant_fixture():
    """The function :func:`plant`."""
    return plant
