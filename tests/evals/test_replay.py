"""Replay against one case at a time, distinct operating points, and whole curves by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.config import (
    AnyPolicy,
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    TierPolicy,
)
from curbside.errors import InternalError
from curbside.evals import arms as arm_
from curbside.evals.arms import Arm
from curbside.evals.bench import drawn_recording, measure
from curbside.evals.metrics import Scorer
from curbside.evals.operating import curve_of, operating_points, replay_points
from curbside.evals.replay import Recording, distinct_points, replay_all, right_of
from curbside.evals.statistics import draw_groups
from curbside.responses import ResponseStatus
from curbside.router.policies import make_policy
from curbside.router.policy import Decisions, Responses, run

KINDS = {
    "tier": TierPolicy(),
    "competence": CompetencePolicy(floor=0.3, alpha=0.1),
    "competence, a person's worth": CompetencePolicy(person_cost=0.5, hold_unproven=False),
    "cascade": CascadePolicy(floor=0.4),
    "cascade, options on": CascadePolicy(
        escalate_below=0.3, escalate_unfamiliar=0.4, refer_disagreement=True
    ),
    "average": AveragePolicy(weight=0.3, floor=0.2),
    "consult": ConsultPolicy(colleagues=("specialist", "specialist-0"), minimum_support=0),
}


@pytest.fixture(scope="module")
def drawn():
    return drawn_recording(160, 6, seed=3)


def one_at_a_time(recording: Recording, policy) -> list[Decisions]:
    """The same loop, a case alone, asking cell by cell."""
    out = []
    for i in range(len(recording)):

        def ask(rows, wanted, i=i):
            status = np.where(wanted, recording.status[i], 0).astype(np.int8)
            confidence = np.where(wanted, recording.confidence[i], np.nan).astype(np.float32)
            choice = np.where(wanted, recording.choice[i], -1).astype(np.int16)
            return Responses(recording.agents, status, confidence, choice)

        facts = recording.assessments.take(slice(i, i + 1))
        out.append(run(policy, facts, recording.agents, ask))
    return out


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_replay_equals_serving_one_case_at_a_time(drawn, config):
    _, recording = drawn
    rng = np.random.default_rng(0)
    status = np.where(rng.random(recording.status.shape) < 0.3, 2, recording.status)
    holed = replace(recording, status=status.astype(np.int8))
    policy = make_policy(config, agents=holed.agents, generalist="generalist")
    together = holed.decide(policy)
    for i, alone in enumerate(one_at_a_time(holed, policy)):
        assert alone.answered[0] == together.answered[i]
        np.testing.assert_array_equal(alone.asked[0], together.asked[i])
        np.testing.assert_array_equal(alone.weights[0], together.weights[i])
        assert alone.reason[0] == together.reason[i]
    assert set(get_args(AnyPolicy)) == {type(c) for c in KINDS.values()}


def test_who_was_never_asked_counts_as_failed(drawn):
    _, recording = drawn
    nobody = replace(recording.matrix, status=recording.matrix.status * 0)
    replayed = Recording.of(nobody, recording.assessments)
    assert (replayed.status == ResponseStatus.FAILED).all()
    policy = make_policy(TierPolicy(), agents=replayed.agents, generalist="generalist")
    assert not replayed.decide(policy).answered.any()


def test_replay_does_not_change_the_recording(drawn):
    _, recording = drawn
    before = recording.status.copy()
    for config in KINDS.values():
        recording.decide(make_policy(config, agents=recording.agents, generalist="generalist"))
    np.testing.assert_array_equal(recording.status, before)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12))
def test_distinct_points_separate_every_two_values(values):
    array = np.array(values, np.float32)
    points = distinct_points(array)
    below = [(array < p).sum() for p in points]
    # every size that the set {value < threshold} can have, once
    assert below == [int((array < v).sum()) for v in np.unique(array)] + [len(array)]


def test_nothing_known_is_one_point():
    assert distinct_points(np.array([np.nan])) == [0.0]


def test_every_operating_point_of_a_cascade_is_another_policy(drawn):
    _, recording = drawn
    configs = operating_points(CascadePolicy(alpha=0), recording, "escalate_below")
    calls = replay_points(configs, recording, "generalist").calls.sum(axis=0)
    # without a specialist there is nobody to escalate to, so some points coincide
    assert (np.diff(calls) >= 0).all() and calls[0] < calls[-1]
    read_by_two = int((recording.assessments.specialist >= 0).sum())
    assert len(np.unique(calls)) == read_by_two + 1


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (TierPolicy(), "alpha"),
        (TierPolicy(), "minimum_support"),
        (TierPolicy(alpha=0), "floor"),
        (CompetencePolicy(alpha=0), "floor"),
        (CompetencePolicy(alpha=0), "cost_weight"),
        (CascadePolicy(alpha=0, escalate_below=0), "escalate_unfamiliar"),
    ],
)
def test_points_reach_from_one_end_to_the_other(drawn, config, key):
    _, recording = drawn
    configs = operating_points(config, recording, key, most=9)
    assert 2 <= len(configs) <= 9
    assert all(type(c).model_validate(c.model_dump()) == c for c in configs)
    replayed = replay_points(configs, recording, "generalist")
    if key in ("alpha", "floor"):
        assert (np.diff(replayed.answered.sum(axis=0)) <= 0).all()
        assert replayed.answered[:, 0].all() and replayed.answered[:, -1].mean() < 0.1
    if key == "escalate_unfamiliar":
        calls = replayed.calls.sum(axis=0)
        assert (np.diff(calls) >= 0).all() and calls[0] < calls[-1]


@pytest.mark.parametrize("key", ["kind", "escalate_below", "weight", "alhpa"])
def test_a_threshold_that_a_policy_has_not_is_no_operating_point(drawn, key):
    _, recording = drawn
    with pytest.raises(
        InternalError, match=r"policy tier has no threshold .*; valid: alpha, floor"
    ):
        operating_points(TierPolicy(), recording, key)


def test_right_of_averages_as_outcomes_do(drawn):
    _, recording = drawn
    rng = np.random.default_rng(1)
    weights = rng.random(recording.status.shape).astype(np.float32)
    weights[::3] = 0
    arm = Arm("x", "ensemble", weights, weights)
    np.testing.assert_array_equal(
        right_of(recording.matrix, weights), arm_.outcomes(recording.matrix, arm).right
    )


def test_a_curve_is_the_scorers_accuracy_in_every_replicate(plant):
    world = plant(lambda a, m: 0.9 if a.endswith(m) else 0.6, per=20)
    part = world.trained[0].test
    recording = Recording.of(part.matrix, part.assessments)
    configs = [CascadePolicy(alpha=0, escalate_below=v) for v in (0.0, 0.6, 1.0)]
    replayed = replay_points(configs, recording, "generalist-full")
    counts = draw_groups(part.frame.n_groups, 50, 0)
    curve = curve_of(part.frame, replayed, counts)
    scorer = Scorer(part.frame, counts)
    for j, config in enumerate(configs):
        policy = make_policy(config, agents=recording.agents, generalist="generalist-full")
        decided = recording.decide(policy)
        arm = Arm("x", "hybrid", decided.weights, decided.asked.astype(np.float32))
        sums = scorer.sums(arm_.outcomes(part.matrix, arm))
        np.testing.assert_allclose(curve.accuracy[:, j], scorer.metric("accuracy", sums), atol=1e-5)
        np.testing.assert_allclose(
            curve.net_benefit[:, j], scorer.metric("net_benefit", sums), atol=1e-5
        )


def test_no_policy_gives_no_point(drawn):
    _, recording = drawn
    assert replay_all(recording, []).right.shape == (len(recording), 0)


def test_the_benchmark_measures_something():
    speed = measure(cases=200, agents=4, replicates=100)
    assert set(speed.decisions) == {"tier", "competence", "cascade"}
    assert speed.points > 100 and speed.bootstrap_seconds > 0
