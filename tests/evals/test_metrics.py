"""Metrics against numbers worked by hand, and what must hold for any arm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.metrics import METRICS, Scorer, Utility, weighted_auroc


def small() -> Frame:
    """Two tasks of one modality, one task of another, and a novel modality."""
    rows = [
        # modality, tier, task, label
        ("cxr", "common", "t1", "a"),
        ("cxr", "common", "t1", "a"),
        ("cxr", "common", "t1", "b"),
        ("cxr", "common", "t2", "a"),
        ("us", "rare", "t3", "x"),
        ("us", "rare", "t3", "y"),
        ("oct", "novel", "", ""),
        ("oct", "novel", "", ""),
        ("ecg", "novel", "", ""),
    ]
    n = len(rows)
    modality, tier, task, label = (np.array(c) for c in zip(*rows, strict=True))
    flags = np.zeros(n, bool)
    return Frame(
        ids=np.array([f"c{i}" for i in range(n)]),
        modality=modality,
        predicted=modality,
        tier=tier,
        task=task,
        label=label,
        group=np.arange(n),
        usable=~flags,
        asked=~flags,
        rare_finding=(label == "b"),
        confounded=(task == "t2"),
    )


def outcome(right, answered=None, cost=None) -> Outcomes:
    right = np.array(right, np.float32)
    answered = (
        np.ones(len(right), np.float32) if answered is None else np.array(answered, np.float32)
    )
    ones = np.ones(len(right), np.float32)
    return Outcomes(right, answered, ones, ones if cost is None else cost, 3 * ones, None)


def score(frame: Frame, o: Outcomes, counts=None):
    counts = np.ones((1, frame.n_groups), np.float32) if counts is None else counts
    s = Scorer(frame, counts)
    sums = s.sums(o)
    return s, sums, {m: float(s.metric(m, sums)[0]) for m in METRICS}


def test_by_hand():
    #                 cxr: t1 a a b, t2 a | us x y | novel
    s, sums, got = score(small(), outcome([1, 0, 1, 0, 1, 1, 0, 0, 0]))
    assert got["accuracy"] == pytest.approx((2 / 4 + 1) / 2)
    # cxr: t1 = (½ + 1) / 2 = ¾, t2 = 0 → 3/8; us: 1
    assert got["balanced_accuracy"] == pytest.approx((3 / 8 + 1) / 2)
    assert got["coverage"] == 1
    assert got["selective_accuracy"] == pytest.approx(0.75)
    # known: cxr (2 − 2) / 4 = 0, us 1 → ½; novel −1: .9 · ½ − .1
    assert got["net_benefit"] == pytest.approx(0.9 * 0.5 - 0.1)
    assert got["cost"] == 1 and got["latency_ms"] == 3
    scopes = {(x.kind, x.name): x.cells for x in s.scopes()}
    assert float(s.metric("accuracy", sums, scopes["tier", "rare_finding"])[0]) == 1
    assert float(s.metric("net_benefit", sums, scopes["tier", "novel"])[0]) == -1
    assert np.isnan(s.metric("accuracy", sums, scopes["tier", "novel"])[0])
    clean = s.known & ~s.confounded
    assert float(s.metric("accuracy", sums, clean)[0]) == pytest.approx((2 / 3 + 1) / 2)


def test_a_referral_costs_a_quarter_and_is_never_right():
    _, _, got = score(small(), outcome([0] * 9, [0] * 9))
    assert got["accuracy"] == 0
    assert got["coverage"] == 0
    assert np.isnan(got["selective_accuracy"])
    assert got["net_benefit"] == pytest.approx(-0.25)


def test_replicates_are_the_metric_of_the_resampled_cases():
    frame = small()
    o = outcome([1, 0, 1, 0, 1, 0, 0, 0, 0])
    counts = np.ones((2, 9), np.float32)
    counts[1] = [2, 0, 1, 1, 2, 0, 1, 0, 2]
    s = Scorer(frame, counts)
    got = s.metric("accuracy", s.sums(o))
    rows = np.repeat(np.arange(9), counts[1].astype(int))
    again = replace(frame.take(rows), group=np.arange(len(rows)))
    repeated = outcome(o.right[rows])
    t = Scorer(again, np.ones((1, len(rows)), np.float32))
    assert got[1] == pytest.approx(float(t.metric("accuracy", t.sums(repeated))[0]))


cells = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=9, max_size=9)


@settings(max_examples=60)
@given(cells)
def test_net_benefit_is_bounded_and_right_never_exceeds_answered(drawn):
    answered = np.array([a for _, a in drawn], np.float32)
    right = np.array([r * a for r, a in drawn], np.float32)
    right[6:] = 0
    _, _, got = score(small(), outcome(right, answered))
    assert -1 - 1e-5 <= got["net_benefit"] <= 0.9 - 0.1 * 0.25 + 1e-5
    assert got["accuracy"] <= got["coverage"] + 1e-5
    assert 0 <= got["balanced_accuracy"] <= 1 + 1e-5


@settings(max_examples=30)
@given(st.permutations(list(range(9))), st.lists(st.booleans(), min_size=9, max_size=9))
def test_order_of_cases_does_not_matter(order, right):
    frame, values = small(), np.array(right, np.float32)
    values[6:] = 0
    at = np.array(order)
    _, _, a = score(frame, outcome(values))
    _, _, b = score(frame.take(at), outcome(values[at]))
    for m in METRICS:
        assert a[m] == pytest.approx(b[m], abs=1e-6, nan_ok=True)


def test_auroc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    score_ = np.round(rng.normal(size=200), 1).astype(np.float32)  # with ties
    truth = rng.random(200) < 0.3
    weight = rng.integers(0, 4, (3, 200)).astype(np.float32)
    got = weighted_auroc(score_, truth, weight)
    for w, value in zip(weight, got, strict=True):
        assert value == pytest.approx(roc_auc_score(truth, score_, sample_weight=w), abs=1e-4)


def test_auroc_of_an_arm_that_draws_is_unknown():
    s, _, _ = score(small(), outcome([0] * 9))
    assert np.isnan(s.auroc(outcome([0] * 9), np.full(9, -1, np.int16))).all()


def test_utility_by_case():
    u = Utility(right=2, wrong=-3, novel_answered=-4, referral=-1)
    novel = np.array([False, False, False, True, True])
    right = np.array([1, 0, 0, 0, 0], np.float32)
    answered = np.array([1, 1, 0, 1, 0], np.float32)
    np.testing.assert_allclose(u.of(right, answered, novel), [2, -3, -1, -4, -1])


def test_no_case_at_all_is_unknown_and_no_error():
    frame = small().take(np.zeros(0, np.intp))
    s = Scorer(frame, np.ones((3, 1), np.float32))
    empty = outcome(np.zeros(0))
    assert np.isnan(s.metric("accuracy", s.sums(empty))).all()
