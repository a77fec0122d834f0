"""Every page as a person opens it: AppTest over a small home, no model, no browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from tests_router_world import TASKS, picture
from tests_ui_words import rows, words

from curbside import RESEARCH_USE
from curbside.agents.contract import FakeAgent
from curbside.agents.fleet_spec import fleet_path, load_fleet_spec
from curbside.config import load_config, save_config
from curbside.readings import Explanation, Status
from curbside.router.ledger import case_key
from curbside.router.review import Kind
from curbside.storage import write_bytes
from curbside.study import Question, Study


@pytest.mark.parametrize("page", ["worklist", "case", "upload", "lab", "fleet"])
def test_every_page_opens_with_the_notice(opened, home, jobs, page):
    assert RESEARCH_USE in words(opened(page))


@pytest.mark.parametrize("page", ["upload", "fleet", "lab", "worklist"])
def test_without_anything_built_a_page_says_the_next_command(opened, curbside_home, jobs, page):
    from curbside.config import Config, save_config

    save_config(Config(), curbside_home / "curbside.yaml")
    said = words(opened(page))
    assert "curbside" in said and "Traceback" not in said
    assert any(c in said for c in ("curbside build", "curbside eval run", "curbside batch"))


def test_without_a_configuration_it_is_the_users_to_mend(opened, curbside_home, jobs):
    assert "curbside config init" in words(opened("worklist"))


# -- worklist --------------------------------------------------------------------------------


def test_the_worklist_shows_what_waits_and_says_so(opened, home):
    app = opened("worklist")
    assert set(rows(app)) == {"study-strange", "study-stranger", "study-cut"}
    said = words(app)
    assert "Not analysed" in said and "provisional" in said
    assert "beyond the wait cap" in said
    app.toggle(key="waiting").set_value(False).run()
    assert len(rows(app)) == 6


def test_filters_come_from_the_address_and_go_there(opened, home):
    app = opened("worklist", waiting="false", status=["answered"])
    assert set(rows(app)) == {"study-xray", "study-ct", "study-skin"}
    app.text_input(key="q").set_value("xray").run()
    assert rows(app) == ["study-xray"]
    assert "1</b> case<" in words(app)
    app.text_input(key="q").set_value("nothing like it").run()
    assert "No case matches" in words(app)


def test_an_address_that_comes_late_undoes_no_choice(opened, home):
    """What a person does while the list is drawn again comes with the address of before."""
    app = opened("worklist", status=["answered"])
    app.toggle(key="waiting").set_value(False).run()
    assert len(rows(app)) == 3
    app.query_params.clear()
    app.query_params["status"] = "answered"
    app.text_input(key="q").set_value("xray").run()
    assert rows(app) == ["study-xray"]
    assert app.text_input(key="q").value == "xray" and not app.toggle(key="waiting").value
    told = {"status": "answered", "q": "xray", "waiting": "false"}
    assert app.query_params == told
    # back to where it was: the browser is told so, though it says that it is there
    app.text_input(key="q").set_value("").run()
    app.query_params.clear()
    for name, value in told.items():
        app.query_params[name] = value
    app.text_input(key="q").set_value("xray").run()
    assert app.query_params == told and rows(app) == ["study-xray"]
    # with no widget it is a step back
    app.query_params.clear()
    app.query_params["status"] = "answered"
    app.run()
    assert app.text_input(key="q").value == "" and app.toggle(key="waiting").value


def test_leafing_undoes_no_choice_either(opened, home, monkeypatch):
    monkeypatch.setattr("curbside.ui.views.worklist.PAGE_SIZE", 2)
    app = opened("worklist")
    app.toggle(key="waiting").set_value(False).run()
    first = rows(app)
    app.query_params.clear()
    app.button(key="on").click().run()
    assert not app.toggle(key="waiting").value and "page 2" in words(app)
    assert len(rows(app)) == 2 and not set(first) & set(rows(app))


def test_a_link_carries_the_study_and_the_view(opened, home):
    app = opened("worklist", waiting="false", modality=["ct"])
    (link,) = [p for p in app.get("page_link") if "study-ct" in p.proto.label]
    assert "case=study-ct" in link.proto.query_string
    assert "modality=ct" in link.proto.query_string


def test_an_empty_ledger_says_how_to_fill_it(opened, curbside_home):
    from curbside.config import Config, save_config

    save_config(Config(), curbside_home / "curbside.yaml")
    assert "The ledger is empty" in words(opened("worklist"))


def test_pages_go_forward_and_back(opened, home, monkeypatch):
    monkeypatch.setattr("curbside.ui.views.worklist.PAGE_SIZE", 4)
    app = opened("worklist", waiting="false")
    first = rows(app)
    app.button(key="on").click().run()
    second = rows(app)
    assert len(first) == 4 and len(second) == 2 and not set(first) & set(second)
    assert "page 2" in words(app)
    app.button(key="back").click().run()
    assert rows(app) == first
    app.button(key="on").click().run()
    app.text_input(key="q").set_value("study").run()
    assert "page 1" in words(app)


def test_a_page_that_is_none_leads_to_the_first(opened, home):
    app = opened("worklist", waiting="false", after="eyJub25lIjogMX0")
    assert "no such page" in words(app)
    (link,) = [p for p in app.get("page_link") if p.proto.label == "To its first page"]
    assert link.proto.query_string == "waiting=false"


# -- case ------------------------------------------------------------------------------------


def test_a_case_tells_its_story(opened, home, jobs):
    said = words(opened("case", case="study-xray"))
    for part in ("study-xray", "Answered", "specialist-xray", "Familiar", "cosine", "revision 0"):
        assert part in said
    assert "Say who is reading" in " ".join(
        c.value for c in opened("case", case="study-xray").caption
    )


def test_not_analysed_offers_no_result(opened, home, jobs):
    said = words(opened("case", case="study-cut"))
    assert "No result" in said and "nothing about the patient" in said
    assert "no negative" in said


def test_an_unknown_case_and_none(opened, home, jobs):
    for case in ("study-nobody", "<b>bold</b>" * 30, "../../etc", "\x00", "%"):
        app = opened("case", case=case, waiting="false", modality=["ct"])
        assert "No such case" in words(app) and "<b>bold" not in words(app)
        (link,) = [p for p in app.get("page_link") if p.proto.label == "To the worklist"]
        assert link.proto.query_string == "modality=ct&waiting=false"
    app.button(key="first").click().run()
    assert "No such case" not in words(app) and "revision" in words(app)
    app = opened("case")
    assert "No case chosen" in words(app)


def test_agreeing_is_recorded_and_goes_on(opened, home, jobs, ledger):
    app = opened("case", case="study-strange", reader="Dr. A")
    app.button(key="agree-study-strange").click().run()
    (event,) = ledger.events("study-strange")
    assert (event.kind, event.who, event.revision) == (Kind.AGREE, "Dr. A", 1)
    after = ledger.record("study-strange")
    assert after.outcome.status is Status.ANSWERED and after.outcome.reader == "Dr. A"
    assert app.query_params["case"] != ["study-strange"]
    assert "✓ study-strange. Agreed" in words(app)


def test_nobody_acts_without_a_name(opened, home, jobs):
    app = opened("case", case="study-strange")
    assert app.button(key="agree-study-strange").disabled


def test_an_override_wants_a_coded_reason(opened, home, jobs, ledger):
    app = opened("case", case="study-xray", reader="Dr. A")
    told = ledger.record("study-xray").outcome.answer
    other = next(b for b in app.button if b.key.startswith("answer-study-xray"))
    assert other.label != told
    other.click().run()
    assert not ledger.events("study-xray")
    app.text_input(key="note-study-xray").set_value("fourth rib").run()
    app.button(key="why-study-xray-wrong_finding").click().run()
    (event,) = ledger.events("study-xray")
    assert (event.kind, event.code, event.text) == (Kind.OVERRIDE, "wrong_finding", "fourth rib")
    assert ledger.record("study-xray").outcome.answer == other.label


def test_a_note_that_is_typed_just_before_the_reason_is_kept(opened, home, jobs, ledger):
    """A click takes the text out of the field and presses the button: both come at once."""
    app = opened("case", case="study-xray", reader="Dr. A")
    next(b for b in app.button if b.key.startswith("answer-study-xray")).click().run()
    app.text_input(key="note-study-xray").set_value("fourth rib")
    app.button(key="why-study-xray-wrong_finding").click().run()
    (event,) = ledger.events("study-xray")
    assert (event.code, event.text) == ("wrong_finding", "fourth rib")


def test_a_name_that_is_typed_just_before_an_action_is_who_acts(opened, home, jobs, ledger):
    app = opened("case", case="study-strange", reader="Dr. A")
    app.button(key="agree-study-strange").click()
    app.text_input(key="cb_reader_box").set_value("Dr. B").run()
    (event,) = ledger.events("study-strange")
    assert event.who == "Dr. B"


def test_a_written_answer_is_of_the_revision_that_was_seen(opened, home, jobs, ledger):
    record = ledger.record("study-cut").model_copy(update={"case": "study-free", "options": ()})
    ledger.write([(case_key("study-free", "x", Question(options=("a",)), record.versions), record)])

    def write(app: AppTest, answer: str) -> None:
        app.text_input(key="free-answer-study-free").set_value(answer)
        (give,) = [b for b in app.button if b.label == "Answer"]
        give.click().run()

    app = opened("case", case="study-free", reader="Dr. A")
    ledger.review("study-free", "Dr. B", answer="normal", revision=0)
    write(app, "fracture")
    assert "Nothing was recorded" in words(app) and "Dr. B" in words(app)
    assert ledger.get("study-free").answer == "normal"
    # what was written is still there
    assert app.text_input(key="free-answer-study-free").value == "fracture"
    write(opened("case", case="study-free", reader="Dr. A"), "normal")
    assert [e.who for e in ledger.events("study-free")] == ["Dr. B", "Dr. A"]


def test_an_override_can_be_taken_back(opened, home, jobs, ledger):
    app = opened("case", case="study-xray", reader="Dr. A")
    next(b for b in app.button if b.key.startswith("answer-study-xray")).click().run()
    app.button(key="why-cancel").click().run()
    assert any(b.key == "agree-study-xray" for b in app.button)
    assert not ledger.events("study-xray")


def test_a_row_that_comes_in_above_does_not_change_the_case_acted_on(opened, home, jobs, ledger):
    """Selection is by study id: what was drawn is what changes, wherever it stands by then."""
    app = opened("worklist")
    chosen = rows(app)[0]
    (link,) = [p for p in app.get("page_link") if p.proto.label == f"`{chosen}`"]
    record = ledger.record("study-strange").model_copy(
        update={"case": "study-0-above", "received_at": "2001-01-01T00:00:00+00:00"}
    )
    question = Question(options=record.options)
    ledger.write([(case_key("study-0-above", "x", question, record.versions), record)])
    assert rows(opened("worklist"))[0] == "study-0-above"
    assert link.proto.query_string.endswith(f"case={chosen}")

    app = opened("case", case="study-strange", reader="Dr. A")
    ledger.write(
        [
            (
                case_key("study-00", "y", question, record.versions),
                record.model_copy(update={"case": "study-00"}),
            )
        ]
    )
    app.button(key="agree-study-strange").click().run()
    assert [len(ledger.events(c)) for c in ("study-strange", "study-0-above", "study-00")] == [
        1,
        0,
        0,
    ]


def test_somebody_quicker_is_named_and_nothing_is_overwritten(opened, home, jobs, ledger):
    app = opened("case", case="study-strange", reader="Dr. A")
    ledger.review("study-strange", "Dr. B", kind=Kind.AGREE)
    app.button(key="agree-study-strange").click().run()
    said = words(app)
    assert "Nothing was recorded" in said and "Dr. B" in said
    assert [e.who for e in ledger.events("study-strange")] == ["Dr. B"]


def test_blind_first_hides_the_agents_until_the_person_has_spoken(opened, home, jobs, ledger):
    app = opened("case", case="study-strange", reader="Dr. A")
    told = ledger.record("study-strange").outcome.provisional
    app.toggle(key="cb_blind").set_value(True).run()
    said = words(app)
    assert "What do you see?" in said and "nobody's answer" not in said
    assert not any(b.key == "agree-study-strange" for b in app.button)
    (mine,) = [b for b in app.button if b.key == "answer-study-strange-2"]
    mine.click().run()
    (event,) = ledger.events("study-strange")
    assert (event.kind, event.answer, event.revision) == (Kind.BLIND, mine.label, 0)
    said = words(app)
    assert "What do you see?" not in said and f"Agree: {told}" in said
    assert ledger.record("study-strange").outcome.status is Status.NEEDS_REVIEW


def test_blind_first_hides_the_answer_on_every_page(opened, home, jobs, ledger):
    told = ledger.record("study-strange").outcome.provisional
    ledger.add("study-strange", Kind.BLIND, "Dr. B", answer=told, revision=0)
    ledger.add("study-strange", Kind.NOTE, "Dr. B", text=f"I think {told}")

    def seen(page: str, reader: str, *, blind: bool) -> str:
        app = opened(page, reader=reader, case="study-strange")
        app.toggle(key="cb_blind").set_value(blind).run()
        assert not app.exception
        return words(app)

    assert f"I think {told}" in seen("case", "Dr. A", blind=False)
    assert f"I think {told}" not in seen("case", "Dr. A", blind=True)
    assert f"I think {told}" in seen("case", "Dr. B", blind=True)
    row = f"<i>{told}</i>"
    assert row in seen("worklist", "Dr. A", blind=False)
    assert row not in seen("worklist", "Dr. C", blind=True)
    assert row in seen("worklist", "Dr. B", blind=True)


def test_asking_and_rerouting_are_jobs_and_no_rerun_infers(opened, home, jobs, ledger):
    app = opened("case", case="study-strange", reader="Dr. A")
    # who is likeliest to be right comes first
    known = {c.agent: c.estimate for c in ledger.record("study-strange").competence}
    offered = app.selectbox(key="ask-agent-study-strange").options
    ranked = [known.get(a, -1.0) for a in offered]
    assert len(set(offered)) > 1 and ranked == sorted(ranked, reverse=True)
    app.text_input(key="ask-text-study-strange").set_value("Is it old?")
    app.text_input(key="ask-options-study-strange").set_value("yes | no |")
    (asks,) = [b for b in app.button if b.label == "Ask"]
    asks.click().run()
    # seen is what was drawn, not what somebody has made of it by now
    ledger.review("study-strange", "Dr. B", answer=TASKS["bones"][0], revision=0)
    (route,) = [b for b in app.button if b.label == "Re-route"]
    route.click().run()
    assert [k for k, _ in jobs.handed] == ["ask", "reroute"]
    asked = jobs.handed[0][1]
    assert (asked["text"], asked["options"]) == ("Is it old?", ["yes", "no"])
    assert asked["agent"] == offered[0]
    assert jobs.handed[1][1]["revision"] == 0 and jobs.handed[1][1]["who"] == "Dr. A"
    assert [e.who for e in ledger.events("study-strange")] == ["Dr. B"]
    reading = {"type": "reading", "options": ["a", "b"], "probabilities": [0.2, 0.8], "text": ""}
    jobs.end("job-1", state="done", result={"agent": "g", "asked": "?", "response": reading})
    jobs.end("job-2", state="failed", error="the images are not here", hint="route it again")
    app.run()
    said = words(app)
    assert ">b</span>" in said and "the images are not here" in said
    jobs.end(
        "job-1",
        result={"agent": "g", "response": {"type": "abstention", "reason": "not its modality"}},
    )
    assert "gave no reading: not its modality" in words(app.run())


def test_agents_that_are_not_trained_here_can_be_asked_too(opened, home, jobs):
    fleet = """
