"""Competence joined with confidence: worked numbers, shrinkage, unknowns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from curbside.indexes.join import Join, brier, folds_of, log_loss


def test_worked_numbers() -> None:
    join = Join(np.array([[0.5, 1.0, 2.0], [0.0, 1.0, 0.0]]))
    p = join(np.array([[0.7, 0.7]], np.float32), np.array([[0.9, 0.9]], np.float32))
    expected = expit(0.5 + logit(0.7) + 2 * logit(0.9))
    np.testing.assert_allclose(p, [[expected, 0.7]], rtol=1e-5)
    assert p.dtype == np.float32


def test_unknown_competence_stays_unknown_and_no_reading_leaves_competence() -> None:
    join = Join(np.array([[0.0, 1.0, 1.0]]))
    nan = np.float32(np.nan)
    p = join(np.array([[nan], [0.6]], np.float32), np.array([[0.9], [nan]], np.float32))
    assert np.isnan(p[0, 0])
    assert p[1, 0] == np.float32(0.6)


def test_planted_weights_are_found_and_calibrated() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    competence = rng.uniform(0.3, 0.95, (n, 2)).astype(np.float32)
    confidence = rng.uniform(0.4, 0.99, (n, 2)).astype(np.float32)
    truth = np.array([[-0.5, 1.0, 0.8], [0.3, 0.2, 0.0]])
    p = expit(truth[:, 0] + truth[:, 1] * logit(competence) + truth[:, 2] * logit(confidence))
    correct = rng.random((n, 2)) < p
    join = Join.fit(competence, confidence, correct, np.ones((n, 2), bool))
    np.testing.assert_allclose(join.weights, truth, atol=0.2)
    joined = join(competence, confidence)
    assert log_loss(joined, correct) < log_loss(confidence, correct)
    assert joined.mean() == pytest.approx(correct.mean(), abs=0.01)


def test_an_agent_with_few_readings_is_drawn_towards_the_others() -> None:
    rng = np.random.default_rng(1)
    n = 1000
    competence = rng.uniform(0.3, 0.95, (n, 2)).astype(np.float32)
    confidence = rng.uniform(0.4, 0.99, (n, 2)).astype(np.float32)
    correct = rng.random((n, 2)) < confidence
    read = np.ones((n, 2), bool)
    read[5:, 1] = False
    join = Join.fit(competence, confidence, correct, read)
    np.testing.assert_allclose(join.weights[1], join.weights[0], atol=0.4)
    nobody = Join.fit(competence, confidence, correct, np.zeros((n, 2), bool))
    assert (nobody.weights == [0, 1, 0]).all()
    assert (join.select([1, None]).weights == [join.weights[1], [0, 1, 0]]).all()


def test_folds_keep_groups_together_and_are_even() -> None:
    groups = np.array(["a", "a", "", "", "b", "c", "d", "e", "e", ""])
    fold = folds_of(groups, 3)
    assert fold[0] == fold[1] and fold[7] == fold[8]
    assert set(fold.tolist()) == {0, 1, 2}
    assert (fold == folds_of(groups, 3)).all()
    assert len(folds_of(np.zeros(0, "U1"), 3)) == 0


def test_losses_by_hand() -> None:
    p, right = np.array([0.8, 0.4]), np.array([True, False])
    assert log_loss(p, right) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert brier(p, right) == pytest.approx((0.04 + 0.16) / 2)
