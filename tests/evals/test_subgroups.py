"""Subgroup rates: by hand, suppressed where few, and the disparity planted in the phantoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curbside.cases import read_cases
from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.runner import case_facts
from curbside.evals.statistics import draw_groups
from curbside.evals.subgroups import SMALLEST, CaseFacts, subgroup_rates


def frame_of(modality, label) -> Frame:
    n = len(modality)
    no = np.zeros(n, bool)
    return Frame(
        ids=np.arange(n).astype(str),
        modality=np.array(modality),
        predicted=np.array(modality),
        tier=np.full(n, "common"),
        task=np.full(n, "t"),
        label=np.array(label),
        group=np.arange(n).astype(np.intp),
        usable=~no,
        asked=~no,
        rare_finding=no,
        confounded=no,
    )


def said(probabilities, truth) -> Outcomes:
    p = np.array(probabilities, np.float32)
    one = np.ones(len(p), np.float32)
    right = (p.argmax(axis=1) == truth).astype(np.float32)
    return Outcomes(right, one, p.max(axis=1), one, 5 * one, p)


def planted(n=200):
    """Group b is read as normal in half of its abnormal cases, a in a tenth; c has few."""
    rng = np.random.default_rng(0)
    group = np.array(["a", "b"])[np.arange(n) % 2]
    group[: SMALLEST - 5] = "c"
    truth = rng.integers(0, 2, n)  # 0 is normal
    missed = rng.random(n) < np.where(group == "b", 0.5, 0.1)
    top = np.where((truth == 1) & missed, 0, truth)
    p = np.full((n, 2), 0.1)
    p[np.arange(n), top] = 0.9
    facts = CaseFacts(np.zeros(n, np.int16), truth == 1, {"site_group": group})
    frame = frame_of(["cxr"] * n, np.where(truth == 0, "normal", "mass"))
    return frame, facts, said(p, truth), truth.astype(np.int16), group


def rates_of(frame, facts, outcomes, truth, referred=None, flagged=None):
    nobody = np.zeros(len(frame), bool)
    found = subgroup_rates(
        frame,
        facts,
        outcomes,
        nobody if referred is None else referred,
        nobody if flagged is None else flagged,
        truth,
        draw_groups(frame.n_groups, 500, 0, frame.strata),
    )
    return {(r.group, r.metric): r for r in found}


def test_rates_are_those_counted_by_hand_and_the_difference_is_found():
    frame, facts, outcomes, truth, group = planted()
    rates = rates_of(frame, facts, outcomes, truth)
    for g in ("a", "b"):
        at = (group == g) & (truth == 1)
        missed = (outcomes.probabilities[at].argmax(axis=1) == 0).mean()
        assert rates[g, "false_normal"].value[0] == pytest.approx(missed)
        assert rates[g, "false_normal"].n == at.sum()
        assert rates[g, "latency_ms"].value[0] == pytest.approx(5)
    gap = rates["b − a", "difference in false_normal"].value
    assert gap[1] > 0.1  # the whole interval
    assert rates["a − b", "difference in accuracy"].value[1] > 0


def test_few_cases_are_suppressed():
    rates = rates_of(*planted()[:4])
    assert rates["c", "accuracy"].value is None
    assert rates["c", "accuracy"].n < SMALLEST
    assert not any("c" in g for g, m in rates if m.startswith("difference"))


def test_no_difference_is_not_made_up():
    frame, facts, outcomes, truth, _ = planted()
    fair = replace(facts, attributes={"sex": np.array(["f", "m"])[np.arange(len(frame)) // 2 % 2]})
    rates = rates_of(frame, fair, outcomes, truth)
    (gap,) = [r.value for (_, m), r in rates.items() if m == "difference in accuracy"]
    assert gap[1] < 0.05


def test_waiting_and_flags_are_rates_of_their_own():
    frame, facts, outcomes, truth, group = planted()
    rates = rates_of(frame, facts, outcomes, truth, referred=group == "a", flagged=group == "b")
    assert rates["a", "referred"].value[0] == 1 and rates["b", "referred"].value[0] == 0
    assert rates["b", "flagged"].value[0] == 1 and rates["a", "flagged"].value[0] == 0


@pytest.mark.slow
def test_the_disparity_planted_in_the_phantoms_is_found(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from curbside.indexes.encoder import Lite0Encoder
    from curbside.indexes.features import FeatureSource
    from curbside.phantoms import write_phantoms

    cases = read_cases(write_phantoms(tmp_path, seed=0, scale=0.4))
    cases = cases.take(np.flatnonzero((cases.tiers == "common") & (cases.tasks != "")))
    pooled = FeatureSource(Lite0Encoder()).of(cases.studies(), grid=False).pooled
    options = [c.options for c in cases]
    truth = np.array([o.index(c.label) for o, c in zip(options, cases, strict=True)], np.int16)
    p = np.zeros((len(cases), max(map(len, options))), np.float32)
    for task in np.unique(cases.tasks):
        rows = np.flatnonzero(cases.tasks == task)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        folds = GroupKFold(3)
        p[rows, : len(set(truth[rows]))] = cross_val_predict(
            model, pooled[rows], truth[rows], groups=cases.groups[rows], cv=folds,
            method="predict_proba",
        )  # fmt: skip
    frame = frame_of(cases.modalities, cases.labels)
    frame = replace(frame, group=np.unique(cases.groups, return_inverse=True)[1].astype(np.intp))
    rates = rates_of(frame, case_facts(cases), said(p, truth), truth)
    assert rates["A − B", "difference in accuracy"].value[1] > 0
    assert rates["B − A", "difference in false_normal"].value[1] > 0
