"""Recorded cases under other policies, and the commands over the ledger, without any model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_router_world import TASKS, World, make_world, picture, strange
from typer.testing import CliRunner

from curbside.cli import app
from curbside.config import (
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    Config,
    TierPolicy,
    save_config,
)
from curbside.errors import Conflict, UserError
from curbside.readings import Status
from curbside.router.api import Router
from curbside.router.replay import replay
from curbside.study import Question, Study


def study(task: str, seed: int, id: str) -> Study:
    modality = {"bones": "xray", "lungs": "ct", "skin": "photo"}.get(task)
    options = TASKS.get(task, ("yes", "no"))
    raw = strange(seed) if modality is None else picture(modality, 0, seed)
    known = task if task in TASKS else None
    return Study.from_image(raw, question=Question(options=options, task=known), id=id)


@pytest.fixture(scope="module")
def all_read(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """Cases that both agents have read: every other policy can be replayed."""
    world = make_world({"specialist-xray": lambda q: [0.55, 0.45], "generalist": lambda q: [0, 1]})
    home = tmp_path_factory.mktemp("home")
    router = world.router(home, CascadePolicy(alpha=0, escalate_below=1, minimum_support=0))
    router.read_batch([study(t, 5000 + i, f"{t}-{i}") for i in range(3) for t in (*TASKS, "odd")])
    return router


POLICIES = st.one_of(
    st.builds(TierPolicy, alpha=st.sampled_from([0, 0.05, 0.5]), floor=st.sampled_from([0, 0.7])),
    st.builds(CascadePolicy, alpha=st.sampled_from([0, 0.3]), minimum_support=st.integers(0, 40)),
    st.builds(CompetencePolicy, alpha=st.sampled_from([0, 0.3])),
    st.builds(AveragePolicy, floor=st.sampled_from([0, 0.6])),
)


@settings(max_examples=7, deadline=None)
@given(policy=POLICIES)
def test_a_replay_ends_as_a_reading_under_that_policy_would(
    all_read: Router, tmp_path_factory: pytest.TempPathFactory, policy: Any
) -> None:
    world = make_world({"specialist-xray": lambda q: [0.55, 0.45], "generalist": lambda q: [0, 1]})
    other = world.router(tmp_path_factory.mktemp("other"), policy)
    for name in ("bones-0", "lungs-1", "skin-2", "odd-0"):
        task, _, i = name.partition("-")
        expected = other.read(study(task, 5000 + int(i), name))
        found = replay(all_read.ledger, name, policy)
        if found.missing:
            continue
        assert found.verdict.answered == (expected.outcome.status is Status.ANSWERED)
        assert found.answer == (expected.outcome.answer or expected.outcome.provisional)
        assert found.confidence == expected.outcome.confidence
        assert found.verdict.reason == expected.outcome.reasons[0].code
        assert found.tier is expected.tier
    other.close()


@pytest.fixture
def home(world: World, curbside_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a ledger of three cases, and no model in it."""
    save_config(Config(), curbside_home / "curbside.yaml")
    router = world.router(curbside_home)
    router.read_batch([study("bones", 5000, "common"), study("odd", 1, "odd")])
    router.read(Study.from_image(b"", id="empty"))
    router.close()
    return curbside_home


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.usefixtures("home")
def test_explain_shows_the_record_and_what_people_did() -> None:
    assert call("explain", "common").startswith("ANSWERED: intact")
    call("review", "answer", "odd", "no", "--who", "dr-1", "--note", "seen before")
    told = call("review", "show", "odd")
    assert "dr-1: answer  no  seen before" in told and "revision 1 of 1" in told
    assert call("explain", "odd", "--revision", "0").startswith("NEEDS REVIEW")
    body = json.loads(call("explain", "odd", "--json"))
    assert body["events"][0]["who"] == "dr-1" and body["record"]["outcome"]["answer"] == "no"


@pytest.mark.usefixtures("home")
def test_explain_writes_a_page_without_an_image_where_none_is_known(tmp_path: Path) -> None:
    path = tmp_path / "case.html"
    call("explain", "common", "--html", str(path))
    page = path.read_text()
    assert "ANSWERED: intact" in page and "not on this machine" in page


def test_replay_from_the_ledger_alone(home: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("policy:\n  kind: tier\n  alpha: 0.99\n")
    told = call("replay", "common", "--policy", str(policy))
    assert "recorded  answered 'intact' by specialist-xray" in told
    assert "whom nobody asked" in told
    assert "its route changes; whether its answer does is not known" in told
    policy.write_text("policy:\n  kind: tier\n  minimum_support: 20\n")
    body = json.loads(call("replay", "common", "--policy", str(policy), "--json"))
    assert (body["changed"], body["answer"], body["missing"]) == (False, "intact", [])
    # a review does not change what is replayed
    call("review", "answer", "odd", "no")
    policy.write_text("policy:\n  kind: tier\n  alpha: 0\n  minimum_support: 20\n")
    told = call("replay", "odd", "--policy", str(policy))
    assert "replayed  answered 'yes'" in told or "whom nobody asked" in told
    with pytest.raises(UserError, match="never assessed"):
        call("replay", "empty", "--policy", str(policy))


def test_cases_that_wait_are_listed_and_answered_once(home: Path, world: World) -> None:
    told = call("review", "list")
    assert [line.split()[0] for line in told.splitlines()[1:3]] == ["odd", "empty"]
    assert "next: curbside review show odd" in told
    assert [
        e["study"] for e in json.loads(call("review", "list", "--flag", "novel", "--json"))
    ] == ["odd"]
    assert "odd: answered 'yes' by dr-1" in call("review", "answer", "odd", "--who", "dr-1")
    with pytest.raises(Conflict, match="answered by dr-1 with 'yes'"):
        call("review", "answer", "odd", "no", "--who", "dr-2")
    with pytest.raises(Conflict, match="revision 1"):
        call("review", "answer", "odd", "no", "--who", "dr-2", "--revision", "0")
    call("review", "answer", "odd", "no", "--override", "other", "--revision", "1")
    router = world.router(home)
    assert router.pending() == []
    assert router.ledger.get("odd").truth == "no"
    router.close()
    assert "empty" in call("review", "list")
    some = len(json.loads(call("review", "list", "--json")))
    # what was typed fits no case, but others wait: nobody is told that nothing is to do
    none = f"no case waits that matches; without --text, --modality and --flag, {some} do"
    assert none in call("review", "list", "--text", "nothing has this")
    mistyped = call("review", "list", "--flag", "novell").splitlines()
    assert mistyped[0] == none and mistyped[1].startswith("  instead of 'novell': ")
    assert mistyped[1].endswith("not_analysed 1")


def test_no_model_library_is_loaded(home: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom curbside.cli import app\n"
        "for words in ('explain odd', 'review list', 'review answer odd no'):\n"
        "    result = CliRunner().invoke(app, words.split(), catch_exceptions=False)\n"
        "    assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'faiss', 'onnxruntime', 'transformers', 'sklearn', 'streamlit'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
