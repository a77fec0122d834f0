"""Selective risk, calibration, hulls and regret against hand-worked values and libraries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from curbside.evals import arms as arm_
from curbside.evals.arms import Outcomes
from curbside.evals.frontier import above_zero, aiq, height, hull
from curbside.evals.regret import PARTS, parts_of, to_specialist_share
from curbside.evals.selective import brier, calibration_error, reliability, selective
from curbside.evals.statistics import draw_groups


def even(n: int, r: int = 1) -> np.ndarray:
    return np.full((r, n), 1 / n, np.float32)


def test_selective_risk_by_hand():
    # surest first: right, wrong, right, wrong; risks 0, 1/2, 1/3, 1/2
    confidence = np.array([0.6, 0.9, 0.8, 0.5], np.float32)
    right = np.array([1, 1, 0, 0], np.float32)
    s = selective(confidence, right, even(4))
    assert s.aurc[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # wrong answers so far, of four cases: 0, 1, 1, 2
    assert s.augrc[0] == pytest.approx((0 + 1 + 1 + 2) / 16)
    assert s.risk[0.7][0] == pytest.approx(1 / 3)
    assert s.risk[0.9][0] == pytest.approx(1 / 2)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(5, 60))
def test_sorting_by_truth_is_best_and_worst(seed, n):
    rng = np.random.default_rng(seed)
    right = (rng.random(n) < 0.6).astype(np.float32)
    guess = selective(rng.random(n).astype(np.float32), right, even(n))
    best, worst = selective(right, right, even(n)), selective(-right, right, even(n))
    for name in ("aurc", "augrc"):
        assert getattr(best, name)[0] - 1e-6 <= getattr(guess, name)[0]
        assert getattr(guess, name)[0] <= getattr(worst, name)[0] + 1e-6
    # AUGRC of a perfect order is half the squared error rate (Traub et al.), up to one case
    error = 1 - right.mean()
    assert best.augrc[0] == pytest.approx(error**2 / 2, abs=1 / n)


def test_weights_count_as_copies():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(30).astype(np.float32), (rng.random(30) < 0.7) * 1.0
    times = rng.integers(0, 4, 30)
    weights = (times / times.sum()).astype(np.float32)[None]
    copies = np.repeat(np.arange(30), times)
    whole = selective(confidence[copies], right[copies].astype(np.float32), even(len(copies)))
    part = selective(confidence, right.astype(np.float32), weights)
    assert part.risk[0.9][0] == pytest.approx(whole.risk[0.9][0], abs=0.05)
    assert part.aurc[0] == pytest.approx(whole.aurc[0], abs=0.05)


def outcomes_of(probabilities, truth) -> Outcomes:
    p = np.array(probabilities, np.float32)
    right = (p.argmax(axis=1) == truth).astype(np.float32)
    one = np.ones(len(p), np.float32)
    return Outcomes(right, one, p.max(axis=1), one, one, p)


def test_brier_is_scikit_learns():
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1, 1], 50)
    truth = rng.integers(0, 3, 50)
    ours = brier(outcomes_of(p, truth), truth.astype(np.int16), np.arange(50))
    theirs = brier_score_loss(truth, p, labels=[0, 1, 2], scale_by_half=False)
    assert ours.mean() == pytest.approx(theirs, rel=1e-5)


def test_calibration_error_by_hand_and_of_the_calibrated():
    confidence = np.array([0.6, 0.6, 0.9, 0.9], np.float32)
    right = np.array([1, 0, 1, 1], np.float32)
    assert calibration_error(confidence, right, even(4), bins=2)[0] == pytest.approx(0.1)
    rng = np.random.default_rng(2)
    sure = rng.uniform(0.3, 1, 20_000).astype(np.float32)
    honest = (rng.random(20_000) < sure).astype(np.float32)
    assert calibration_error(sure, honest, even(20_000))[0] < 0.02
    assert calibration_error(sure, honest * 0, even(20_000))[0] > 0.5


def test_reliability_holds_every_case_once(plant):
    part = plant(lambda a, m: 0.7, per=40).trained[0].test
    o = arm_.outcomes(part.matrix, arm_.single(part.matrix, "generalist-full", "G"))
    rows = np.flatnonzero(part.frame.scored)
    counts = draw_groups(part.frame.n_groups, 200, 0)
    found = reliability(part.frame, o, rows, counts)
    for bins in found.values():
        assert all(b.low <= b.accuracy <= b.high for b in bins)
    assert any(b.high - b.low > 0.05 for bins in found.values() for b in bins)
    assert sum(b.n for bins in found.values() for b in bins) == len(rows)
    for bins in found.values():
        assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)


def test_hull_by_hand():
    points = np.array([[1, 0.5], [1, 0.6], [2, 0.55], [2, 0.8], [3, 0.7], [1.5, 0.65]])
    np.testing.assert_allclose(hull(points), [[1, 0.6], [2, 0.8]])
    np.testing.assert_allclose(height(points, np.array([0.5, 1.5, 9])), [0.6, 0.7, 0.8])
    assert aiq(points, 1, 2) == pytest.approx(0.7)
    assert aiq(points, 2, 2) == pytest.approx(0.8)
    assert above_zero(points, points[:1], 1, 2) == pytest.approx(0.2)


@settings(max_examples=50)
# costs and qualities have six decimals: a slope over a denormal cost is no number
@given(
    st.lists(
        st.tuples(*(st.integers(0, m).map(lambda i: i / 10**6) for m in (5 * 10**6, 10**6))),
        min_size=1,
        max_size=12,
    )
)
def test_a_hull_is_concave_rising_and_above_every_point(pairs):
    points = np.array(pairs, np.float64)
    h = hull(points)
    assert (np.diff(h[:, 0]) > 0).all() and (np.diff(h[:, 1]) > 0).all()
    slope = np.diff(h[:, 1]) / np.diff(h[:, 0])
    # points of one line: their slopes differ by rounding, the more the steeper they are
    assert (np.diff(slope) <= 1e-6 * (1 + slope[:-1])).all()
    assert (height(points, points[:, 0]) >= points[:, 1] - 1e-9).all()


def test_every_wrong_answer_has_one_reason(plant):
    world = plant(lambda a, m: 0.8 if a.endswith(m) else 0.6, per=40)
    part = world.trained[0].test
    roster = arm_.Roster(world.trained[0].specialists, "specialist-cxr")
    team = arm_.team(part.matrix, part.assessments, roster)
    full = arm_.single(part.matrix, "generalist-full", "Gfull")
    s, g = (arm_.outcomes(part.matrix, a) for a in (team, full))
    for arm in (team, full, arm_.blend("E", team, full)):
        o = arm_.outcomes(part.matrix, arm)
        parts = parts_of(part.frame, o, s, g)
        total = sum(parts[p] for p in PARTS)
        np.testing.assert_allclose(total[part.frame.scored], 1 - o.right[part.frame.scored])
        assert not total[~part.frame.scored].any()
    # who always asks the specialist never loses a case to the generalist
    assert not parts_of(part.frame, s, s, g)["to_generalist"].any()
    assert parts_of(part.frame, s, s, g)["to_specialist"].any()
    assert (to_specialist_share(team, full) == 1).all()
    assert (to_specialist_share(full, full) == 0).all()


def test_strata_keep_their_groups_in_every_replicate():
    strata = np.array([0, 0, 0, 1, 1, 2])
    counts = draw_groups(6, 200, 0, strata)
    for s, n in ((0, 3), (1, 2), (2, 1)):
        assert (counts[:, strata == s].sum(axis=1) == n).all()
    assert (counts[1:, :3].std(axis=0) > 0).all()
