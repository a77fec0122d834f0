"""Whole evaluations in planted worlds: the verdict must follow what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curbside.config import CompetencePolicy, Config
from curbside.evals.evaluation import evaluate
from curbside.evals.protocol import consulted_of
from curbside.responses import ResponseStatus


def skills(own: float, foreign: float, rare: float, generalist: float, generalist_rare: float):
    """Specialists: own modality, other common ones, rare ones; the generalists alike."""

    def skill(agent: str, modality: str) -> float:
        is_rare = modality in ("us_lung", "slit_lamp")
        if agent.startswith("specialist-"):
            if agent.endswith(modality):
                return own
            return rare if is_rare else foreign
        return generalist_rare if is_rare else generalist

    return skill


def judged(world, **kwargs):
    kwargs.setdefault("replicates", 400)
    return evaluate(world.everything, world.assessments, world.trained, Config(), **kwargs)


@pytest.fixture(scope="module")
def results():
    return {}


def test_hybrid_wins_where_each_side_has_its_own_ground(plant):
    # specialists own the common ground, the generalist the rare; averaging in the weak side hurts
    skill = skills(own=0.95, foreign=0.4, rare=0.05, generalist=0.05, generalist_rare=0.95)
    world = plant(skill, per=160)
    r = judged(world)
    assert r.verdict.text == "the hybrid beats each alone"
    assert {c.b for c in r.contrasts if c.family == "P1"} == {"S", "G16", "Gfull", "E"}
    assert all(c.beats for c in r.contrasts if c.family == "P1")
    assert r.arms[r.hybrid].overall["cost"][0] <= r.arms["E"].overall["cost"][0]


def test_hybrid_does_not_win_where_the_generalist_is_as_good(plant):
    world = plant(skills(0.8, 0.8, 0.8, 0.8, 0.8))
    r = judged(world)
    assert r.verdict.text.startswith(f"routing does not pay here: {r.hybrid} did not beat ")
    assert "on P1" in r.verdict.text


def test_a_world_without_tasks_is_not_assessable(plant):
    world = plant(skills(0.8, 0.8, 0.8, 0.8, 0.8), per=12)
    f = world.everything
    blank = np.where(f.novel, f.task, "")
    frame = replace(f, task=blank, label=blank, asked=f.novel)
    t = world.trained[0]
    rows = np.flatnonzero(f.novel)
    part = replace(
        t.test,
        frame=frame.take(rows),
        matrix=t.test.matrix.take(rows),
        assessments=t.test.assessments.take(rows),
    )
    r = evaluate(frame, world.assessments, [replace(t, test=part)], Config(), replicates=50)
    assert r.verdict.text.startswith("not assessable")


def test_gates_off_means_everything_is_answered(plant):
    r = judged(plant(skills(0.9, 0.4, 0.4, 0.6, 0.6)))
    for name, arm in r.arms.items():
        if name != "served":
            assert arm.overall["coverage"][0] == pytest.approx(1), name
    assert r.arms["served"].overall["coverage"][0] < 1
    assert r.arms["E"].overall["cost"][0] == pytest.approx(2)


def test_an_abstention_is_a_wrong_answer_at_coverage_one(plant):
    world = plant(skills(1.0, 1.0, 1.0, 1.0, 1.0), per=40)
    t = world.trained[0]
    status = t.test.matrix.status.copy()
    column = t.test.matrix.column("generalist-full")
    cxr = np.flatnonzero(t.test.frame.modality == "cxr")
    status[cxr, column] = ResponseStatus.ABSTAINED
    matrix = replace(t.test.matrix, status=status)
    r = evaluate(
        world.everything,
        world.assessments,
        [replace(t, test=replace(t.test, matrix=matrix))],
        Config(),
        replicates=50,
    )
    full = r.arms["Gfull"]
    assert full.per_modality["accuracy"]["cxr"][0] == 0
    assert full.per_modality["coverage"]["cxr"][0] == 0
    assert full.overall["accuracy"][0] == pytest.approx(4 / 5)
    assert full.overall["selective_accuracy"][0] == pytest.approx(1)
    # the average falls back on whoever answered
    assert r.arms["E"].per_modality["accuracy"]["cxr"][0] == 1


def test_baselines_and_oracles_stand_in_order(plant):
    world = plant(skills(0.9, 0.4, 0.5, 0.6, 0.7), per=120)
    r = judged(world)
    accuracy = {k: v.overall["accuracy"][0] for k, v in r.arms.items()}
    best = max(accuracy[k] for k in ("S", "Gfull", r.hybrid))
    assert accuracy["case-oracle"] >= best
    assert accuracy["case-oracle"] >= accuracy["task-oracle"]
    assert accuracy["twin-oracle"] > accuracy["Gfull"]
    assert accuracy["tags"] <= accuracy["H-tier"] + 0.02
    # the tier rule is fixed by the recognised modality: chance at its rates is itself
    if r.hybrid == "H-tier":
        assert accuracy["random"] == pytest.approx(accuracy["H-tier"], abs=1e-5)


def test_choices_are_made_on_tune_alone(plant):
    skill = skills(0.9, 0.4, 0.4, 0.6, 0.8)
    world = plant(skill, per=60)
    t = world.trained[0]
    wrong = replace(t.test.matrix, truth=(t.test.matrix.truth + 1) % 3)
    a = judged(world)
    b = evaluate(
        world.everything,
        world.assessments,
        [replace(t, test=replace(t.test, matrix=wrong))],
        Config(),
        replicates=50,
    )
    assert (a.hybrid, a.best_single, a.fallbacks) == (b.hybrid, b.best_single, b.fallbacks)
    assert a.tune_accuracy == b.tune_accuracy


def test_order_of_cases_changes_nothing(plant):
    world = plant(skills(0.9, 0.4, 0.5, 0.6, 0.7), per=30)
    at = np.random.default_rng(5).permutation(len(world.everything))
    t = world.trained[0]
    moved_frame = replace(world.everything.take(at), group=world.everything.group[at])
    moved = replace(
        t,
        test=replace(
            t.test,
            frame=moved_frame,
            assessments=t.test.assessments.take(at),
            matrix=t.test.matrix.take(at),
        ),
    )
    a = judged(world, replicates=100)
    b = evaluate(moved_frame, world.assessments.take(at), [moved], Config(), replicates=100)
    for name in ("S", "E", "random", "tags", a.hybrid):
        for metric, value in a.arms[name].overall.items():
            assert value == pytest.approx(b.arms[name].overall[metric], abs=1e-4, nan_ok=True)
        assert a.arms[name].p2 == pytest.approx(b.arms[name].p2, abs=1e-4)


def test_several_draws_are_averaged_and_resampled(plant):
    skill = skills(0.9, 0.4, 0.5, 0.6, 0.7)
    many = plant(skill, per=40, draws=4)
    r = judged(many)
    each = [
        evaluate(many.everything, many.assessments, [t], Config(), replicates=20)
        for t in many.trained
    ]
    mean = np.mean([e.arms["Gfull"].overall["accuracy"][0] for e in each])
    assert r.arms["Gfull"].overall["accuracy"][0] == pytest.approx(mean, abs=1e-5)
    assert r.draws == (0, 1, 2, 3)


def test_competence_policy_as_configured_is_the_one_replayed(plant):
    world = plant(skills(0.9, 0.4, 0.4, 0.6, 0.8), per=30)
    t = world.trained[0]
    r = evaluate(
        world.everything,
        world.assessments,
        [t],
        Config(policy=CompetencePolicy(alpha=0.1)),
        replicates=50,
    )
    assert r.alpha == pytest.approx(0.1)


def test_same_seed_same_numbers(plant):
    world = plant(skills(0.9, 0.4, 0.5, 0.6, 0.7), per=24)
    a, b = judged(world, replicates=60), judged(world, replicates=60)
    assert a.arms["S"].overall == b.arms["S"].overall
    assert a.contrasts[0] == b.contrasts[0]


def with_colleagues(plant, skill, *names, **kwargs):
    """A world in which further agents stand in the fleet, as a fleet file may bring them."""
    usual = plant(skill, per=12).trained[0].test.matrix.agents
    world = plant(skill, agents=(*usual, *names), **kwargs)
    return replace(world, trained=tuple(replace(t, colleagues=names) for t in world.trained))


def test_further_agents_are_arms_opponents_and_earn_their_place_or_not(plant):
    def skill(agent, modality):
        return {"second": 0.75, "parrot": 0.1}.get(agent, 0.7)

    world = with_colleagues(plant, skill, "second", "parrot", per=160)
    assert consulted_of(world.trained) == ("second",)
    r = judged(world)
    # each stands alone, must be beaten alone, and is crossed with the gates
    assert {"second", "parrot"} <= {c.b for c in r.contrasts if c.family == "P1"}
    assert all(r.arms[a].gates for a in ("second", "parrot", "H-consult", "E-consult"))
    cost = {a: r.arms[a].overall["cost"][0] for a in ("Gfull", "H-consult", "E-consult")}
    assert cost["Gfull"] == 1 < cost["H-consult"] <= cost["E-consult"] == 2
    # two readers whose errors differ: the surer one is right more often
    assert r.arms["E-consult"].overall["accuracy"][0] > r.arms["Gfull"].overall["accuracy"][0]
    assert r.details is not None
    # what it loses, and to whom: every error once, the oracle over the two above it
    lost = r.details.regret["H-consult"]
    assert lost.between == ("second", "Gfull")
    wrong = 1 - r.arms["H-consult"].overall["accuracy"][0]
    assert sum(e.value for e in lost.parts.values()) == pytest.approx(wrong, abs=1e-4)
    assert lost.parts["to_generalist"].value > 0 and lost.parts["to_colleague"].value > 0
    assert lost.to_case_oracle.value > 0 and lost.to_task_oracle.value is None
    # who asks where it is unsure gains more than who asks as often by chance
    assert r.details.gain["H-consult"].over_random.value > 0
    assert 0 < r.details.gain["H-consult"].normalised.value < 1
    # the whole curve of who is asked how often, the rule's own threshold on it
    f = r.details.frontier
    assert f.routers.keys() == f.above_zero.keys() == {"cascade", "consult"}
    for at, arm in ((0, "Gfull"), (8, "H-consult")):
        overall = r.arms[arm].overall
        there = (overall["cost"][0], overall["accuracy"][0])
        assert f.routers["consult"][at] == pytest.approx(there, abs=1e-5)
    assert f.routers["consult"][-1][0] > f.routers["consult"][8][0]
    for name, above in f.above_zero.items():
        assert above.value == pytest.approx(f.aiq[name].value - f.aiq["zero"].value, abs=1e-6)
    pool = {row.without: row for row in r.details.pool}
    assert {"second", "parrot"} <= pool.keys()
    assert pool[""].weights["second"] > 0.05 > pool[""].weights["parrot"]
    # who knows next to nothing has no place to lose
    assert abs(pool["parrot"].gain.value) < 0.01


def test_a_colleague_that_does_no_good_on_tune_is_not_consulted(plant):
    world = with_colleagues(plant, lambda a, m: 0.05 if a == "bad" else 0.9, "bad")
    assert consulted_of(world.trained) == ()
    r = judged(world)
    assert "H-consult" not in r.arms and "bad" in r.arms
    assert "H-consult" not in r.details.regret and "H-consult" not in r.details.gain


def test_draws_consult_the_same_colleagues_even_where_one_alone_would_not(plant):
    good, bad = (
        with_colleagues(plant, lambda a, m, p=p: p if a == "second" else 0.9, "second")
        for p in (0.95, 0.02)
    )
    draws = (good.trained[0], replace(bad.trained[0], seed=1))
    assert [consulted_of([t]) for t in draws] == [("second",), ()]
    together = consulted_of(draws)
    r = judged(replace(good, trained=draws), replicates=50)
    assert ("H-consult" in r.arms) == bool(together)
    # with two draws of the good one, and the bad one beside it, the mean does no harm
    r = judged(replace(good, trained=(draws[0], draws[0], draws[1])), replicates=50)
    assert "H-consult" in r.arms
