"""What the worker does with uploads and questions, over the planted world and its fake agents."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

import pytest
from tests_router_world import picture

from curbside.config import PrivacyConfig
from curbside.errors import Conflict, NotBuilt, UserError
from curbside.readings import Abstention, Reading, Status
from curbside.router.review import Kind
from curbside.ui.jobs import Desk, ask, cards, check, reroute, rerouted, route


@pytest.fixture
def desk(home, world):
    made = Desk(home)
    made.__dict__["router"] = world.router(home)
    made.__dict__["agents"] = world.agents
    return made


def nothing(done: int, total: int) -> None:
    pass


def test_an_upload_becomes_cases_and_reasons(desk, home):
    folder = home / "uploads" / "abc"
    folder.mkdir(parents=True)
    (folder / "00000.png").write_bytes(picture("xray", 1, 7000))
    (folder / "00001.png").write_bytes(b"no image at all")
    with zipfile.ZipFile(folder / "00002.zip", "w") as z:
        z.writestr("Doe^John.png", picture("ct", 0, 7001))
    steps = []
    told = route(desk, {"folder": "abc"}, lambda done, total: steps.append((done, total)))
    assert len(told["studies"]) == 2 and steps[-1] == (2, 2)
    assert {s["modality"] for s in told["studies"]} == {"xray", "ct"}
    assert [r["reason"] for r in told["refused"]] == ["wrong_type"]
    assert "Doe" not in str(told)
    for one in told["studies"]:
        record = desk.ledger.record(one["study"])
        assert record.outcome.status is Status.ANSWERED
        (series,) = desk.sources.images(one["study"])
        assert all(i.pixels().size for i in series)


def test_a_task_is_asked_of_every_study(desk, home):
    folder = home / "uploads" / "abc"
    folder.mkdir(parents=True)
    (folder / "00000.png").write_bytes(picture("xray", 1, 7000))
    told = route(desk, {"folder": "abc", "task": "bones", "options": ["intact", "broken"]}, nothing)
    record = desk.ledger.record(told["studies"][0]["study"])
    assert (record.task, record.options) == ("bones", ("intact", "broken"))


def test_where_no_sources_are_kept_the_files_go(desk, home):
    privacy = PrivacyConfig(keep_sources=False)
    desk.__dict__["config"] = desk.config.model_copy(update={"privacy": privacy})
    folder = home / "uploads" / "abc"
    folder.mkdir(parents=True)
    (folder / "00000.png").write_bytes(picture("xray", 1, 7000))
    assert len(route(desk, {"folder": "abc"}, nothing)["studies"]) == 1
    assert not folder.exists()


def test_asking_changes_the_story_alone(desk, ledger):
    before = ledger.record("study-strange")
    told = ask(
        desk,
        {"case": "study-strange", "agent": "generalist", "who": "Dr. A", "options": ["yes", "no"],
         "text": "An effusion?"},
        nothing,
    )  # fmt: skip
    assert told["response"]["type"] == "reading"
    (event,) = ledger.events("study-strange")
    assert (event.kind, event.who) == (Kind.ASK, "Dr. A")
    assert event.text == "generalist: An effusion? → yes"
    assert ledger.record("study-strange") == before


def test_an_agent_that_declines_says_why(desk, ledger):
    who = {"case": "study-strange", "agent": "specialist-ct", "who": "A", "text": "An effusion?"}
    assert ask(desk, who, nothing)["response"]["type"] == "abstention"
    assert ledger.events("study-strange")[0].text.endswith("→ told to")
    with pytest.raises(UserError, match="there is no agent"):
        ask(desk, who | {"agent": "nobody"}, nothing)


def test_rerouting_waits_for_the_person(desk, ledger):
    payload = {"case": "study-xray", "agent": "generalist", "who": "Dr. A", "revision": 0}
    reroute(desk, payload, nothing)
    after = ledger.record("study-xray")
    assert after.outcome.status is Status.NEEDS_REVIEW and after.outcome.answer is None
    assert after.outcome.reader == "generalist" and after.outcome.provisional == "intact"
    assert after.outcome.route == ("specialist-xray", "generalist")
    (event,) = ledger.events("study-xray")
    assert (event.kind, event.text, event.revision) == (Kind.REROUTE, "generalist", 1)
    with pytest.raises(Conflict):
        reroute(desk, payload, nothing)


def test_a_reroute_that_gives_no_reading_keeps_what_there_was(ledger):
    record = ledger.record("study-strange")
    after = rerouted(record, Abstention(agent="s", reason="not its modality"), "Dr. A")
    assert after.outcome.provisional == record.outcome.provisional
    assert after.outcome.reader == record.outcome.reader
    assert "not its modality" in after.outcome.reasons[-1].text
    other = next(o for o in record.options if o != record.outcome.provisional)
    p = tuple(1.0 if o == other else 0.0 for o in record.options)
    said = Reading(
        agent="s", fingerprint="1", options=record.options, probabilities=p, confidence=1
    )
    assert rerouted(record, said, "Dr. A").outcome.dissent


def test_without_images_nobody_can_read(desk, home):
    desk.sources.forget(["study-xray"])
    with pytest.raises(UserError, match="is not known here"):
        ask(desk, {"case": "study-xray", "agent": "generalist", "who": "A", "text": "?"}, nothing)


def test_every_agent_is_asked_something(desk, world):
    desk.__dict__["fleet"] = SimpleNamespace(agents=world.agents, tasks={"bones": ("a", "b")})
    steps = []
    told = check(desk, {}, lambda done, total: steps.append((done, total)))
    assert {f["agent"] for f in told["findings"]} == set(world.agents)
    assert steps[-1] == (len(world.agents), len(world.agents))


def test_every_agent_has_a_model_card(desk, world, monkeypatch):
    def nothing_read(workspace):
        raise NotBuilt("nothing was read yet")

    monkeypatch.setattr("curbside.router.workspace.Workspace.tune_responses", nothing_read)
    desk.__dict__["fleet"] = SimpleNamespace(agents=world.agents, people={}, build_cost={})
    told = cards(desk, {}, nothing)["cards"]
    assert set(told) == set(world.agents)
    assert all(page.startswith(f"# {name}") for name, page in told.items())
