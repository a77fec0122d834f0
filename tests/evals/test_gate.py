"""The gate: what a run must hold against the one before it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from curbside.cli import app
from curbside.config import Config, TierPolicy, model_digest, save_config
from curbside.errors import ConfigError
from curbside.evals.evaluation import evaluate
from curbside.evals.gate import GateRules, judge, lines, load_rules
from curbside.evals.markdown import run_page
from curbside.evals.outcome_file import OUTCOMES_FILE, save_outcomes
from curbside.evals.probes import load_probes
from curbside.evals.schema import Control
from curbside.evals.summary import summarise, write_summary


def made(plant, share: float, **controls: float):
    w = plant(lambda agent, modality: share)
    result = evaluate(w.everything, w.assessments, w.trained, Config(), replicates=50)
    level = {"explained": 1.0, "route_flips": 0.01} | controls
    summary = summarise(
        result,
        manifest="m.csv",
        digest="d",
        build_cost={},
        specialists={},
        versions={"policy": "p"},
        notes=["planted"],
        phantoms=True,
        attributes=False,
        generated_at="2026-11-24",
        machine="here",
        controls=[
            Control(
                name=k, about=k, n=100, value=v, ci_low=v, ci_high=v, held_against=1.0,
                finding="not found",
            )
            for k, v in level.items()
        ],
    )  # fmt: skip
    return summary, result.outcomes


def judged(new, old, rules=None, policy=None):
    rules = rules or GateRules(must_not_miss=["label-2"])
    checks = judge(new, old, rules, load_probes(), policy or TierPolicy(), replicates=200)
    return {c.name: c.passed for c in checks}, "\n".join(lines(checks))


def test_an_unchanged_run_passes(plant):
    run = made(plant, 0.8)
    passed, text = judged(run, run)
    assert all(passed.values()), text
    assert list(passed) == [
        "quality", "quality as served", "utility as served", "must not miss",
        "must not miss as served", "novel answered", "novel as served", "probes", "explanations",
        "route flips",
    ]  # fmt: skip


def served_otherwise(run, rows, *, right, answered):
    """The same run, its policy as served ending some cases otherwise; the hybrids stay."""
    o = run[1].arms["served"]
    a, b = o.right.copy(), o.answered.copy()
    a[rows], b[rows] = right, answered
    return run[0], replace(run[1], arms={**run[1].arms, "served": replace(o, right=a, answered=b)})


def test_what_serves_is_judged_and_not_only_the_hybrids(plant):
    run = made(plant, 0.9)
    frame, served = run[1].frame, run[1].arms["served"]
    answered = np.flatnonzero((frame.label == "label-1") & (served.answered > 0.5))
    wrong = served_otherwise(run, answered, right=0, answered=1)
    passed, text = judged(wrong, run, GateRules(must_not_miss=["label-1"]))
    assert passed["quality"] and passed["must not miss"], text
    assert not passed["quality as served"] and not passed["must not miss as served"]
    assert not passed["utility as served"]


def test_a_case_left_to_a_person_is_neither_wrong_nor_missed_but_costs(plant):
    run = made(plant, 0.9)
    frame, served = run[1].frame, run[1].arms["served"]
    rows = np.flatnonzero((frame.label == "label-1") & (served.answered > 0.5))
    careful = served_otherwise(run, rows, right=0, answered=0)
    passed, text = judged(careful, run, GateRules(must_not_miss=["label-1"], margin=0.05))
    assert passed["quality as served"] and passed["must not miss as served"], text
    assert not passed["utility as served"]
    assert re.search(r"answered \d+\.\d % against \d+\.\d %", text)


def test_a_policy_that_answers_nothing_has_not_shown_its_quality(plant):
    run = made(plant, 0.9)
    silent = served_otherwise(run, np.arange(len(run[1].frame)), right=0, answered=0)
    passed, text = judged(silent, run)
    assert not passed["quality as served"] and "answered 0.0 % against" in text


def test_few_cases_hold_nothing_against_what_has_not_changed(plant):
    w = made(lambda skill: plant(skill, per=8), 0.9)
    assert 3 / w[1].frame.scored.sum() > 2 * GateRules().margin
    passed, text = judged(w, w, GateRules())
    assert passed["quality"] and passed["quality as served"] and passed["utility as served"], text


def test_a_worse_run_does_not(plant):
    passed, text = judged(made(plant, 0.5), made(plant, 0.9))
    assert not passed["quality"]
    assert not passed["utility as served"]
    assert not passed["must not miss"]
    assert passed["probes"]
    assert "FAILED  quality" in text


def test_a_better_run_does(plant):
    passed, text = judged(made(plant, 0.95), made(plant, 0.6))
    assert all(passed.values()), text


def test_only_must_not_miss_labels_count_there(plant):
    old = made(plant, 0.9)
    right = {k: o.right.copy() for k, o in old[1].arms.items()}
    missed = old[1].frame.label == "label-2"
    for v in right.values():
        v[missed] = 0
    new = (
        old[0],
        replace(old[1], arms={k: replace(o, right=right[k]) for k, o in old[1].arms.items()}),
    )
    loose = GateRules(margin=1.0, must_not_miss=["label-2"])
    passed, _ = judged(new, old, loose)
    assert passed["quality"] and not passed["must not miss"]
    passed, _ = judged(new, old, GateRules(margin=1.0, must_not_miss=["label-0"]))
    assert passed["must not miss"]


def test_labels_that_no_run_has_are_not_silently_held(plant):
    run = made(plant, 0.8)
    passed, text = judged(run, run, GateRules(must_not_miss=["melanoma"]))
    assert not passed["must not miss"]
    assert "no case" in text
    passed, _ = judged(run, run, GateRules())
    assert passed["must not miss"]


@pytest.mark.parametrize(
    ("control", "value", "check"),
    [("explained", 0.99, "explanations"), ("route_flips", 0.04, "route flips")],
)
def test_explanations_and_flips_are_held(plant, control, value, check):
    passed, _ = judged(made(plant, 0.8, **{control: value}), made(plant, 0.8))
    assert not passed[check]
    assert sum(not p for p in passed.values()) == 1


def test_what_was_not_assessed_has_not_passed(plant):
    summary, outcomes = made(plant, 0.8)
    bare = summary.model_copy(update={"controls": []})
    passed, text = judged((bare, outcomes), (summary, outcomes))
    assert not passed["explanations"]
    assert "not assessed" in text


def test_a_policy_that_fails_its_probes_closes_the_gate(plant):
    run = made(plant, 0.8)
    passed, text = judged(run, run, policy=TierPolicy(alpha=0))
    assert not passed["probes"]
    assert "novel-goes-to-a-person" in text


def test_more_novel_cases_answered_closes_it(plant):
    run = made(plant, 0.8)
    novelty = run[0].novelty.model_copy(update={"novel_answered": 0.5})
    looser = run[0].model_copy(update={"novelty": novelty})
    assert not judged((looser, run[1]), run)[0]["novel answered"]
    unknown = run[0].model_copy(
        update={"novelty": run[0].novelty.model_copy(update={"novel_answered": None})}
    )
    assert judged((unknown, run[1]), (unknown, run[1]))[0]["novel answered"]


def test_a_policy_that_answers_novel_cases_closes_it_whatever_the_score_can_do(plant):
    run = made(plant, 0.8)
    served = run[0].arms["served"]
    tier = served.coverage.per_tier
    assert tier["novel"].value < 0.9
    all_of_them = tier | {"novel": tier["novel"].model_copy(update={"value": 1.0})}
    coverage = served.coverage.model_copy(update={"per_tier": all_of_them})
    arms = run[0].arms | {"served": served.model_copy(update={"coverage": coverage})}
    passed, text = judged((run[0].model_copy(update={"arms": arms}), run[1]), run)
    assert passed["novel answered"] and not passed["novel as served"]
    assert "100.0 % against" in text


def spoilt(run, condition: str):
    """The run with one thing worse, and nothing else."""
    summary, outcomes = run
    if condition in ("explained", "route_flips"):
        level = {"explained": 0.99, "route_flips": 0.04}[condition]
        controls = tuple(
            c.model_copy(update={"value": level}) if c.name == condition else c
            for c in summary.controls
        )
        return summary.model_copy(update={"controls": controls}), outcomes
    if condition not in ("quality", "must_not_miss"):
        return run
    worse = outcomes.frame.label == "label-2"
    if condition == "quality":
        worse = ~worse
    hybrid = summary.decision.hybrid
    right = outcomes.arms[hybrid].right.copy()
    right[worse] = 0
    arms = {**outcomes.arms, hybrid: replace(outcomes.arms[hybrid], right=right)}
    return summary, replace(outcomes, arms=arms)


@pytest.mark.parametrize(
    ("condition", "named", "number"),
    [
        ("", "", ""),
        ("quality", "quality", r"lower bound -\d+\.\d .*limit: above -2\.0"),
        ("must_not_miss", "must not miss", r"lower bound -\d+\.\d .*limit: above -5\.0"),
        ("probes", "probes", r"\d+ of \d+ hold .*novel-goes-to-a-person"),
        ("explained", "explanations", r"99\.0 % of 100 .*limit: at least 100 %"),
        ("route_flips", "route flips", r"4\.0 % of 100 .*limit: at most 3 %"),
    ],
)
def test_each_condition_alone_closes_the_gate_and_names_its_number(
    plant, tmp_path, curbside_home, condition, named, number
):
    """By the command: exit code 0 or 1, the check by name, what was found and its limit."""
    policy = TierPolicy(alpha=0.0 if condition == "probes" else 0.05)
    save_config(Config(policy=policy), curbside_home / "curbside.yaml")
    old = made(plant, 0.9)
    new = spoilt(old, condition)
    for name, (summary, outcomes) in (("old", old), ("new", new)):
        versions = summary.versions | {"policy": model_digest(policy)}
        (tmp_path / name).mkdir()
        write_summary(
            summary.model_copy(update={"versions": versions}), tmp_path / name / "summary.json"
        )
        save_outcomes(outcomes, tmp_path / name / OUTCOMES_FILE)
    rules = tmp_path / "rules.yaml"
    # where the one label is missed, accuracy as a whole may fall
    margin = 1.0 if condition == "must_not_miss" else 0.02
    rules.write_text(f"margin: {margin}\nmust_not_miss: [label-2]\n")
    given = [str(tmp_path / "new"), "--baseline", str(tmp_path / "old"), "--rules", str(rules)]
    said = CliRunner().invoke(app, ["eval", "gate", *given, "--replicates", "200"])
    failed = [line for line in said.output.splitlines() if line.startswith("FAILED")]
    assert said.exit_code == (1 if condition else 0), said.output
    assert ("GATE       closed: " + named if condition else "GATE       open") in said.output
    assert [line[8 : 8 + len(named)] for line in failed] == ([named] if condition else [])
    assert not condition or re.search(number, failed[0]), failed


def test_rules_that_ship_are_valid_and_bad_ones_are_named(tmp_path):
    rules = load_rules()
    assert (rules.margin, rules.explained, rules.flip_rate) == (0.02, 1.0, 0.03)
    assert len(set(rules.must_not_miss)) == len(rules.must_not_miss) > 10
    path = tmp_path / "r.yaml"
    path.write_text("margin: 3\n")
    with pytest.raises(ConfigError, match="margin"):
        load_rules(path)


def test_the_markdown_page_has_controls_and_versions(plant):
    page = run_page(made(plant, 0.8)[0])
    assert page.startswith("# Does routing pay here?")
    for part in ("## Controls", "| explained | 100 | 100.0 % |", "- policy: `p`"):
        assert part in page


def test_a_paired_bound_is_made_from_groups(plant):
    a, b = made(plant, 0.9), made(plant, 0.6)
    assert a[1].frame.n_groups < len(a[1].frame)
    assert np.isfinite(a[0].decision.margin)
    assert judged(a, b)[0]["must not miss"]
