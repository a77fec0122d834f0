"""Bootstrap, Holm and the verdict, against numbers worked by hand and planted truths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbside.evals.statistics import (
    Contrast,
    Family,
    contrasts,
    draw_groups,
    draw_models,
    holm,
    interval,
    intervals,
    minimum_detectable,
    over_models,
    p_value,
    verdict,
)


def test_first_replicate_is_the_sample_and_every_replicate_draws_as_many():
    counts = draw_groups(7, 50, seed=3)
    assert counts.shape == (51, 7)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(counts, draw_groups(7, 50, seed=3))
    assert (counts != draw_groups(7, 50, seed=4)).any()


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # mean of grouped Bernoulli draws: two equal cases a group, so the group is the unit
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        right = (rng.random(60) < 0.7).astype(np.float32)
        counts = draw_groups(60, 400, seed=i)
        values = (counts @ right) / counts.sum(axis=1)
        _, low, high = interval(values.astype(np.float32))
        covered += low <= 0.7 <= high
    assert 0.89 <= covered / 200 <= 0.98


def test_holm_by_hand():
    # .01·3, then .04·2 = .08, then .03·… sorted: .01, .03, .04 → .03, .06, .06
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )
    out = holm({"a": 0.02, "b": math.nan})
    assert out["a"] == pytest.approx(0.04)
    assert math.isnan(out["b"])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_no_smaller_and_keeps_the_order(p):
    named = {str(i): v for i, v in enumerate(p)}
    out = holm(named)
    assert all(named[k] <= out[k] <= 1 for k in named)
    by = sorted(named, key=named.__getitem__)
    assert all(out[a] <= out[b] for a, b in itertools.pairwise(by))


def test_p_value_is_never_zero_and_two_sided():
    clear = np.concatenate([[1.0], np.full(999, 1.0)]).astype(np.float32)
    assert p_value(clear) == pytest.approx(2 / 1000)
    assert p_value(-clear) == pytest.approx(2 / 1000)
    half = np.array([0.1] + [1, -1] * 50, np.float32)
    assert p_value(half) == 1.0


def test_minimum_detectable_is_2_8_standard_errors():
    rng = np.random.default_rng(1)
    draws = np.concatenate([[0], rng.normal(0, 0.01, 20000)]).astype(np.float32)
    assert minimum_detectable(draws) == pytest.approx(0.028, abs=0.0005)


def test_intervals_of_many_rows_agree_with_one_at_a_time():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(5, 301)).astype(np.float32)
    values[1, 5:40] = np.nan
    values[2] = np.nan
    together = intervals(values)
    for row, found in zip(values, together, strict=True):
        np.testing.assert_allclose(found, interval(row), rtol=1e-5)


def test_trained_draws_are_resampled_and_even_in_the_sample():
    weights = draw_models(3, 200, seed=0)
    np.testing.assert_allclose(weights[0], 1 / 3)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    values = [np.full(201, v, np.float32) for v in (0.0, 0.5, 1.0)]
    mean = over_models(values, weights)
    assert mean[0] == pytest.approx(0.5)
    assert mean[1:].std() > 0.1  # the spread between draws is in the interval


def test_a_draw_without_the_number_does_not_poison_the_mean():
    weights = draw_models(2, 3, seed=0)
    values = [np.full(4, 0.4, np.float32), np.full(4, np.nan, np.float32)]
    out = over_models(values, weights)
    assert out[0] == pytest.approx(0.4)


def replicates(centre: float, spread: float, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(centre, spread, 2000)
    return np.concatenate([[centre], draws]).astype(np.float32)


def families(h: float, others: dict[str, float], spread: float = 0.005) -> list[Family]:
    def values(shift: float) -> dict[str, np.ndarray]:
        out = {b: replicates(v + shift, 0, 1) for b, v in others.items()}
        return {**out, "H": replicates(h + shift, spread, 7)}

    return [Family("P1", "accuracy", values(0)), Family("P2", "net_benefit", values(0.1))]


OTHERS = {"S": 0.70, "G16": 0.60, "Gfull": 0.68, "E": 0.71}


def judge(h: float, cost: float = 1.0, spread: float = 0.005):
    found = contrasts("H", list(OTHERS), families(h, OTHERS, spread))
    return found, verdict("H", found, cost=cost, ensemble_cost=2.0)


def test_verdict_needs_every_opponent_beaten():
    found, v = judge(0.75)
    assert v.text == "the hybrid beats each alone"
    assert all(c.beats for c in found)
    found, v = judge(0.705)
    assert v.text.startswith("routing does not pay here: H did not beat")
    assert "E on P1" in v.text
    assert not v.won


def test_a_win_at_greater_cost_is_no_win():
    _, v = judge(0.75, cost=2.5)
    assert v.text == "routing does not pay here: H costs more than E"


def test_holm_decides_at_the_margin():
    # clear at 5 % alone, not at the 2.5 % that the first of two comparisons gets
    found, v = judge(0.71 + 2.1 * 0.005)
    versus_e = next(c for c in found if c.b == "E" and c.family == "P1")
    assert versus_e.low > 0
    assert versus_e.p < 0.05 < versus_e.p_holm
    assert versus_e.holm_low < 0
    assert not v.won


def test_nothing_to_compare_is_not_a_loss():
    nan = np.full(11, np.nan, np.float32)
    found = contrasts("H", ["S"], [Family("P1", "accuracy", {"H": nan, "S": nan})])
    v = verdict("H", found, cost=1, ensemble_cost=2)
    assert v.text.startswith("not assessable")
    assert found[0].verdict == "not assessable"


def test_contrast_words():
    def made(delta: float, low: float, high: float, p: float) -> str:
        return Contrast(
            "beside", "a", "b", "m", delta, low, high, math.nan, p, math.nan, 0.1
        ).verdict

    assert made(0.1, 0.05, 0.2, 0.01) == "a better"
    assert made(-0.1, -0.2, -0.05, 0.01) == "b better"
    assert made(0.1, -0.05, 0.2, 0.3) == "no difference shown"
