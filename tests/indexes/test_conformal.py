"""Conformal p-values: worked numbers, the guarantee, and what it needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from curbside.errors import InternalError, UserError
from curbside.indexes.conformal import POOLED, Calibration, smallest_stratum

SCORE = st.floats(-1e6, 1e6, allow_nan=False)
SCORES = st.lists(SCORE, min_size=1, max_size=60)


def pooled(scores: list[float]) -> Calibration:
    values = np.array(scores, np.float64)
    return Calibration.fit(values, np.zeros(len(values), np.intp), ("a",), minimum=10**9)


def p_of(calibration: Calibration, score: float, column: int = 0) -> float:
    return float(calibration.p_values(np.array([score]), np.array([column])).p_value[0])


def test_worked_numbers() -> None:
    c = pooled([1.0, 2.0, 2.0, 5.0])
    # (1 + #{≥ s}) / 5: ties count as strange as the case itself
    assert p_of(c, 0.0) == 1.0
    assert p_of(c, 2.0) == pytest.approx(4 / 5)
    assert p_of(c, 2.5) == pytest.approx(2 / 5)
    assert p_of(c, 5.0) == pytest.approx(2 / 5)
    assert p_of(c, 6.0) == pytest.approx(1 / 5)


def test_a_small_stratum_backs_off_and_says_so() -> None:
    scores = np.concatenate([np.arange(10.0), 100 + np.arange(4.0)])
    predicted = np.repeat([0, 1], [10, 4])
    c = Calibration.fit(scores, predicted, ("big", "small"), minimum=5)
    assert c.strata == (POOLED, "big")
    p = c.p_values(np.array([50.0, 50.0]), np.array([0, 1]))
    assert [c.strata[s] for s in p.stratum] == ["big", POOLED]
    assert p.stratum_n.tolist() == [10, 14]
    np.testing.assert_allclose(p.p_value, [1 / 11, 5 / 15])


def test_the_minimum_itself_is_enough() -> None:
    c = Calibration.fit(np.arange(5.0), np.zeros(5, np.intp), ("a",), minimum=5)
    assert c.strata == (POOLED, "a")


@given(SCORES, SCORE, SCORE)
def test_stranger_never_has_the_larger_p(known: list[float], a: float, b: float) -> None:
    c = pooled(known)
    low, high = min(a, b), max(a, b)
    assert p_of(c, low) >= p_of(c, high)
    assert 0 < p_of(c, high) <= 1


@given(SCORES, st.floats(0, 0.999), SCORE, st.sampled_from([0.0, 0.9]))
def test_the_threshold_is_exact(
    known: list[float], alpha: float, score: float, confidence: float
) -> None:
    c = Calibration({POOLED: np.array(known)}, ("a",), confidence)
    t = c.threshold(alpha, POOLED)
    for s in (score, t, *known, *(np.nextafter(k, np.inf) for k in known)):
        if np.isfinite(s):
            assert (p_of(c, s) <= alpha) == (s >= t)


def test_too_few_cases_can_never_reach_a_small_alpha() -> None:
    assert pooled([1.0] * 18).threshold(0.05, POOLED) == float("inf")
    assert pooled([1.0] * 19).threshold(0.05, POOLED) < float("inf")
    assert pooled([1.0]).threshold(0.0, POOLED) == float("inf")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40), st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_super_uniform_for_exchangeable_cases(seed: int, n: int, alpha: float) -> None:
    """P(p ≤ α) ≤ α over draws of calibration and case together, ties included."""
    rng = np.random.default_rng(seed)
    draws = 2000
    # whole numbers, so that there are many ties
    values = rng.poisson(3.0, size=(draws, n + 1)).astype(float)
    p = (1 + (values[:, 1:] >= values[:, :1]).sum(axis=1)) / (n + 1)
    few = [p_of(pooled(list(v[1:])), v[0]) for v in values[:50]]
    np.testing.assert_allclose(few, p[:50])
    assert (p <= alpha).mean() <= alpha + 5 * np.sqrt(alpha * (1 - alpha) / draws)


def test_super_uniform_within_each_predicted_stratum() -> None:
    """Strata with different scores: each keeps α by its own cases, the pooled one would not."""
    rng = np.random.default_rng(0)
    flagged = np.zeros(2)
    pooled_flagged = np.zeros(2)
    for _ in range(400):
        scores = np.concatenate([rng.normal(0, 1, 59), rng.normal(3, 2, 59)])
        predicted = np.repeat([0, 1], 59)
        new = np.concatenate([rng.normal(0, 1, 20), rng.normal(3, 2, 20)])
        at = np.repeat([0, 1], 20)
        own = Calibration.fit(scores, predicted, ("a", "b"), minimum=1).p_values(new, at)
        one = Calibration.fit(scores, predicted, ("a", "b"), minimum=60).p_values(new, at)
        flagged += [(own.p_value[at == j] <= 0.05).mean() for j in (0, 1)]
        pooled_flagged += [(one.p_value[at == j] <= 0.05).mean() for j in (0, 1)]
    np.testing.assert_allclose(flagged / 400, 0.05, atol=0.012)
    assert pooled_flagged[0] / 400 < 0.02
    assert pooled_flagged[1] / 400 > 0.07


def test_what_cannot_be_compared_is_not_familiar() -> None:
    assert p_of(pooled([1.0, 2.0, 3.0]), float("nan")) == pytest.approx(1 / 4)


def test_no_calibration_case_is_the_user_s_to_mend() -> None:
    with pytest.raises(UserError, match="no calibration case"):
        Calibration.fit(np.zeros(0), np.zeros(0, np.intp), ("a",), minimum=1)


def test_strata_in_which_nothing_can_be_flagged_are_named() -> None:
    rng = np.random.default_rng(0)
    column = np.r_[np.zeros(19, int), np.ones(99, int)]
    c = Calibration.fit(rng.normal(size=118), column, ("few", "many"), minimum=19)
    assert c.blind(0.05) == ()
    assert c.blind(0.04) == ("few",)
    assert c.blind(0.01) == ("few",)
    assert c.blind(0.005) == ("all", "few", "many")
    sure = Calibration.fit(rng.normal(size=118), column, ("few", "many"), minimum=1, confidence=0.9)
    assert sure.blind(0.05) == ("few",)  # needs 45


def test_bad_values_are_refused() -> None:
    with pytest.raises(InternalError, match="finite"):
        pooled([1.0, float("inf")])
    with pytest.raises(InternalError, match="no stratum 'zebra'"):
        pooled([1.0]).threshold(0.1, "zebra")
    with pytest.raises(InternalError, match="pooled"):
        Calibration({"a": np.array([1.0])}, ("a",))


def test_stored_scores_give_the_same_p_values() -> None:
    rng = np.random.default_rng(1)
    scores, predicted = rng.normal(size=80), rng.integers(0, 3, 80)
    a = Calibration.fit(scores, predicted, ("x", "y", "z"), minimum=20)
    b = Calibration(a.scores(), ("x", "y", "z"))
    new, at = rng.normal(size=50), rng.integers(0, 3, 50)
    assert (a.p_values(new, at).p_value == b.p_values(new, at).p_value).all()
    assert a.strata == b.strata


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_p_values_are_those_of_crepes(seed: int) -> None:
    """crepes: Mondrian conformal p-values without smoothing, one category a stratum."""
    from crepes import ConformalClassifier

    rng = np.random.default_rng(seed)
    scores, new = rng.poisson(4, 60).astype(float), rng.poisson(5, 40).astype(float)
    predicted, at = rng.integers(0, 2, 60), rng.integers(0, 2, 40)
    ours = Calibration.fit(scores, predicted, ("a", "b"), minimum=1).p_values(new, at)
    reference = ConformalClassifier().fit(scores, bins=predicted)
    theirs = reference.predict_p(new[:, None], bins=at, smoothing=False)
    np.testing.assert_allclose(ours.p_value, theirs[:, 0])


def test_how_many_cases_a_statement_needs() -> None:
    assert [smallest_stratum(a) for a in (0.05, 0.1, 0.01)] == [19, 9, 99]
    assert smallest_stratum(0.05, 0.9) == 45
    for n, confidence in ((19, 0.0), (45, 0.9)):
        assert Calibration({POOLED: np.zeros(n)}, (), confidence).threshold(0.05, POOLED) < np.inf
        short = Calibration({POOLED: np.zeros(n - 1)}, (), confidence)
        assert short.threshold(0.05, POOLED) == np.inf


def test_corrected_p_values_are_clopper_and_pearson_s_bound() -> None:
    c = Calibration({POOLED: np.arange(60.0)}, ("a",), 0.9)
    for as_strange in (0, 3, 30):
        bound = binomtest(as_strange, 60, alternative="less").proportion_ci(0.9).high
        assert p_of(c, 60.0 - as_strange) == pytest.approx(bound)
    assert p_of(c, 0.0) == 1.0


@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_the_correction_speaks_of_this_calibration_set(alpha: float) -> None:
    """Flagged share above α: in about half of sets without it, in at most a tenth with it."""
    rng = np.random.default_rng(5)
    above = {0.0: 0, 0.9: 0}
    for _ in range(1000):
        known = np.sort(rng.uniform(size=100))
        for confidence in above:
            t = Calibration({POOLED: known}, ("a",), confidence).threshold(alpha, POOLED)
            above[confidence] += (1 - t) > alpha
    assert above[0.9] / 1000 <= 0.1 + 3 * np.sqrt(0.09 / 1000)
    assert above[0.0] / 1000 > 0.3


def test_the_digest_names_index_scores_cases_and_confidence() -> None:
    def digest(
        index: str = "i", scores: float = 1.0, confidence: float = 0.0, data: str = "d"
    ) -> str:
        return Calibration({POOLED: np.array([scores])}, ("a",), confidence, data).digest(index)

    others = [digest("j"), digest(scores=2.0), digest(confidence=0.9), digest(data="e")]
    assert len({digest(), *others}) == 5
