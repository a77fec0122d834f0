"""Arms as mixtures over a matrix: hand-worked cases, and replay of the serving policies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.config import CascadePolicy, CompetencePolicy, TierPolicy
from curbside.evals import arms as arm_
from curbside.evals.arms import Arm, Roster
from curbside.evals.tags import TAG_TABLE, WRONG_BODY_PART, tags_arm
from curbside.responses import ResponseMatrix, ResponseStatus


def matrix(probabilities, truth, status=None) -> ResponseMatrix:
    p = np.array(probabilities, np.float32)
    n, a, k = p.shape
    status = np.ones((n, a), np.int8) if status is None else np.array(status, np.int8)
    p = p * (status == 1)[..., None]
    return ResponseMatrix(
        cases=tuple(f"c{i}" for i in range(n)),
        agents=tuple(f"a{j}" for j in range(a)),
        status=status,
        probabilities=p,
        n_options=np.full(n, k, np.int16),
        truth=np.array(truth, np.int16),
        confidence=np.where(status == 1, p.max(axis=2), np.nan).astype(np.float32),
        latency_ms=np.full((n, a), 10, np.float32),
        cost=np.where(status == 1, 2, 0).astype(np.float32),
    )


@pytest.fixture
def two():
    """Three cases, two agents: disagreement, an abstention, nobody."""
    return matrix(
        [[[0.6, 0.4], [0.1, 0.9]], [[0.7, 0.3], [0.5, 0.5]], [[0.9, 0.1], [0.9, 0.1]]],
        truth=[1, 0, 0],
        status=[[1, 1], [1, 2], [3, 2]],
    )


def mixture(weights, *, draw=False) -> Arm:
    w = np.array(weights, np.float32)
    return Arm("x", "baseline", w, (w > 0).astype(np.float32), draw=draw)


def test_average_by_hand(two):
    o = arm_.outcomes(two, mixture([[0.5, 0.5]] * 3))
    # .35/.65 → right; the second's abstention leaves the first; nobody: no answer
    assert o.right.tolist() == [1, 1, 0]
    assert o.answered.tolist() == [1, 1, 0]
    np.testing.assert_allclose(o.confidence, [0.65, 0.7, 0])
    # a call is paid for whether or not it is answered
    assert o.cost.tolist() == [4, 4, 4]
    assert o.latency_ms.tolist() == [20, 20, 20]


def test_draw_is_the_exact_expectation(two):
    o = arm_.outcomes(two, mixture([[0.25, 0.75]] * 3, draw=True))
    np.testing.assert_allclose(o.right, [0.75, 0.25, 0])
    np.testing.assert_allclose(o.answered, [1, 0.25, 0])
    assert o.probabilities is None


def test_no_weight_is_a_referral(two):
    o = arm_.outcomes(two, mixture([[0, 0]] * 3))
    assert not o.answered.any() and not o.right.any() and not o.cost.any()


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([1, 2, 3]), min_size=6, max_size=6),
    st.lists(st.integers(-1, 1), min_size=3, max_size=3),
    st.floats(0, 1),
)
def test_what_is_no_reading_never_counts_as_right(status, truth, w):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1], size=(3, 2))
    m = matrix(p, truth, np.reshape(status, (3, 2)))
    for draw in (False, True):
        o = arm_.outcomes(m, mixture([[w, 1 - w]] * 3, draw=draw))
        assert (o.right <= o.answered + 1e-6).all()
        assert (o.right[np.array(truth) < 0] == 0).all()
        nobody = ~m.read.any(axis=1)
        assert (o.answered[nobody] == 0).all()


@pytest.fixture
def world(plant):
    return plant(lambda a, m: 0.9 if a.endswith(m) else 0.6, per=24)


ROSTER = Roster({m: f"specialist-{m}" for m in ("cxr", "fundus", "mri_brain")}, "specialist-cxr")


def who(arm: Arm, agents, rows) -> set[str]:
    return {agents[j] for j in arm.weights[rows].argmax(axis=1)}


def test_team_falls_back_on_one_specialist(world):
    t = world.trained[0].test
    s = arm_.team(t.matrix, t.assessments, ROSTER)
    at = t.frame.predicted
    assert who(s, t.matrix.agents, at == "fundus") == {"specialist-fundus"}
    assert who(s, t.matrix.agents, at == "us_lung") == {"specialist-cxr"}
    assert (s.asked.sum(axis=1) == 1).all()


def test_tier_rule_over_team_and_generalist(world):
    t = world.trained[0].test
    h = arm_.hybrid("H", TierPolicy(), t.matrix, t.assessments, ROSTER, "generalist-full")
    at = t.frame.predicted
    assert who(h, t.matrix.agents, at == "fundus") == {"specialist-fundus"}
    assert who(h, t.matrix.agents, at == "slit_lamp") == {"generalist-full"}
    # gate off: novel cases are answered too
    assert (h.weights.sum(axis=1) == 1).all()


def test_competence_picks_the_higher_estimate(world):
    t = world.trained[0].test
    a = t.assessments
    better = a.competence.copy()
    better[:, t.matrix.column("generalist-full")] = 0.99
    h = arm_.hybrid(
        "H",
        CompetencePolicy(),
        t.matrix,
        replace(a, competence=better),
        ROSTER,
        "generalist-full",
    )
    assert who(h, t.matrix.agents, slice(None)) == {"generalist-full"}


def test_cascade_pays_for_the_second_call_only_where_it_is_made(world):
    t = world.trained[0].test
    h = arm_.hybrid("H", CascadePolicy(), t.matrix, t.assessments, ROSTER, "generalist-full")
    s = arm_.team(t.matrix, t.assessments, ROSTER)
    calls = h.asked.sum(axis=1)
    sure = np.nan_to_num((s.weights * t.matrix.confidence).sum(axis=1)) >= 0.7
    common = np.isin(t.frame.predicted, list(ROSTER.specialists))
    assert (calls[common & sure] == 1).all()
    assert (calls[common & ~sure] == 2).all()


def test_an_agent_that_was_never_asked_cannot_answer(world):
    t = world.trained[0].test
    status = t.matrix.status.copy()
    status[:, t.matrix.column("generalist-full")] = ResponseStatus.NOT_ASKED
    m = replace(t.matrix, status=status)
    h = arm_.hybrid("H", TierPolicy(), m, t.assessments, ROSTER, "generalist-full")
    assert not arm_.outcomes(m, h).answered[h.weights[:, m.column("generalist-full")] > 0].any()


def test_random_keeps_the_rates_within_each_recognised_modality(world):
    t = world.trained[0].test
    s = arm_.team(t.matrix, t.assessments, ROSTER)
    g = arm_.single(t.matrix, "generalist-full", "Gfull")
    pick = (np.arange(len(t.frame)) % 4 == 0)[:, None]
    w = np.where(pick, g.weights, s.weights).astype(np.float32)
    r = arm_.random_like("random", Arm("H", "hybrid", w, w), t.assessments, (s, g))
    column = t.matrix.column("generalist-full")
    for m in set(t.frame.predicted.tolist()):
        rows = t.frame.predicted == m
        assert r.weights[rows, column].mean() == pytest.approx(w[rows, column].mean(), abs=1e-6)
        assert np.ptp(r.weights[rows, column]) < 1e-6


def test_tags_by_hand(world):
    t = world.trained[0].test
    specialists = {**ROSTER.specialists, "xray_msk": "linear-16"}
    arm = tags_arm(t.frame.modality, t.matrix, specialists, "generalist-full")
    np.testing.assert_allclose(arm.weights.sum(axis=1), 1, atol=1e-6)
    at = {a: t.matrix.column(a) for a in t.matrix.agents}
    row = arm.weights[np.flatnonzero(t.frame.modality == "cxr")[0]]
    # the only other body part under DX is the limb's
    assert row[at["specialist-cxr"]] == pytest.approx(1 - WRONG_BODY_PART)
    assert row[at["linear-16"]] == pytest.approx(WRONG_BODY_PART)
    # one body part under its code: nothing to confuse
    assert arm.weights[t.frame.modality == "mri_brain", at["specialist-mri_brain"]].min() == 1
    # slit lamp shares its tags with fundus, which has a specialist
    assert arm.weights[t.frame.modality == "slit_lamp", at["specialist-fundus"]].min() == 1
    assert set(TAG_TABLE) >= {"cxr", "ct_abdomen", "oct", "nuclear"}


def test_task_oracle_follows_tune(world):
    t = world.trained[0].test
    sides = (
        arm_.single(t.matrix, "generalist-16", "A"),
        arm_.single(t.matrix, "generalist-full", "B"),
    )
    tasks = np.array(["p", "q", "new"])
    tune = np.array(["p", "p", "q", "q"])
    right = (np.array([1, 1, 0, 0], np.float32), np.array([0, 0, 1, 1], np.float32))
    three = tuple(replace(s, weights=s.weights[:3], asked=s.asked[:3]) for s in sides)
    arm = arm_.task_oracle(tasks, tune, right, (three[0], three[1]))
    chosen = [t.matrix.agents[j] for j in arm.weights.argmax(axis=1)]
    assert chosen == ["generalist-16", "generalist-full", "generalist-16"]


def test_what_readers_cost_decides_where_it_weighs(plant):
    """A dear specialist is asked only where it is worth its price, as when it serves."""
    world = plant(lambda a, m: 0.9 if a.startswith("specialist") else 0.8, per=40)
    t = world.trained[0]
    m = t.test.matrix
    dear = np.array([5.0 if a.startswith("specialist") else 1.0 for a in m.agents], np.float32)
    priced = replace(m, cost=np.broadcast_to(dear, m.cost.shape).copy())
    assert arm_.prices_of(priced).tolist() == dear.tolist()
    facts = t.test.assessments
    serving = (*t.specialists.values(), t.serving)
    roster = Roster(t.specialists, next(iter(t.specialists.values())))
    known = np.flatnonzero(facts.specialist >= 0)

    def asked_specialist(config, of):
        column = m.column(t.serving)
        hybrid = arm_.hybrid("h", config, of, facts, roster, t.serving)
        served = arm_.served(config, of, facts, serving, t.serving)
        return [float(1 - a.asked[known, column].mean()) for a in (hybrid, served)]

    # a tenth more is right: worth 4 units at .02 each, not at .03
    for weight, expected in ((0.02, 1.0), (0.03, 0.0)):
        config = CompetencePolicy(alpha=0, cost_weight=weight)
        assert asked_specialist(config, priced) == [expected, expected]
        assert asked_specialist(config, m) == [1.0, 1.0]
