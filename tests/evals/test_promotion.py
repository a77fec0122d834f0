"""An adapter joins a fleet after the gate alone: checks by hand, entries, the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents"))

from tests_finetuning_world import rows, write

from curbside.agents.finetuning.card import AdapterCard
from curbside.agents.fleet_spec import CardSpec, EncoderSpec, load_fleet_spec
from curbside.cli import app
from curbside.errors import UserError
from curbside.evals.gate import GateRules, lines
from curbside.evals.promotion import (
    Measured,
    entry_for,
    judge_adapter,
    with_entry,
    write_entry,
)

RULES = GateRules(must_not_miss=["ill"])
ENTRY = EncoderSpec(kind="encoder", base="lite0", adapter="out", card=CardSpec(role="generalist"))
FLEET = """# ours
version: 1
generalist: first   # the one that serves
agents:
    # the only one
    first:
        kind: encoder
        base: lite0
        adapter: first
        card: {role: generalist}

endpoints: {}
"""


def found(new, old, commonest=0.5, *, n=200, answered=1.0):
    """Scores of two agents: the first share of each label's cases is right."""

    def scores(share):
        return (np.arange(n) // 2 % 100 < 100 * share).astype(np.float32)

    return Measured(
        new=scores(new),
        old=scores(old),
        answered=scores(answered),
        answered_old=np.ones(n, np.float32),
        commonest=scores(commonest),
        task=np.array(["a", "b"])[np.arange(n) % 4 // 2],
        label=np.array(["ill", "well"])[np.arange(n) % 2],
        group=np.array([f"g{i // 2}" for i in range(n)]),
    )


def passed(measured, rules=RULES):
    return {c.name: c.passed for c in judge_adapter(measured, "old", rules, replicates=500)}


def test_what_is_better_passes_and_what_is_worse_does_not():
    assert all(passed(found(0.9, 0.7)).values())
    assert all(passed(found(0.9, 0.9)).values())
    worse = passed(found(0.7, 0.9))
    assert worse == {"learned": True, "quality": False, "answers": True, "must not miss": False}
    assert not passed(found(0.5, 0.5))["learned"]  # no better than the commonest answer
    assert not passed(found(0.9, 0.7, answered=0.9))["answers"]


def test_few_cases_cannot_pass_by_luck():
    same = found(1.0, 1.0, n=12)
    new, old = same.new.copy(), same.old.copy()
    new[:2], old[-2:] = 0, 0  # equally good, on other cases
    few = Measured(**{**same.__dict__, "new": new, "old": old})
    assert not passed(few)["quality"]


def test_must_not_miss_is_judged_where_there_is_such_a_label():
    assert "must not miss" not in passed(found(0.9, 0.7), GateRules(must_not_miss=["other"]))
    said = "\n".join(lines(judge_adapter(found(0.7, 0.9), "old", RULES, replicates=200)))
    assert "adapter − old = -20.0 points" in said and "FAILED  quality" in said


def test_an_entry_keeps_the_file_as_it_is(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    write_entry(path, "second", ENTRY)
    text = path.read_text()
    for comment in ("# ours", "# the one that serves", "# the only one"):
        assert comment in text
    spec = load_fleet_spec(path)
    assert list(spec.agents) == ["first", "second"] and spec.agents["second"] == ENTRY
    assert text.index("second") < text.index("endpoints: {}")
    assert [p.name for p in tmp_path.iterdir()] == ["fleet.yaml"]
    with pytest.raises(UserError, match="has an agent 'second' already"):
        write_entry(path, "second", ENTRY)
    assert path.read_text() == text


def test_a_file_in_one_line_is_left_alone(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text(json.dumps({"generalist": "x", "agents": {"x": ENTRY.model_dump(mode="json")}}))
    before = path.read_text()
    with pytest.raises(UserError, match="adapter: out") as e:
        write_entry(path, "second", ENTRY)
    assert "by hand" in e.value.hint
    assert path.read_text() == before
    with pytest.raises(UserError):
        with_entry("agents:\n", "second", ENTRY)


def card_of(**given):
    return AdapterCard(
        **{
            "agent": "vlm", "kind": "vlm", "family": "llava", "base": "llava", "base_digest": "d",
            "method": "lora", "parts": ("language",), "recipe": {}, "manifest": "m.csv",
            "data_digest": "d", "shots": None, "seed": 0, "labels": 1, "tasks": {}, "options": {},
            "held_out": 0, "unusable": 0, "trainable": 1, "parameters": 2, "seconds": 1.0,
            "peak_mib": 1.0, "steps": 1, "planned_steps": 1, "metrics": {}, "machine": "m",
            "versions": {}, "intended_use": "u", "limits": "l",
        }
        | given
    )  # fmt: skip


def test_an_adapter_is_served_as_the_agent_that_it_was_made_from(tmp_path):
    path = tmp_path / "fleets" / "fleet.yaml"
    path.parent.mkdir()
    path.write_text(
        "generalist: vlm\nendpoints: {e: {url: 'http://127.0.0.1:1/v1'}}\nagents:\n"
        "  vlm: {kind: openai, endpoint: e, base: llava, card: {role: generalist}}\n"
        "  here: {kind: transformers, base: llava, card: {role: generalist}}\n"
    )
    spec = load_fleet_spec(path)
    where = tmp_path / "adapters" / "derm"
    served = entry_for(card_of(), where, spec, path, "llava")
    assert served.kind == "openai" and served.endpoint == "e"
    assert served.adapter == "../adapters/derm"
    with pytest.raises(UserError, match="does not serve this adapter: no: it also adapts proj"):
        entry_for(card_of(vllm="no: it also adapts projector"), where, spec, path, "llava")
    local = entry_for(card_of(agent="here", vllm="no"), path.parent / "a", spec, path, "llava")
    assert local.kind == "transformers" and local.adapter == "a"
    alone = entry_for(card_of(agent="other"), Path("/elsewhere/a"), spec, path, "base")
    assert alone.base == "base" and alone.adapter == "/elsewhere/a"
    several = entry_for(
        card_of(kind="encoder", modalities=("ct", "mri"), heads={"t": ("a", "b")}),
        where, spec, path, "lite0",
    )  # fmt: skip
    assert several.card.role == "generalist" and several.card.tasks == ("t",)
    write_entry(path, "derm", served)
    assert load_fleet_spec(path).agents["derm"] == served


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Cases, and a fleet whose only agent is a linear probe trained on shuffled labels."""
    folder = tmp_path_factory.mktemp("promotion")
    made = [r for r in [*rows(40), *rows(40, role="tune", start=100)] if "task" in r]
    write(folder / "cases", made)
    wrong = np.random.default_rng(0).permutation(40)

    def shuffle(row):
        i = int(row["image"].split(".")[0])
        return row if i >= 100 else row | {"label": row["options"][wrong[i] % 2]}

    write(folder / "shuffled", made, shuffle)
    return folder


def run(*call):
    return CliRunner().invoke(app, ["finetune", *map(str, call)], catch_exceptions=False)


def test_the_command_enters_what_passed_and_nothing_else(world, tmp_path):
    cases, shuffled = (world / d / "cases.jsonl" for d in ("cases", "shuffled"))
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    for name, manifest in (("first", shuffled), ("good", cases)):
        made = run("--agent", "lite0", "--method", "linear", "--cases", manifest,
                   "--out", tmp_path / name)  # fmt: skip
        assert "learned" in made.stdout
    good = ("promote", tmp_path / "good", "--cases", cases, "--fleet", fleet)
    done = run(*good, "--against", "first")
    assert done.exit_code == 0 and "GATE       open" in done.stdout
    spec = load_fleet_spec(fleet)
    assert spec.agents["good"].adapter == "good" and spec.agents["good"].card.role == "specialist"
    card = json.loads((tmp_path / "good" / "card.json").read_text())
    assert card["metrics"]["tune, shade"] > 0.9
    # the one that learned nothing is held against the one that did
    before = fleet.read_text()
    bad = run("promote", tmp_path / "first", "--cases", cases, "--fleet", fleet, "--name", "bad",
              "--against", "good")  # fmt: skip
    assert bad.exit_code == 1 and "GATE       closed: learned" in bad.stdout
    assert "is as it was" in bad.stdout and fleet.read_text() == before
    with pytest.raises(UserError, match="has an agent 'good' already"):
        run(*good)
    with pytest.raises(UserError, match="no agent 'nobody' to hold it against"):
        run(*good, "--name", "x", "--against", "nobody")
    with pytest.raises(UserError, match="holds no finished adapter"):
        run("promote", tmp_path, "--cases", cases, "--fleet", fleet)
