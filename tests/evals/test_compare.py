"""Outcomes of runs on disk, and comparisons of two of them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.config import Config
from curbside.errors import NotBuilt, StorageError, UserError
from curbside.evals.compare import compare, lines, verdict_of
from curbside.evals.evaluation import evaluate
from curbside.evals.frame import Frame
from curbside.evals.outcome_file import OUTCOMES_FILE, load_outcomes, save_outcomes

NUMBERS = ("right", "answered", "confidence", "cost", "latency_ms")


def run_of(plant, skill, **kw):
    w = plant(skill, **kw)
    return evaluate(w.everything, w.assessments, w.trained, Config(), replicates=50).outcomes


def good(agent, modality):
    return 0.9


def poor(agent, modality):
    return 0.6


def test_outcomes_come_back_as_they_were(plant, tmp_path):
    run = run_of(plant, good)
    save_outcomes(run, tmp_path / OUTCOMES_FILE)
    back = load_outcomes(tmp_path)
    for f in fields(Frame):
        np.testing.assert_array_equal(getattr(back.frame, f.name), getattr(run.frame, f.name))
    assert list(back.arms) == list(run.arms)
    np.testing.assert_array_equal(back.arm("S").right, run.arm("S").right)
    np.testing.assert_array_equal(back.p_value, run.p_value)


def test_a_run_without_outcomes_names_the_next_command(tmp_path):
    with pytest.raises(NotBuilt, match="curbside eval run"):
        load_outcomes(tmp_path)
    (tmp_path / OUTCOMES_FILE).write_bytes(b"half a file")
    with pytest.raises(StorageError, match="damaged"):
        load_outcomes(tmp_path)


def test_a_better_run_is_better_and_the_mirror_is_worse(plant):
    a, b = run_of(plant, good), run_of(plant, poor)
    there = compare(a, b, ("Gfull", "Gfull"), replicates=300)
    back = compare(b, a, ("Gfull", "Gfull"), replicates=300)
    assert (there.verdict, back.verdict) == ("better", "worse")
    first, mirror = there.overall[0], back.overall[0]
    assert first.delta == pytest.approx(-mirror.delta, abs=1e-6)
    assert first.ci_low == pytest.approx(-mirror.ci_high, abs=1e-6)
    assert there.mcnemar_p < 0.001
    assert there.a_only_right > there.b_only_right
    strata = {d.stratum for d in there.strata}
    assert {"common", "rare", "rare_finding", "modality cxr"} <= strata
    assert all(d.p_holm >= d.p - 1e-9 for d in there.strata)


def test_a_run_against_itself_is_equivalent(plant):
    run = run_of(plant, good)
    same = compare(run, run, ("S", "S"), replicates=100)
    assert same.verdict == "equivalent"
    assert same.overall[0].delta == 0
    assert same.mcnemar_p is None  # no case differs
    assert same.overall[0].ci_high == pytest.approx(3 / same.n)
    few = next(d for d in same.strata if d.stratum == "modality cxr")
    assert few.n < 3 / 0.02
    assert few.verdict == "inconclusive"  # agreement on few cases proves nothing


def test_only_shared_cases_with_the_same_truth_are_compared(plant):
    a, b = run_of(plant, good), run_of(plant, poor)
    label = b.frame.label.copy()
    label[0] = "label-9"
    kept = np.arange(len(b.frame) - 10)
    b = replace(
        b,
        frame=replace(b.frame, label=label).take(kept),
        arms={
            k: replace(o, **{f: getattr(o, f)[kept] for f in NUMBERS}) for k, o in b.arms.items()
        },
    )
    c = compare(a, b, ("S", "S"), replicates=100)
    assert (c.only_a, c.only_b, c.other_truth) == (10, 0, 1)


def test_nothing_shared_and_no_such_arm_are_the_users_to_mend(plant):
    a = run_of(plant, good)
    other = replace(a, frame=replace(a.frame, ids=np.char.add("x", a.frame.ids)))
    with pytest.raises(UserError, match="share 0 cases"):
        compare(a, other, ("S", "S"), replicates=100)
    with pytest.raises(UserError, match="no arm 'Z' in this run; it has: S"):
        compare(a, a, ("Z", "S"), replicates=100)


def test_a_dearer_arm_is_worse_on_cost(plant):
    a = run_of(plant, good)
    c = compare(a, a, ("E", "S"), replicates=100)
    assert {d.metric: d.verdict for d in c.overall}["cost"] == "worse"


@settings(max_examples=60, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.001, 0.2))
def test_verdicts_are_exclusive_and_mirror_each_other(delta, below, above, margin):
    there = verdict_of(delta, delta - below, delta + above, margin)
    back = verdict_of(-delta, -delta - above, -delta + below, margin)
    mirror = {"better": "worse", "worse": "better"}
    assert back == mirror.get(there, there)
    wide = verdict_of(delta, delta - below, delta + above, margin / 2)
    if wide == "equivalent":
        assert there == "equivalent"


def test_an_unknown_difference_is_not_assessable():
    assert verdict_of(float("nan"), 0, 0, 0.02) == "not assessable"


def test_the_printed_comparison_says_who_and_how_sure(plant):
    run = run_of(plant, good)
    text = "\n".join(lines(compare(run, run, ("E", "S"), replicates=100)))
    for part in ("a = E", "modality cxr", "MDE", "McNemar", "groups, 100 replicates"):
        assert part in text
    assert "left out" not in text
