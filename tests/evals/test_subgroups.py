"""Subgroup rates: by hand, suppressed where few, and the disparity planted in the phantoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from curbside.cases import read_cases
from curbside.config import Config
from curbside.evals.arms import Outcomes
from curbside.evals.details import Looked, look
from curbside.evals.evaluation import evaluate
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


def test_details_of_a_planted_world(plant):
    world = plant(lambda a, m: 0.9 if a.endswith(m) else 0.6, per=40)
    frame = world.everything
    facts = CaseFacts(
        np.zeros(len(frame), np.int16),
        np.asarray(frame.label == "label-2"),
        {"sex": np.array(["f", "m"])[np.arange(len(frame)) % 2]},
    )
    result = evaluate(
        frame, world.assessments, world.trained, Config(), replicates=100, facts=facts
    )
    d = result.details
    assert d is not None
    arm = d.arms["Gfull"]
    at = facts.must_not_miss & frame.scored
    right = result.outcomes.arms["Gfull"].right
    assert arm.must_not_miss.value == pytest.approx(right[at].mean(), abs=1e-5)
    assert arm.accuracy_micro.value == pytest.approx(right[frame.scored].mean(), abs=1e-5)
    assert d.must_not_miss_declared == at.sum()
    assert 0 < arm.augrc.value < arm.aurc.value < 1
    assert set(arm.risk_at) == {"0.7", "0.8", "0.9"}
    # what is lost adds up to the errors
    for h, regret in d.regret.items():
        errors = 1 - result.arms[h].overall["accuracy"][0]
        assert sum(e.value for e in regret.parts.values()) == pytest.approx(errors, abs=1e-4)
        assert regret.to_case_oracle.value >= 0
        assert d.gain[h].normalised.value <= 1
    # specialists that know their modality: the tier rule is better than chance
    assert d.gain["H-tier"].normalised.ci_low > 0
    assert d.frontier is not None
    assert d.frontier.low == pytest.approx(1) and d.frontier.high == pytest.approx(2)
    assert d.frontier.above_zero["cascade"].value == pytest.approx(
        d.frontier.aiq["cascade"].value - d.frontier.aiq["zero"].value, abs=1e-6
    )
    assert sum(r.n for r in d.routes) == len(frame)
    by = {c.b: c for c in d.conclusions}
    assert by["Gfull"].conclusion == "better" and by["Gfull"].mcnemar_p < 0.01
    assert {r.metric for r in d.subgroups} >= {"accuracy", "false_normal", "referred"}
    cheap = next(r for r in d.persons if r.accuracy == 1.0 and r.cost == 0.1)
    dear = next(r for r in d.persons if r.accuracy == 0.8 and r.cost == 1.0)
    assert all(cheap.best[a][0] >= dear.best[a][0] for a in cheap.best)
    for row in (cheap, dear):
        assert row.ci_low < row.best[result.hybrid][1] < row.ci_high
    assert all(r.ci_low <= r.accuracy <= r.ci_high for r in d.routes if r.accuracy is not None)


def test_gain_area_sweep_and_cross_check_by_other_ways(plant):
    world = plant(lambda a, m: 0.9 if a.endswith(m) else 0.6, per=40)
    result = evaluate(
        world.everything, world.assessments, world.trained, Config(), replicates=100,
        facts=CaseFacts(
            np.zeros(len(world.everything), np.int16),
            np.zeros(len(world.everything), bool),
            {},
        ),
    )  # fmt: skip
    d = result.details
    assert d is not None

    def accuracy(arm):
        return result.arms[arm].overall["accuracy"][0]

    for name, gain in d.gain.items():
        over = accuracy(name) - accuracy("random")
        assert gain.over_random.value == pytest.approx(over, abs=1e-5)
        room = accuracy("case-oracle") - accuracy("random")
        assert gain.normalised.value == pytest.approx(over / room, abs=1e-4)
    # the area is the better gate's mean height
    for name, curves in result.curves.items():
        if name in d.arms:
            best = max(np.mean(c) for c in curves.values())
            assert d.arms[name].deferral_area.value == pytest.approx(best, abs=1e-5)
    # McNemar's exact test is the sign test of the discordant pairs
    for c in d.conclusions:
        n = c.a_only + c.b_only
        p = binomtest(c.a_only, n).pvalue if n else 1.0
        assert c.mcnemar_p == pytest.approx(p, abs=1e-6)
        assert c.non_inferior == (c.ci_low > -0.02)
    # the registered worths are one point of each sweep, and a dearer error is worth less
    rows = {(r["worth"], r["value"]): r[result.hybrid] for r in result.sweep}
    registered = [("right", 1.0), ("wrong", -1.0), ("novel_answered", -1.0), ("referral", -0.25)]
    assert len({round(float(rows[k]), 6) for k in registered}) == 1
    assert rows["wrong", -0.5] > rows["wrong", -1.0] > rows["wrong", -4.0]
    assert rows["referral", 0.0] > rows["referral", -0.5]


def test_without_a_truth_there_is_nothing_to_look_at(plant):
    world = plant(lambda a, m: 0.6, per=12)
    frame = replace(world.everything, label=np.full(len(world.everything), ""))
    nothing = Looked(
        frame,
        np.ones((1, frame.n_groups), np.float32),
        np.ones((1, 1), np.float32),
        [],
        [],
        [],
        np.zeros(len(frame), bool),
        np.zeros(len(frame)),
        "H-tier",
        "S",
        (),
        None,
    )
    assert look(nothing) is None
