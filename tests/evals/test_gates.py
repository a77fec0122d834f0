"""Gates at matched budgets, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curbside.evals.arms import outcomes, single
from curbside.evals.gates import BUDGETS, case_weights, familiarity, gate_order, gated
from curbside.evals.metrics import Scorer
from curbside.evals.statistics import draw_groups


@pytest.fixture
def world(plant):
    return plant(lambda agent, modality: 0.7, per=24)


def test_weights_are_macro_with_novel_at_their_prevalence(world):
    frame = world.everything
    w = case_weights(frame, draw_groups(frame.n_groups, 20, 0))
    np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(w[:, frame.novel].sum(axis=1), 0.1, rtol=1e-4)
    for m in ("cxr", "us_lung"):
        np.testing.assert_allclose(w[:, frame.modality == m].sum(axis=1), 0.9 / 5, rtol=1e-4)


def test_nothing_referred_is_the_plain_net_benefit(world):
    t = world.trained[0].test
    o = outcomes(t.matrix, single(t.matrix, "generalist-full", "Gfull"))
    counts = draw_groups(t.frame.n_groups, 30, 1)
    weights = case_weights(t.frame, counts)
    order = gate_order("confidence", t.frame, o, familiarity(t.assessments))
    got = gated(order, t.frame, o, weights, budgets=(0.0, 1.0))
    s = Scorer(t.frame, counts)
    np.testing.assert_allclose(got.net_benefit[:, 0], s.net_benefit(s.sums(o)), atol=1e-4)
    np.testing.assert_allclose(got.net_benefit[:, 1], -0.25, atol=1e-4)
    np.testing.assert_allclose(got.coverage[:, 0], 1, atol=1e-5)


def test_exactly_the_budget_is_referred_by_every_arm_and_gate(world):
    t = world.trained[0].test
    weights = case_weights(t.frame, draw_groups(t.frame.n_groups, 10, 2))
    for agent in ("generalist-16", "linear-full"):
        o = outcomes(t.matrix, single(t.matrix, agent, agent))
        # worth 0 for everything but a referral: what is left is the share referred
        flat = replace(o, right=o.right * 0 + 1)
        for gate in ("novelty", "confidence"):
            order = gate_order(gate, t.frame, o, familiarity(t.assessments))
            from curbside.evals.metrics import Utility

            u = Utility(right=0, wrong=0, novel_answered=0, referral=-1)
            got = gated(order, t.frame, flat, weights, BUDGETS, u)
            np.testing.assert_allclose(-got.net_benefit, np.tile(BUDGETS, (11, 1)), atol=1e-5)


def test_a_gate_that_knows_everything_refers_the_wrong_ones(world):
    t = world.trained[0].test
    o = outcomes(t.matrix, single(t.matrix, "generalist-full", "Gfull"))
    o = replace(o, confidence=o.right)
    weights = case_weights(t.frame, np.ones((1, t.frame.n_groups), np.float32))
    order = gate_order("confidence", t.frame, o, familiarity(t.assessments))
    wrong = float(weights[0][(o.right == 0)].sum())
    got = gated(order, t.frame, o, weights, budgets=(wrong,))
    assert float(got.selective_accuracy[0, 0]) == pytest.approx(1, abs=1e-3)
    assert float(got.net_benefit[0, 0]) == pytest.approx((1 - wrong) - 0.25 * wrong, abs=1e-3)


def test_what_an_arm_left_open_is_its_first_referral(world):
    t = world.trained[0].test
    o = outcomes(t.matrix, single(t.matrix, "generalist-full", "Gfull"))
    answered = o.answered.copy()
    answered[[3, 70]] = 0
    o = replace(o, answered=answered, right=o.right * answered)
    for gate in ("novelty", "confidence"):
        order = gate_order(gate, t.frame, o, familiarity(t.assessments))
        assert set(order[:2].tolist()) == {3, 70}


def test_ties_do_not_depend_on_the_order_of_cases(world):
    t = world.trained[0].test
    o = outcomes(t.matrix, single(t.matrix, "generalist-full", "Gfull"))
    o = replace(o, confidence=np.round(o.confidence, 1))
    fam = familiarity(t.assessments)
    at = np.random.default_rng(0).permutation(len(t.frame))
    order = gate_order("confidence", t.frame, o, fam)
    moved = gate_order(
        "confidence",
        t.frame.take(at),
        replace(o, confidence=o.confidence[at], answered=o.answered[at]),
        fam[at],
    )
    np.testing.assert_array_equal(t.frame.ids[order], t.frame.ids[at][moved])


def test_familiarity_follows_the_p_value_then_the_score(world):
    a = world.assessments
    a = replace(
        a.take(np.arange(4)),
        p_value=np.array([0.2, 0.1, 0.1, 0.2]),
        novelty=np.array([1.0, 5.0, 3.0, 1.0]),
    )
    np.testing.assert_array_equal(familiarity(a), [3, 1, 2, 3])
