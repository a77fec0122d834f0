"""The policy lab over planted runs: replay, moves, what is missed, comparison, its page."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests_ui_words import words

from curbside import RESEARCH_USE
from curbside.config import (
    AnyPolicy,
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    Config,
    ConsultPolicy,
    TierPolicy,
    save_config,
)
from curbside.evals.assessment_file import ASSESSMENTS_FILE, Known, save_assessments
from curbside.evals.evaluation import evaluate
from curbside.evals.outcome_file import OUTCOMES_FILE, save_outcomes
from curbside.evals.summary import summarise, write_summary
from curbside.response_file import save_responses
from curbside.ui import lab_numbers
from curbside.ui.runs import (
    EFFECTS,
    POLICIES,
    Setting,
    find_runs,
    load_run,
    missed,
    moves,
    replay,
    tally,
)


def planted(name: str):
    """The module of planted evaluations, under a name of its own."""
    import importlib.util

    path = Path(__file__).parents[1] / "evals" / "conftest.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


WORLDS = planted("planted_evaluations")


def write_run(folder: Path, seed: int = 0) -> None:
    world = WORLDS.plant(lambda a, m: 0.9 if a == f"specialist-{m}" else 0.6, per=40, seed=seed)
    config = Config(policy=TierPolicy(minimum_support=1))
    result = evaluate(world.everything, world.assessments, world.trained, config, replicates=100)
    summary = summarise(
        result,
        manifest="m.csv",
        digest="d",
        build_cost={},
        specialists=WORLDS.SPECIALISTS,
        versions={"code": "1"},
        notes=["one draw"],
        phantoms=True,
        attributes=False,
        generated_at="2026-11-24T10:00:00+00:00",
        machine="a machine",
    )
    t = world.trained[0]
    folder.mkdir(parents=True, exist_ok=True)
    save_responses(t.test.matrix, folder / "responses.parquet")
    known = Known(t.test.assessments, t.specialists, t.serving)
    save_assessments(known, folder / ASSESSMENTS_FILE)
    save_outcomes(result.outcomes, folder / OUTCOMES_FILE)
    write_summary(summary, folder / "summary.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("runs")
    write_run(made / "one")
    write_run(made / "kept" / "two", seed=1)
    return made


@pytest.fixture(scope="module")
def run(folder):
    found = load_run(folder / "one")
    assert found.why_not == ""
    return found


BASE = Setting(alpha=0.05, minimum_support=1)


def test_runs_are_found_two_levels_deep(folder):
    assert set(find_runs(folder)) == {"one", "kept/two"}


def test_a_setting_is_a_policy_and_back():
    for config in (
        TierPolicy(alpha=0.1, floor=0.2, minimum_support=7),
        CompetencePolicy(alpha=0.1, cost_weight=0.3),
        CascadePolicy(escalate_below=0.4, escalate_unfamiliar=0.2, refer_disagreement=True),
        AveragePolicy(weight=0.3, minimum_support=9, hold_unproven=False),
        ConsultPolicy(colleagues=("specialist", "lite2"), escalate_below=0.9),
        CompetencePolicy(person_accuracy=0.9, person_cost=0.3),
    ):
        assert Setting.of(config).config() == config


def test_every_policy_that_ships_is_offered_and_replays(run):
    assert set(POLICIES) == {p.model_fields["kind"].default for p in get_args(AnyPolicy)}
    for kind in POLICIES:
        t = tally(run, replay(run, Setting(kind=kind, minimum_support=1)))
        assert 0 < t.answered <= 1, kind


def test_averages_name_all_their_readers(run):
    mean = replay(run, Setting(kind="average", alpha=0.0, minimum_support=1, hold_unproven=False))
    assert mean.calls[run.frame.scored].max() == 2
    moved = moves(run, replay(run, Setting(alpha=0.0, minimum_support=1)), mean)
    assert any(" + " in m.after for m in moved)
    causes = {c: n for c, n, _ in lab_numbers.regret_causes(run, mean)}
    assert causes["averaged, and one alone was right"] > 0
    known = run.frame.scored
    assert (
        sum(n for c, n in causes.items() if c != "novel, answered") == (known & ~mean.right).sum()
    )


def test_colleagues_of_a_run_can_be_consulted(folder, tmp_path):
    """A run whose fleet had a second reader: the column is there, and consult may ask it."""
    shutil.copytree(folder / "one", tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    s = json.loads(path.read_text())
    s["arms"]["generalist-16"] = s["arms"]["Gfull"] | {"kind": "colleague"}
    path.write_text(json.dumps(s))
    run = load_run(tmp_path / "run")
    assert run.colleagues == ("generalist-16",)
    always = Setting(
        kind="consult", alpha=0.0, minimum_support=0, escalate_below=1.0,
        colleagues=("generalist-16",),
    )  # fmt: skip
    r = replay(run, always)
    column = run.recording.agents.index("generalist-16")
    assert (r.weights[:, column] > 0).mean() > 0.9
    assert load_run(folder / "one").colleagues == ()


def test_the_same_setting_moves_nothing(run):
    served = replay(run, BASE)
    assert moves(run, served, replay(run, BASE)) == []


def test_alpha_holds_and_lets_through(run):
    off, strict = replay(run, Setting(alpha=0.0, minimum_support=1)), replay(run, BASE)
    assert tally(run, off).novel_answered > tally(run, strict).novel_answered
    moved = moves(run, strict, off)
    assert {m.effect for m in moved} <= set(EFFECTS)
    assert sum(m.effect == "novel let through" for m in moved) == (
        tally(run, off).novel_answered - tally(run, strict).novel_answered
    )
    # harm comes first
    order = [list(EFFECTS).index(m.effect) for m in moved]
    assert order == sorted(order)


def test_moves_account_for_every_changed_number(run):
    a, b = replay(run, BASE), replay(run, Setting(kind="cascade", alpha=0.05, minimum_support=1,
                                                  floor=0.6, escalate_below=0.8))  # fmt: skip
    moved = moves(run, a, b)
    known = run.frame.scored
    gained = sum(m.effect == "newly right" for m in moved)
    lost = int((a.right & ~b.right & known).sum())
    assert gained == int((b.right & ~a.right & known).sum())
    harmed = sum(m.effect in ("no longer right", "newly missed") for m in moved)
    assert harmed >= lost
    ids = [m.case for m in moved]
    assert len(ids) == len(set(ids))


def test_what_is_missed_is_what_is_wrong(run):
    r = replay(run, BASE)
    t = tally(run, r)
    found = missed(run, r)
    assert len(found) == t.wrong + t.novel_answered
    assert {m.effect for m in found} <= {"answered wrongly", "novel, answered"}


def test_a_floor_of_one_answers_nothing_it_is_not_sure_of(run):
    t = tally(run, replay(run, Setting(alpha=0.05, floor=1.0, minimum_support=1)))
    assert t.answered < 0.05
    assert t.net_benefit == pytest.approx(-0.25, abs=0.05)


def test_cost_weight_moves_cases_only_where_costs_differ(run):
    free, dear = (Setting(kind="competence", cost_weight=w) for w in (0.0, 0.5))
    assert len(set(run.prices)) == 1
    assert not moves(run, replay(run, free), replay(run, dear))
    matrix = run.recording.matrix
    cost = matrix.cost.copy()
    cost[:, [a.startswith("specialist") for a in matrix.agents]] *= 3
    other = replace(run, recording=replace(run.recording, matrix=replace(matrix, cost=cost)))
    assert len(set(other.prices)) == 2
    saved = replay(other, free).cost.sum() - replay(other, dear).cost.sum()
    assert saved > 0 and moves(other, replay(other, free), replay(other, dear))


def test_numbers_of_the_curves(run):
    s = run.summary
    lines = lab_numbers.deferral_lines(s, "novelty")
    assert {"S", "Gfull", "H-tier"} <= set(lines)
    assert all(len(v) == len(s.curve_budgets) for v in lines.values())
    points = {p[0]: p for p in lab_numbers.cost_points(s)}
    assert points["E"][2] == pytest.approx(2.0)
    curves = lab_numbers.reliability_curves(run)
    assert curves and all(np.all(np.diff(x) >= 0) for x, _, _ in curves.values())
    causes = lab_numbers.regret_causes(run, replay(run, BASE))
    wrong = int((run.frame.scored & ~replay(run, BASE).right).sum())
    assert sum(n for c, n, _ in causes if c != "novel, answered") == wrong


def test_a_run_without_its_readings_says_the_next_command(folder, tmp_path):
    for name in ("summary.json", "responses.parquet"):
        (tmp_path / name).write_bytes((folder / "one" / name).read_bytes())
    found = load_run(tmp_path)
    assert "eval run" in found.why_not and str(tmp_path) not in found.why_not


def test_files_of_two_evaluations_are_not_mixed(folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "mixed")
    run = load_run(folder / "one")
    part = run.recording.matrix.take(np.arange(5))
    save_responses(part, tmp_path / "mixed" / "responses.parquet")
    assert "different evaluations" in load_run(tmp_path / "mixed").why_not


# -- the page --------------------------------------------------------------------------------


@pytest.fixture
def lab_home(curbside_home, folder):
    shutil.copytree(folder, curbside_home, dirs_exist_ok=True)
    save_config(Config(policy=TierPolicy(minimum_support=1)), curbside_home / "curbside.yaml")
    return curbside_home


def test_sliders_replay_at_once_and_list_what_moves(opened, lab_home):
    app = opened("lab", run="one")
    assert "No case moves" in words(app)
    app.slider(key="lab_alpha").set_value(0.0).run()
    said = words(app)
    assert "novel let through" in said and "as served" in said
    assert any("novel let through" in str(d.value) for d in app.dataframe)
    app.radio(key="lab_kind").set_value("competence").run()
    assert app.slider(key="lab_cost")
    assert any("Every agent costs the same" in c.value for c in app.caption)
    app.radio(key="lab_kind").set_value("cascade").run()
    assert app.slider(key="lab_second")
    assert "lab_unfamiliar" in {w.key for w in app.slider}
    app.radio(key="lab_kind").set_value("average").run()
    assert "lab_differ" not in {w.key for w in app.toggle}
    app.slider(key="lab_weight").set_value(0.9).run()
    assert "lab_second" not in {w.key for w in app.slider}
    app.radio(key="lab_kind").set_value("consult").run()
    (asked,) = [m for m in app.multiselect if m.key == "lab_colleagues"]
    assert asked.options == ["specialist"] and asked.value == ["specialist"]
    asked.set_value([]).run()
    assert any("the specialist is asked" in c.value for c in app.caption)
    assert not app.exception


def test_a_cascade_can_escalate_by_familiarity_and_leave_disagreement_to_a_person(
    opened, lab_home, run
):
    app = opened("lab", run="one")
    app.radio(key="lab_kind").set_value("cascade").run()
    app.slider(key="lab_second").set_value(0.0).run()
    assert "held: disagreement" not in str([d.value.to_dict() for d in app.dataframe])
    app.slider(key="lab_unfamiliar").set_value(0.5)
    app.toggle(key="lab_differ").set_value(True).run()
    assert "held: disagreement" in str([d.value.to_dict() for d in app.dataframe])
    setting = Setting("cascade", minimum_support=1, escalate_below=0, escalate_unfamiliar=0.5,
                      refer_disagreement=True)  # fmt: skip
    t = tally(run, replay(run, setting))
    assert f"{t.calls:.2f}" in words(app) and f"{100 * t.answered:.1f} %" in words(app)
    assert not app.exception


def test_blind_first_the_lab_lists_cases_without_truth_or_answer(opened, lab_home):
    def columns(*, blind: bool) -> list[set[str]]:
        app = opened("lab", run="one", blind=blind)
        app.slider(key="lab_alpha").set_value(0.0).run()
        return [set(d.value.columns) for d in app.dataframe]

    answers = {"truth", "as served", "under this setting", "after"}
    assert all(found & answers for found in columns(blind=False))
    blind = columns(blind=True)
    assert len(blind) == 2 and not any(found & answers for found in blind)


def test_the_run_as_it_stands(opened, lab_home):
    said = words(opened("lab", run="one"))
    for part in ("Verdict of this run", "Phantoms", "H-competence", "P2"):
        assert part in said


def test_two_runs_are_compared_case_by_case(opened, lab_home):
    app = opened("lab", run="one")
    app.selectbox(key="with").set_value("kept/two").run()
    said = words(app)
    assert "shared cases" in said and "overall" in said


def test_a_damaged_run_is_said_to_be(opened, lab_home):
    (lab_home / "one" / "responses.parquet").write_bytes(b"cut")
    assert "cannot be replayed" in words(opened("lab", run="one"))
    summary = json.loads((lab_home / "one" / "summary.json").read_text())
    (lab_home / "one" / "summary.json").write_text(json.dumps(summary | {"surprise": 1}))
    said = words(opened("lab", run="one"))
    assert "cannot be read" in said and RESEARCH_USE in said