generalist: far
agents:
  near: {kind: embedded, include: ["generalist"]}
  far: {kind: plugin, use: far, card: {role: generalist}}
  reader: {kind: person}
"""
    (home / "fleet.yaml").write_text(fleet)
    config = load_config(home / "curbside.yaml")
    changed = config.fleet.model_copy(update={"file": "fleet.yaml"})
    save_config(config.model_copy(update={"fleet": changed}), home / "curbside.yaml")
    app = opened("case", case="study-strange", reader="Dr. A")
    ask, route = (s for s in app.selectbox if s.label == "Agent")
    assert ask.options == ["generalist", "far"]
    assert "far" in route.options


def test_images_that_are_not_here_are_said_to_be(opened, home, jobs):
    (home / "sources.sqlite").unlink()
    assert "No image on this machine" in words(opened("case", case="study-xray"))


def test_an_index_calibrated_anew_lends_no_histogram(opened, home, jobs, ledger):
    from curbside.ui.views import case_tabs

    assert "calibrated anew" not in words(opened("case", case="study-xray"))
    case_tabs._scores.clear()
    (home / "index" / "serving.json").unlink()
    assert "calibrated anew" in words(opened("case", case="study-xray"))


# -- upload ----------------------------------------------------------------------------------


def test_an_upload_is_shown_through_to_its_cases(opened, home, jobs):
    job = jobs.submit("route", "3 files")
    app = opened("upload")
    assert any("waiting for the worker" in c.value for c in app.caption)
    jobs.end(job, state="running")
    app.run()
    jobs.end(job, total=2)
    app.run()
    jobs.end(job, done=1)
    app.run()
    studies = [
        {
            "study": "study-xray",
            "status": "answered",
            "modality": "xray",
            "said": "intact",
            "images": "2",
            "why": "Familiar",
            "incomplete": "truncated",
        }
    ]
    refused = [{"id": "0123", "reason": "too_large", "message": "it is", "kind": ""}]
    jobs.end(job, state="done", result={"studies": studies, "refused": refused})
    said = words(app.run())
    for part in ("1 study routed", "1 object refused", "too large", "incomplete: truncated"):
        assert part in said
    jobs.end(job, result={"studies": [], "refused": refused})
    assert "No study in it" in words(app.run())
    jobs.end(job, state="failed", error="the disk is full", hint="free some space")
    assert "the disk is full" in words(app.run())


def test_what_is_uploaded_is_handed_to_the_worker(opened, home, jobs):
    app = opened("upload")
    app.file_uploader[0].upload("Doe^John.png", b"not an image", "image/png").run()
    (button,) = [b for b in app.button if b.label.startswith("Route")]
    button.click().run()
    ((kind, payload),) = jobs.handed
    assert kind == "route"
    (kept,) = (home / "uploads" / payload["folder"]).iterdir()
    assert kept.name == "00000.png" and kept.read_bytes() == b"not an image"


# -- fleet and index -------------------------------------------------------------------------


def test_damaged_agents_are_named(opened, home, jobs):
    said = words(opened("fleet"))
    assert "3 of 3 agents cannot be used" in said
    assert "pooled calibration" in said or "calibrated on" in said


def test_remote_agents_are_listed_and_unknown_until_they_are_asked(opened, home, jobs):
    path = home / "curbside.yaml"
    config = load_config(path)
    fleet = config.fleet.model_copy(update={"file": "vllm-one-gpu"})
    save_config(config.model_copy(update={"fleet": fleet}), path)
    spec = load_fleet_spec(fleet_path("vllm-one-gpu"))
    names = spec.askable(())
    app = opened("fleet")
    said = words(app)
    for name in names:
        assert name in said
    assert said.count("unknown") >= len(names) and "✓ answers" not in said
    assert "cannot be used" not in said  # the trained agents are none of this fleet
    (button,) = [b for b in app.button if b.label == "Ask every agent something"]
    button.click().run()
    job = next(f"job-{i}" for i, (k, _) in enumerate(jobs.handed, 1) if k == "check")
    told = [
        (names[0], "reachable", True),
        (names[0], "reads", True),
        (names[1], "reachable", False),
    ]
    found = [{"agent": a, "check": c, "ok": ok, "said": "", "mend": ""} for a, c, ok in told]
    jobs.end(job, state="done", result={"findings": found})
    said = words(app.run())
    assert "✓ answers" in said and said.count("✕ does not answer") == said.count("✓ answers")
    assert "unknown" in said  # those that were not asked stay so


def test_agents_are_asked_by_the_worker_and_what_mends_them_is_said(opened, home, jobs):
    app = opened("fleet")
    (button,) = [b for b in app.button if b.label == "Ask every agent something"]
    button.click().run()
    job = next(f"job-{i}" for i, (k, _) in enumerate(jobs.handed, 1) if k == "check")
    jobs.end(job, state="running", done=1, total=2)
    app.run()
    found = [
        {"agent": "a", "check": "answers", "ok": True, "said": "in 3 ms", "mend": ""},
        {"agent": "b", "check": "reachable", "ok": False, "said": "refused", "mend": "start it"},
    ]
    jobs.end(job, state="done", result={"findings": found})
    said = words(app.run())
    assert "✓ works" in said and "✕ does not" in said and "next: start it" in said
    jobs.end(job, state="failed", error="no fleet", hint="curbside build")
    assert "no fleet" in words(app.run())


def test_model_cards_come_from_the_worker_one_page_an_agent(opened, home, jobs):
    app = opened("fleet")
    (button,) = [b for b in app.button if b.label == "Model cards"]
    button.click().run()
    job = next(f"job-{i}" for i, (k, _) in enumerate(jobs.handed, 1) if k == "cards")
    jobs.end(job, state="running", done=0, total=0)
    app.run()
    jobs.end(job, state="done", result={"cards": {"a": "# a\n\nKnown limits", "b": "# b"}})
    app.run()
    (chosen,) = [s for s in app.selectbox if s.label == "Model card"]
    assert not any("Known limits" in m.value for m in app.markdown)
    chosen.set_value("a").run()
    assert any("Known limits" in m.value for m in app.markdown)
    jobs.end(job, state="failed", error="no fleet", hint="curbside build")
    assert "no fleet" in words(app.run())


def test_the_map_is_drawn_by_the_worker(opened, home, jobs, world):
    app = opened("fleet")
    assert [k for k, _ in jobs.handed] == ["map"]
    assert "Drawing the map" in words(app)
    jobs.end("job-1", state="failed", error="no room")
    assert "no room" in words(app.run())
    from curbside.ui.jobs import handlers

    handlers(home)["map"]({}, lambda done, total: None)
    app.run()
    (chart,) = app.get("plotly_chart")
    assert any("newest cases" in c.value for c in app.caption)
    assert "study-xray" in chart.proto.spec
    # its neighbours there have labels
    (chart,) = opened("fleet", blind=True).get("plotly_chart")
    assert "study-xray" not in chart.proto.spec and "a new case" in chart.proto.spec


def test_what_a_reading_rests_on_is_shown_over_the_image(opened, home, world, jobs, monkeypatch):
    class Explaining(FakeAgent):
        def explain(self, study, option):
            grid = ((1.0, 0.0), (0.0, -1.0))
            return Explanation(kind="class_activation", option=option, grid=grid, share=0.5)

    own = world.agents["specialist-xray"]
    monkeypatch.setitem(world.agents, "specialist-xray", Explaining(own.card, own._answer))
    path = home / "images" / "explained.png"
    write_bytes(path, picture("xray", 0, 5100))
    question = Question(options=TASKS["bones"], task="bones")
    router = world.router(home)
    router.read(Study.from_image(path, id="study-explained", question=question))
    router.close()
    app = opened("case", case="study-explained", reader="Dr. A")
    assert any("upper left above all" in c.value for c in app.caption)
    app.toggle(key="rests-study-explained").set_value(True).run()
    assert not app.exception
    assert any(c.value.startswith("Orange speaks for") for c in app.caption)
    app.toggle(key="cb_blind").set_value(True).run()
    plain = opened("case", case="study-ct", reader="Dr. A")
    assert any("no explanation available" in c.value.lower() for c in plain.caption)
