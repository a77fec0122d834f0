"""Blind first: no page tells a reader what the agents said before the reader has spoken."""

from __future__ import annotations

from tests_ui_words import rows, words

from curbside.router.review import Kind


def test_no_search_order_or_flag_tells_a_blind_reader_what_was_answered(opened, home, ledger):
    told = ledger.record("study-xray").outcome.answer
    found = opened("worklist", waiting="false", q=told)
    assert "study-xray" in rows(found)
    app = opened("worklist", reader="Dr. A", waiting="false", sort="confidence")
    app.toggle(key="cb_blind").set_value(True).run()
    order = app.selectbox(key="sort")
    assert order.value == "priority" and "Least sure first" not in order.options
    assert "sort" not in app.query_params
    flags = " ".join(app.multiselect(key="flags").options)
    assert "provisional" not in flags and "unlike anything seen" in flags
    app.text_input(key="q").set_value(told).run()
    assert rows(app) == [] and "answers are not searched" in words(app)
    app.text_input(key="q").set_value("XRAY").run()
    assert "study-xray" in rows(app)


def test_turning_to_blind_first_starts_at_the_first_page(opened, home, monkeypatch):
    monkeypatch.setattr("curbside.ui.views.worklist.PAGE_SIZE", 2)
    app = opened("worklist", reader="Dr. A", waiting="false", sort="confidence")
    app.button(key="on").click().run()
    app.toggle(key="cb_blind").set_value(True).run()
    assert "page 1" in words(app) and len(rows(app)) == 2


def test_blind_first_holds_for_a_case_that_somebody_else_settled(opened, home, jobs, ledger):
    told = ledger.record("study-strange").outcome.provisional
    ledger.review("study-strange", "Dr. B", kind=Kind.AGREE)
    app = opened("case", case="study-strange", reader="Dr. A")
    app.toggle(key="cb_blind").set_value(True).run()
    assert "What do you see?" in words(app)
    assert f"Agree: {told}" not in words(app)
    app.button(key="answer-study-strange-1").click().run()
    assert [(e.kind, e.who) for e in ledger.events("study-strange")] == [
        (Kind.AGREE, "Dr. B"),
        (Kind.BLIND, "Dr. A"),
    ]
    assert "What do you see?" not in words(app)
    mine = opened("case", case="study-strange", reader="Dr. B")
    mine.toggle(key="cb_blind").set_value(True).run()
    assert "What do you see?" not in words(mine)


def test_what_would_have_flipped_it_waits_for_the_blind_reader_too(opened, home, jobs, ledger):
    record = ledger.record("study-xray")
    floor = [c for c in record.outcome.counterfactuals if "floor" in c.change]
    assert floor  # it names a confidence just above the reader's
    app = opened("case", case="study-xray", reader="Dr. A")
    assert floor[0].change in words(app)
    app.toggle(key="cb_blind").set_value(True).run()
    assert floor[0].change not in words(app)


def test_an_upload_tells_a_blind_reader_no_answer_and_no_confidence(opened, home, jobs):
    one = {"study": "study-xray", "status": "answered", "modality": "xray", "said": "intact"}
    one |= {"images": "1", "why": "it is sure (0.93)", "incomplete": ""}
    jobs.end(jobs.submit("route", "1 file"), state="done", result={"studies": [one], "refused": []})
    assert "sure (0.93)" in words(opened("upload"))
    said = words(opened("upload", blind=True))
    assert "study-xray" in said and "sure (0.93)" not in said and "intact" not in said
