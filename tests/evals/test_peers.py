"""Routers of other groups on planted cases: by hand, against scipy, and as arms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from curbside.config import Config
from curbside.evals.peers import GAMMA, PEERS, cross_fitted, similarity_scores
from curbside.evals.protocol import plain_arms, roster_of, with_peers


def two_places(n=120, seed=0):
    """Around one axis the specialist is right, around the other the generalist."""
    rng = np.random.default_rng(seed)
    side = rng.integers(0, 2, n)
    vectors = np.eye(8, dtype=np.float32)[side * 3] + rng.normal(0, 0.1, (n, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    right = np.stack([side == 0, side == 1], axis=1).astype(np.float32)
    return vectors, right, side


def test_similarity_is_the_maximum_of_the_weighted_bradley_terry_likelihood():
    rng = np.random.default_rng(1)
    known, right, _ = two_places(30)
    right = (rng.random((30, 2)) < 0.6).astype(np.float32)
    found = similarity_scores(known, right, known[:3])
    outcome = (1 + right[:, 0] - right[:, 1]) / 2
    for i in range(3):
        weight = GAMMA ** (1 + known @ known[i])

        def loss(xi, weight=weight):
            p = 1 / (1 + np.exp(-xi))
            return -(weight * (outcome * np.log(p) + (1 - outcome) * np.log(1 - p))).sum()

        best = minimize_scalar(loss, bounds=(-10, 10), method="bounded").x
        assert found[i, 0] == pytest.approx(1 / (1 + np.exp(-best)), abs=1e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_who_reads_what(name):
    known, right, _ = two_places(seed=0)
    vectors, _, side = two_places(seed=1)
    scores = PEERS[name](known, right, vectors)
    assert scores.shape == (len(vectors), 2) and scores.dtype == np.float32
    assert (scores.argmax(axis=1) == side).mean() > 0.95
    held_out = cross_fitted(PEERS[name], known, right, np.arange(len(known)))
    assert (held_out.argmax(axis=1) == right.argmax(axis=1)).mean() > 0.95


def test_cross_fitting_never_sees_its_own_group():
    known, _, _ = two_places(40)
    noise = np.random.default_rng(3).integers(0, 2, (40, 2)).astype(np.float32)
    group = np.arange(40) // 2
    before = cross_fitted(similarity_scores, known, noise, group)
    flipped = noise.copy()
    flipped[:2] = 1 - flipped[:2]
    after = cross_fitted(similarity_scores, known, flipped, group)
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before != after).any()


def test_peers_are_arms_over_the_two_readers(plant):
    world = plant(lambda a, m: 0.95 if a.endswith(m) else 0.4, per=40)
    t = world.trained[0]
    rng = np.random.default_rng(0)

    def vectors(frame):
        names = sorted(set(frame.predicted.tolist()))
        one = np.eye(len(names), dtype=np.float32)[[names.index(m) for m in frame.predicted]]
        mixed = one + rng.normal(0, 0.05, one.shape)
        return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)

    learned = with_peers(t, vectors(t.tune.frame), vectors(t.test.frame))
    assert set(learned.test.peers) == set(learned.tune.peers) == set(PEERS)
    arms = plain_arms(learned.test, roster_of(learned), Config())
    for name in PEERS:
        arm = arms[f"R-{name}"]
        assert arm.kind == "baseline"
        np.testing.assert_allclose(arm.weights.sum(axis=1), 1)
        # where the specialist is far better, both learn to ask it
        common = (t.test.frame.tier == "common") & t.test.frame.scored
        same = (arm.weights == arms["S"].weights).all(axis=1)
        assert same[common].mean() > 0.9
    assert "R-mlp" not in plain_arms(t.test, roster_of(t), Config())
    nothing = replace(t.tune.frame, label=np.full(len(t.tune.frame), ""))
    bare = replace(t, tune=replace(t.tune, frame=nothing))
    assert not with_peers(bare, vectors(nothing), vectors(t.test.frame)).test.peers
