"""Details of a run: by other ways, on planted worlds whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from curbside.config import Config
from curbside.evals.details import look
from curbside.evals.evaluation import evaluate
from curbside.evals.looked import Looked
from curbside.evals.subgroups import CaseFacts


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
