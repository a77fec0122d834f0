"""Drift: silent where nothing changed, loud where something did, and honest about few cases."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from curbside.errors import InternalError
from curbside.indexes import drift as module
from curbside.indexes.conformal import Calibration
from curbside.indexes.drift import Sample, drift, martingale


def sample(seed: int, n: int, *, shift: float = 0, move: float = 0, share: float = 0.5) -> Sample:
    """Two modalities; ``shift`` moves scores of the second, ``move`` its vectors."""
    rng = np.random.default_rng(seed)
    second = rng.random(n) < share
    score = rng.normal(size=n) + shift * second
    vectors = rng.normal(size=(n, 8)).astype(np.float32)
    vectors[second, 0] += move
    return Sample(np.where(second, "ct", "xray"), score, vectors)


CALIBRATION = sample(0, 400)


def verdicts(found: module.DriftReport) -> dict[str, str]:
    verdicts: dict[str, str] = {m.modality: m.verdict for m in found.modalities}
    return verdicts | {"mix": found.mix}


def test_without_drift_few_windows_alarm() -> None:
    alarms = [drift(sample(s, 200), sample(1000 + s, 400)).verdict == "drift" for s in range(30)]
    assert sum(alarms) <= 4  # 5 % of 30, and some by chance


@pytest.mark.parametrize("change", [{"shift": 1.5}, {"move": 2.0}])
def test_the_modality_that_changed_is_named(change: dict[str, float]) -> None:
    found = drift(sample(7, 200, **change), CALIBRATION)
    assert verdicts(found) == {"ct": "drift", "xray": "stable", "mix": "stable"}
    assert found.suspended == ("all", "ct")
    ct = next(m for m in found.modalities if m.modality == "ct")
    if "move" in change:
        assert ct.classifier < 0.01 < ct.ks
        assert ct.auroc > 0.8
    else:
        assert max(ct.ks, ct.martingale) < 0.01 < ct.classifier


def test_another_mix_suspends_the_pooled_stratum_alone() -> None:
    found = drift(sample(7, 200, share=0.85), CALIBRATION)
    assert verdicts(found) == {"ct": "stable", "xray": "stable", "mix": "drift"}
    assert found.suspended == ("all",)
    assert found.verdict == "drift"


def test_too_few_cases_give_no_verdict() -> None:
    found = drift(sample(3, 12, shift=5), CALIBRATION)
    assert set(verdicts(found).values()) == {"insufficient"}
    assert found.verdict == "insufficient"
    assert found.suspended == ()
    unknown = sample(4, 60)
    unknown = Sample(np.full(60, "oct"), unknown.score, unknown.vectors)
    (only,) = drift(unknown, CALIBRATION).modalities
    assert (only.verdict, only.calibration) == ("insufficient", 0)
    assert drift(sample(0, 0), CALIBRATION).verdict == "insufficient"
    with pytest.raises(InternalError, match="there are none"):
        drift(unknown, sample(0, 0))


def test_missing_vectors_leave_two_tests() -> None:
    bare = sample(5, 100)
    bare = Sample(bare.modality, bare.score, np.full((100, 8), np.nan, np.float32))
    found = drift(bare, CALIBRATION)
    for m in found.modalities:
        assert np.isnan(m.classifier)
        assert m.p == pytest.approx(min(1, 2 * min(m.ks, m.martingale)))


def test_the_martingale_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bet with power ½: M₁ = ½ p^(−½); the second case is ranked among the first too."""
    monkeypatch.setattr(module, "_POWERS", np.array([0.5]))

    class Always(np.random.Generator):
        def random(self, *_: Any, **__: Any) -> Any:
            return 1.0

    rng = Always(np.random.PCG64())
    path = martingale(np.array([5.0, 4.0]), np.array([1.0, 2.0, 3.0]), rng)
    first = 0.5 * (1 / 4) ** -0.5  # above all three: (0 + 1) / 4
    second = first * 0.5 * (2 / 5) ** -0.5  # one of four is above: (1 + 1) / 5
    np.testing.assert_allclose(path, [first, second])


def test_the_martingale_seldom_grows_by_chance_and_soon_where_cases_are_strange() -> None:
    rng = np.random.default_rng(0)
    high = [
        martingale(rng.normal(size=150), rng.normal(size=100), rng).max() >= 20 for _ in range(80)
    ]
    assert np.mean(high) <= 0.1  # Ville: 5 %
    assert martingale(rng.normal(2, 1, 60), rng.normal(size=100), rng).max() > 1e4


