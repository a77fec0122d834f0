"""Which readings may teach competence, and what production adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curbside.config import Config
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.outcomes import Outcomes, reviewed_responses
from curbside.readings import Abstention, CaseRecord, Outcome, Reading, Status, Versions
from curbside.responses import ResponseMatrix, ResponseStatus

VERSIONS = Versions(code="", encoder="", index="", calibration="", policy="", fleet="")


def matrix(cases: Any, right: Any, agents: tuple[str, ...] = ("one",)) -> ResponseMatrix:
    n, a = right.shape
    return ResponseMatrix(
        cases=tuple(map(str, cases)),
        agents=agents,
        status=np.full((n, a), int(ResponseStatus.READ), np.int8),
        probabilities=np.where(right[:, :, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32),
        n_options=np.full(n, 2, np.int16),
        truth=np.zeros(n, np.int16),
        confidence=np.full((n, a), 0.9, np.float32),
        latency_ms=np.zeros((n, a), np.float32),
        cost=np.ones((n, a), np.float32),
    )


def readings(world: Any, role: str, seed: int = 0) -> tuple[Any, ResponseMatrix]:
    part = world.take(role)
    right = np.random.default_rng(seed).random((len(part.cases), 1)) < 0.7
    return part, matrix(part.cases.ids, right)


@pytest.fixture(scope="module")
def assessor(world: Any) -> Assessor:
    return Assessor.fit(world.cases, world.features, Config())


def test_in_sample_readings_are_refused_and_say_why(world: Any) -> None:
    train, r = readings(world, "train")
    with pytest.raises(UserError, match="by agents that were trained on them look perfect"):
        Outcomes.of(train.cases, train.features, r)


def test_readings_of_agents_trained_without_the_fold_are_taken(
    world: Any, assessor: Assessor
) -> None:
    train, r = readings(world, "train")
    fold = {str(c): i % 3 for i, c in enumerate(train.cases.ids)}
    more = Outcomes.of(train.cases, train.features, r, fold=fold)
    assert len(more) == len(train.cases)
    tune, s = readings(world, "tune")
    alone = Competence.fit(assessor, tune.cases, tune.features, s)
    both = Competence.fit(assessor, tune.cases, tune.features, s, also=more)
    assert len(both._vectors) == len(alone._vectors) + len(more)
    x = world.pooled("test")
    p, *_ = both.estimate(assessor.embed(x), assessor.modality_of(x))
    assert p.mean() == pytest.approx(0.7, abs=0.12)


def test_a_group_in_two_folds_or_in_tune_is_in_sample(world: Any) -> None:
    train, r = readings(world, "train")
    fold = {str(c): i % 2 for i, c in enumerate(train.cases.ids)}
    groups = train.cases.groups.copy()
    groups[1] = groups[0]
    with pytest.raises(UserError, match="1 train cases share a group with another fold"):
        Outcomes.of(train.cases.having(groups=groups), train.features, r, fold=fold)
    roles = train.cases.roles.astype("U16")
    roles[1] = "tune"
    with pytest.raises(UserError, match="with another fold or with tune"):
        Outcomes.of(train.cases.having(groups=groups, roles=roles), train.features, r, fold=fold)


def test_joined_outcomes_keep_each_agent_s_own(world: Any) -> None:
    tune, r = readings(world, "tune")
    other = ResponseMatrix(**{**r.__dict__, "agents": ("two",)})
    a = Outcomes.of(tune.cases, tune.features, r)
    b = Outcomes.of(tune.cases, tune.features, other)
    both = a.joined(b)
    n = len(a)
    assert both.agents == ("one", "two")
    assert len(both) == 2 * n
    assert both.read[:n, 0].all() and not both.read[:n, 1].any()
    assert both.read[n:, 1].all() and not both.read[n:, 0].any()
    assert (both.correct[:n, :1] == a.correct).all()
    assert np.isnan(both.confidence[:n, 1]).all()


def record(case: str, *responses: Any, options: tuple[str, ...] = ("yes", "no")) -> CaseRecord:
    return CaseRecord(
        case=case,
        content=f"sha-{case}",
        options=options,
        responses=responses,
        outcome=Outcome(status=Status.ANSWERED, reasons=()),
        versions=VERSIONS,
    )


def read(agent: str, p: float, fingerprint: str = "now") -> Reading:
    return Reading(
        agent=agent,
        fingerprint=fingerprint,
        options=("yes", "no"),
        probabilities=(p, 1 - p),
        confidence=max(p, 1 - p),
    )


def test_reviewed_cases_become_outcomes_of_the_agents_that_serve() -> None:
    reviewed = [
        (record("a", read("one", 0.8), read("two", 0.3)), "yes"),
        (record("b", read("one", 0.8, "before"), read("two", 0.3)), "no"),
        (record("c", read("one", 0.8, "before")), "no"),
        (record("d", Abstention(agent="one", fingerprint="now", reason="x")), "no"),
        (record("e", read("one", 0.8)), "maybe"),
        (record("f", read("gone", 0.8)), "yes"),
    ]
    found, contents, left_out = reviewed_responses(reviewed, {"one": "now", "two": "now"})
    assert found.cases == ("a", "b")
    assert contents == ("sha-a", "sha-b")
    assert found.agents == ("one", "two")
    assert found.read.tolist() == [[True, True], [False, True]]
    assert found.correct.tolist() == [[True, False], [False, True]]
    assert left_out == {
        "a reading of an earlier agent": 2,
        "no reading of a serving agent": 3,
        "an answer that is none of the options": 1,
    }
    none, contents, _ = reviewed_responses([], {"one": "now"})
    assert len(none) == len(contents) == 0
