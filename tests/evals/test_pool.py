"""Pools of readers: likeliest weights, and who earns a place in planted worlds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from curbside.config import Config
from curbside.evals import arms as arm_
from curbside.evals.evaluation import evaluate
from curbside.evals.pool import pool_weights, pooled, subsets


def test_weights_have_the_highest_likelihood():
    rng = np.random.default_rng(0)
    p, weight = rng.beta(2, 2, (200, 3)), rng.random(200)

    def loss(z):
        w = np.exp(z) / np.exp(z).sum()
        return -(weight * np.log(p @ w)).sum()

    z = minimize(loss, np.zeros(3)).x
    np.testing.assert_allclose(pool_weights(p, weight), np.exp(z) / np.exp(z).sum(), atol=2e-3)


def test_who_knows_nothing_gets_nothing():
    rng = np.random.default_rng(1)
    good = rng.uniform(0.6, 0.9, 300)
    w = pool_weights(np.stack([good, np.full(300, 1 / 3), np.zeros(300)], axis=1), np.ones(300))
    assert w[0] > 0.99 and w.sum() == pytest.approx(1)


def test_everyone_is_left_out_once():
    assert subsets(["a", "b"]) == [("", ("a", "b")), ("a", ("b",)), ("b", ("a",))]


def test_a_pool_is_the_weighted_mean_and_costs_whom_it_asks(plant):
    m = plant(lambda a, m: 0.7, per=12).trained[0].test.matrix
    one, two = (arm_.single(m, a, a) for a in ("generalist-16", "generalist-full"))
    mixed = arm_.outcomes(m, pooled("p", [one, two], np.array([0.25, 0.75], np.float32)))
    expected = 0.25 * m.probabilities[:, m.column("generalist-16")]
    expected = expected + 0.75 * m.probabilities[:, m.column("generalist-full")]
    np.testing.assert_allclose(mixed.probabilities, expected, rtol=1e-5)
    assert (mixed.cost == 2).all()
    alone = arm_.outcomes(m, pooled("p", [one, two], np.array([0, 1], np.float32)))
    assert (alone.cost == 1).all()


def test_the_reader_that_knows_most_earns_its_place(plant):
    def skill(agent, modality):
        return 0.95 if agent == "generalist-full" else 0.4

    world = plant(skill, per=60)
    d = evaluate(
        world.everything, world.assessments, world.trained, Config(), replicates=100
    ).details
    rows = {r.without: r for r in d.pool}
    assert set(rows) == {"", "S", "G16", "Gfull", "linear-full", "linear-16"}
    assert rows["Gfull"].gain.ci_low > 0.2
    assert abs(rows["linear-16"].gain.value) < 0.1
    assert rows[""].weights["Gfull"] > 0.6
    assert rows[""].tune_accuracy > 0.8
