"""Modality, novelty and safety numbers on planted scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from curbside.evals.gates import familiarity
from curbside.evals.novelty import answered_at, measure_novelty
from curbside.evals.statistics import draw_groups


@pytest.fixture
def world(plant):
    return plant(lambda agent, modality: 0.7, per=100)


def measure(world, **changes):
    a = replace(world.assessments, **changes)
    f = world.everything
    counts = draw_groups(f.n_groups, 20, 0)
    return measure_novelty(f, a.novelty, a.p_value, familiarity(a), counts, 0.05)


def test_agrees_with_scikit_learn(world):
    f, a = world.everything, world.assessments
    v = measure(world)
    assert v.auroc_vs_known[0] == pytest.approx(roc_auc_score(f.novel, a.novelty), abs=1e-5)
    rows = f.novel | (f.tier == "common")
    assert v.auroc_vs_common[0] == pytest.approx(
        roc_auc_score(f.novel[rows], a.novelty[rows]), abs=1e-5
    )
    cut = np.sort(a.novelty[f.novel])[int(0.05 * f.novel.sum())]
    assert v.fpr95[0] == pytest.approx((a.novelty[~f.novel] >= cut).mean(), abs=1e-6)
    common = f.tier == "common"
    assert v.false_deferral[0] == pytest.approx((a.p_value[common] <= 0.05).mean(), abs=1e-6)


def test_novel_answered_at_exactly_five_per_cent_of_common_cases(world):
    f = world.everything
    n = len(f)
    p = np.linspace(0.5, 1, n)
    common = np.flatnonzero(f.tier == "common")  # 300: 5 % are 15
    p[common] = np.linspace(0.1, 0.4, len(common))
    oct_, ecg = np.flatnonzero(f.modality == "oct"), np.flatnonzero(f.modality == "ecg_image")
    p[oct_] = 0.01  # all referred
    p[ecg[:30]] = 0.01
    p[ecg[30:]] = p[common[15]] + 1e-9  # just inside what is let through
    v = measure(world, p_value=p)
    assert v.novel_answered_of["oct"][0] == 0
    assert v.novel_answered_of["ecg_image"][0] == pytest.approx(0.7)
    assert v.novel_answered[0] == pytest.approx(0.35)


def test_a_tie_at_the_threshold_is_referred_in_part(world):
    f = world.everything
    common, novel = f.tier == "common", f.novel
    score = np.where(common | novel, 0.5, 0.9)
    by = answered_at(score, f, common, novel, np.ones((1, len(f)), np.float32))
    for share in by.values():
        assert share[0] == pytest.approx(0.95)


def test_unreadable_images_are_in_no_number(world):
    f = world.everything
    bad = np.zeros(len(f), bool)
    bad[np.flatnonzero(f.modality == "cxr")[:50]] = True
    broken = replace(
        world, everything=replace(f, usable=~bad, predicted=np.where(bad, "?", f.predicted))
    )
    assert measure(broken).accuracy_common[0] == 1


def test_no_novel_case_is_not_assessable(plant):
    world = plant(lambda a, m: 0.7, per=12, novel=())
    v = measure(world)
    assert np.isnan(v.auroc_vs_known).all()
    assert np.isnan(v.fpr95).all()
    assert np.isnan(v.novel_answered).all()
    assert v.novel_answered_of == {}
    assert v.accuracy_common[0] == 1
