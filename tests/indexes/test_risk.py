"""Risk control: worked numbers, exact intervals of scipy, and what is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from curbside.errors import InternalError
from curbside.indexes.risk import curve, learn_then_test, thresholds_of


def alone(n: int) -> Any:
    return np.full(n, "")


def world(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Scores in [0, 1] of a reader that is right with exactly that probability."""
    score = rng.uniform(0.3, 1.0, n)
    return score, rng.uniform(size=n) < score


def test_worked_numbers() -> None:
    score = np.array([0.9, 0.8, 0.8, 0.5, -np.inf])
    correct = np.array([True, True, False, True, False])
    found = learn_then_test(
        score, correct, alone(5), np.array([0.5, 0.85, 0.8]), epsilon=0.5, delta=0.4
    )
    assert found.thresholds.tolist() == [0.85, 0.8, 0.5]
    assert found.answered.tolist() == [1, 3, 4]
    assert found.errors.tolist() == [0, 1, 1]
    # P(Bin(1, ½) ≤ 0), P(Bin(3, ½) ≤ 1), P(Bin(4, ½) ≤ 1)
    np.testing.assert_allclose(found.p_value, [1 / 2, 1 / 2, 5 / 16])
    np.testing.assert_allclose(found.coverage, [0.2, 0.6, 0.8])
    np.testing.assert_allclose(found.risk, [0, 1 / 3, 1 / 4])


@given(st.integers(1, 80), st.integers(0, 80), st.floats(0.05, 0.6), st.floats(0.02, 0.4))
def test_certified_means_the_exact_upper_bound_is_at_most_epsilon(
    n: int, wrong: int, epsilon: float, delta: float
) -> None:
    """Clopper and Pearson's one-sided bound, by scipy."""
    errors = min(wrong, n)
    correct = np.arange(n) >= errors
    found = learn_then_test(
        np.ones(n), correct, alone(n), np.array([0.5]), epsilon=epsilon, delta=delta, starts=1
    )
    test = binomtest(errors, n, alternative="less")
    bound = test.proportion_ci(1 - delta, method="exact").high
    if abs(bound - epsilon) > 1e-9:
        assert bool(found.holds[0]) == (bound <= epsilon)


@pytest.mark.parametrize("method", ["fixed-sequence", "bonferroni"])
def test_the_promise_holds_over_calibration_sets(method: Any) -> None:
    """At most δ of calibration sets certify a threshold whose true error rate exceeds ε."""
    rng = np.random.default_rng(1)
    grid = thresholds_of(world(rng, 2000)[0])
    # the error rate among scores ≥ t of a uniform reader that is right with its score
    truth = 1 - (np.maximum(grid, 0.3) + 1.0) / 2
    broken, answers = 0, 0
    for _ in range(400):
        found = learn_then_test(
            *world(rng, 800), alone(800), grid, epsilon=0.2, delta=0.1, method=method
        )
        broken += bool((found.holds & (truth > 0.2)).any())
        answers += found.best is not None
    assert broken / 400 <= 0.1 + 3 * np.sqrt(0.09 / 400)
    assert answers > 300


def test_copies_of_a_case_in_its_group_prove_nothing() -> None:
    rng = np.random.default_rng(2)
    score, correct = world(rng, 40)
    groups = np.array([f"patient-{i}" for i in range(40)])
    many = [np.repeat(x, 50) for x in (score, correct, groups)]
    grid = thresholds_of(score, 10)
    once = learn_then_test(score, correct, groups, grid, epsilon=0.4)
    again = learn_then_test(many[0], many[1], many[2], grid, epsilon=0.4)
    assert again.n == 40
    np.testing.assert_array_equal(once.p_value, again.p_value)
    pretended = learn_then_test(many[0], many[1], alone(2000), grid, epsilon=0.4)
    assert pretended.holds.sum() > once.holds.sum()


def test_a_sequence_ends_at_its_first_failure() -> None:
    # sure and always wrong at the top, right below: the first start fails, a later one goes on
    score = np.linspace(1, 0, 300)
    correct = np.arange(300) >= 10
    grid = thresholds_of(score, 30)
    one = learn_then_test(score, correct, alone(300), grid, epsilon=0.2, starts=1)
    three = learn_then_test(score, correct, alone(300), grid, epsilon=0.2, starts=3)
    assert one.best is None and one.threshold is None
    assert three.threshold == grid[-1]
    assert not three.holds[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200))
def test_more_error_allowed_never_answers_less(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    score, correct = world(rng, n)
    points = curve(score, correct, alone(n), thresholds_of(score, 12))
    coverage = [p.coverage for p in points]
    assert coverage == sorted(coverage)
    for p in points:
        assert (p.threshold is None) == (p.coverage == 0) == np.isnan(p.risk)
        assert p.threshold is None or p.coverage == (score >= p.threshold).mean()


def test_what_may_never_be_answered_is_not() -> None:
    score = np.full(50, -np.inf)
    found = learn_then_test(score, np.ones(50, bool), alone(50), np.array([-1e9, 0.0]))
    assert found.best is None
    assert found.coverage.tolist() == [0, 0]
    assert (found.p_value == 1).all()


def test_thresholds_are_quantiles_of_what_is_finite() -> None:
    grid = thresholds_of(np.array([*np.arange(100.0), -np.inf]), 4)
    assert grid.tolist() == [75.0, 50.0, 25.0, 0.0]
    with pytest.raises(InternalError, match="finite"):
        thresholds_of(np.array([-np.inf]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"correct": np.ones(3, bool)}, r"scores \(4\) as truths \(3\)"),
        ({"scores": np.array([0.1, np.nan, 0.2, 0.3])}, "NaN"),
        ({"epsilon": 0.0}, "ε = 0.0"),
        ({"thresholds": np.zeros(0)}, r"thresholds \(0\)"),
    ],
)
def test_what_cannot_be_tested_is_refused(change: Any, says: str) -> None:
    given_: Any = {
        "scores": np.ones(4),
        "correct": np.ones(4, bool),
        "groups": alone(4),
        "thresholds": np.array([0.5]),
    }
    with pytest.raises(InternalError, match=says):
        learn_then_test(**(given_ | change))
