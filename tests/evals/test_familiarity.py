"""Familiar cases flagged, against what chance allows; novelty by modality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom

from curbside.assessments import Assessments
from curbside.evals.familiarity import bands, familiarity_markdown, novel_modalities
from curbside.indexes.conformal import Calibration


def assessed(
    p: Any, stratum: Any, n: Any, strata: tuple[str, ...], novelty: Any = None
) -> Assessments:
    m = len(p)
    none = np.zeros((m, 0), np.float32)
    return Assessments(
        modalities=("a", "b"),
        agents=(),
        strata=strata,
        posterior=np.tile(np.array([[1.0, 0.0]], np.float32), (m, 1)),
        novelty=np.zeros(m) if novelty is None else np.asarray(novelty, float),
        p_value=np.asarray(p, float),
        stratum=np.asarray(stratum, np.int16),
        stratum_n=np.asarray(n, np.int32),
        support=np.zeros(m, np.int32),
        specialist=np.full(m, -1, np.int16),
        neighbours=np.zeros((m, 1), np.int64),
        similarity=np.zeros((m, 1), np.float32),
        tag_disagreement=np.zeros(m, bool),
        competence=none,
        competence_low=none,
        competence_high=none,
        competence_support=none,
    )


def test_worked_band_is_scipy_s_beta_binomial() -> None:
    p = np.r_[np.full(6, 0.01), np.full(94, 0.5)]
    (band,) = bands(
        assessed(p, np.zeros(100), np.full(100, 99), ("all",)), np.full(100, ""), alphas=(0.05,)
    )
    # k = ⌊0.05 · 100⌋ = 5 of 99: Beta(5, 95)
    reference = betabinom(100, 5, 95)
    assert (band.low, band.high) == (reference.ppf(0.025) / 100, reference.ppf(0.975) / 100)
    assert band.flagged == pytest.approx(0.06)
    assert (band.cases, band.groups, band.calibration) == (100, 100, 99)
    assert band.inside


def test_a_group_counts_once() -> None:
    p = np.r_[np.full(10, 0.01), np.full(10, 0.5)]
    groups = np.array(["x"] * 10 + [f"y{i}" for i in range(10)])
    found = assessed(p, np.zeros(20), np.full(20, 99), ("all",))
    (band,) = bands(found, groups, alphas=(0.05,))
    assert band.groups == 11
    assert band.flagged == pytest.approx(1 / 11)
    (fewer,) = bands(found, groups, alphas=(0.05,), groups_per_case={"all": 0.2})
    assert fewer.high > band.high


def test_a_level_that_no_p_value_reaches() -> None:
    found = assessed([0.5, 0.6], [0, 0], [50, 50], ("all",))
    (band,) = bands(found, np.array(["", ""]), alphas=(0.01,))
    assert (band.low, band.high, band.flagged, band.inside) == (0, 0, 0, True)


def test_exchangeable_cases_stay_inside_and_shifted_ones_do_not() -> None:
    """Over 60 worlds of two strata at two levels at most some 5 % leave their band."""
    rng = np.random.default_rng(0)
    outside = {0.0: 0, 1.0: 0}
    for _ in range(60):
        scores, at = rng.normal(size=200), np.repeat([0, 1], 100)
        c = Calibration.fit(scores, at, ("a", "b"), minimum=10)
        for shift in outside:
            new = rng.normal(size=240) + shift
            p = c.p_values(new, np.repeat([0, 1], 120))
            found = assessed(p.p_value, p.stratum, p.stratum_n, c.strata)
            judged = bands(found, np.full(240, ""), alphas=(0.05, 0.1))
            outside[shift] += any(not (b.low <= b.flagged <= b.high) for b in judged)
    assert outside[0.0] / 60 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert outside[1.0] / 60 > 0.9


def test_novelty_by_modality_and_the_tables() -> None:
    novelty = np.array([0, 1, 2, 3, 10, 11, 2.5, 12])
    p = np.array([0.9, 0.8, 0.5, 0.04, 0.01, 0.01, 0.3, 0.01])
    found = assessed(p, np.zeros(8), np.full(8, 99), ("all",), novelty)
    truth = np.array(["a", "a", "a", "a", "oct", "oct", "ecg", "ecg"])
    novel = np.array([False] * 4 + [True] * 4)
    ecg, oct_, every = novel_modalities(found, truth, novel)
    assert (ecg.modality, oct_.modality, every.modality) == ("ecg", "oct", "all")
    assert oct_.auroc == 1 and oct_.fpr95 == 0
    assert ecg.auroc == pytest.approx((3 + 4) / 8)
    assert ecg.flagged[0.05] == 0.5
    assert ecg.fpr95 == 0.25
    known = np.flatnonzero(~novel)
    text = familiarity_markdown(bands(found.take(known), np.full(4, "")), [ecg, oct_, every])
    assert "| ecg | 2 | 0.8750 | 0.250 |" in text
    assert "Macro AUROC over novel modalities 0.9375, worst 0.8750" in text
    assert "| all | 5% | 4 | 4 | 99 | 25.0% |" in text
    assert novel_modalities(found, truth, np.zeros(8, bool)) == []
    strange = replace(found, p_value=np.full(8, 0.001))
    worst = bands(strange, np.full(8, ""))
    assert not worst[1].inside and " above |" in familiarity_markdown(worst, [])