@settings(max_examples=60, deadline=None)
@given(ps=st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=12))
def test_holm_is_statsmodels_s(ps: list[float]) -> None:
    values: NDArray[np.float64] = np.array(ps)
    found = module._holm(values)
    tested = np.isfinite(values)
    assert (np.isnan(found) == ~tested).all()
    if tested.any():
        # it collects garbage at each call, which takes half a second in a process of many tests
        with patch("gc.collect"):
            expected = multipletests(values[tested], method="holm")[1]
        np.testing.assert_allclose(found[tested], expected, atol=1e-12)


def served(cases: Sample, p: Any, stratum: Any = "all", n: Any = 400) -> Sample:
    """The cases with p-values that a stratum, or one stratum each, gave them."""
    strata = np.broadcast_to(np.asarray(stratum, np.str_), len(cases))
    return Sample(
        cases.modality,
        cases.score,
        cases.vectors,
        np.asarray(p, float),
        strata,
        np.broadcast_to(np.asarray(n, np.int32), len(cases)),
    )


def test_more_strange_cases_than_promised_suspend_the_pooled_stratum() -> None:
    """As when a source is taken for many modalities, each of too few cases for a verdict."""
    quiet = sample(5, 100)
    p = np.linspace(0.06, 1, 100)
    names = np.array([f"m{i % 9}" for i in range(100)])
    alike = Sample(
        np.array([f"m{i % 9}" for i in range(400)]), CALIBRATION.score, CALIBRATION.vectors
    )
    cases = Sample(names, quiet.score, quiet.vectors)
    calm = drift(served(cases, p), alike)
    assert (calm.strange, calm.promise, calm.verdict) == (0, "stable", "stable")
    strange = p.copy()
    strange[:30] = 0.01
    found = drift(served(cases, strange), alike)
    assert found.strange == 0.3
    assert found.strange_p < 1e-6
    assert {m.verdict for m in found.modalities} == {"insufficient"}
    assert (found.promise, found.suspended) == ("drift", ("all",))


def test_what_was_promised_counts_calibration_as_a_draw() -> None:
    """6 of 60 against 99 that calibrate: betabinom(60, 5, 95) by hand."""
    from scipy.stats import betabinom

    p = np.r_[np.full(6, 0.05), np.full(54, 0.5)]
    cases = sample(5, 60)
    share, chance = module._strange(served(cases, p, n=99))
    assert share == 0.1
    assert chance == pytest.approx(sum(betabinom.pmf(k, 60, 5, 95) for k in range(6, 61)))
    assert np.isnan(module._strange(served(cases, p, n=18))[1])  # no p-value can get to 5 %
    assert np.isnan(module._strange(cases)[1])
    # two strata, one of which cannot get there: all six are of the other 40
    two = np.where(np.arange(60) < 40, "ct", "xray")
    _, chance = module._strange(served(cases, p, two, np.where(two == "ct", 39, 18)))
    assert chance == pytest.approx(betabinom(40, 2, 38).sf(5))
    # and the sum of two
    _, chance = module._strange(served(cases, p, two, np.where(two == "ct", 39, 99)))
    a, b = betabinom(40, 2, 38), betabinom(20, 5, 95)
    assert chance == pytest.approx(sum(a.pmf(k) * b.sf(5 - k) for k in range(41)))


def test_a_small_stratum_does_not_break_its_promise_by_chance() -> None:
    """p-values of 25 cases stray far from 5 %, however many other modalities calibrate."""
    rng = np.random.default_rng(0)
    broken = []
    for _ in range(300):
        scores, column = rng.normal(size=500), np.r_[np.zeros(25, int), np.ones(475, int)]
        fitted = Calibration.fit(scores, column, ("few", "many"), minimum=19)
        p = fitted.p_values(rng.normal(size=200), np.zeros(200, int)).p_value
        _, chance = module._strange(served(sample(5, 200), p, "few", 25))
        broken.append(chance <= 0.05)
    assert np.mean(broken) <= 0.08


def test_a_report_is_plain_json() -> None:
    body = json.loads(json.dumps(drift(sample(1, 100), CALIBRATION).to_json()))
    assert body["verdict"] in ("stable", "drift")
    assert {m["modality"] for m in body["modalities"]} == {"ct", "xray"}
