"""A record in plain data: what is an answer, what is provisional, who disagrees."""

from __future__ import annotations

import time
from datetime import datetime

from curbside.readings import Abstention, Failure, Reading, Status
from curbside.router.review import Event, Kind
from curbside.ui.case_story import (
    event_line,
    headline,
    moment,
    posterior,
    readings,
    shortcuts,
    version_lines,
    whisker_rows,
)


def test_only_an_answered_case_has_an_answer(ledger):
    done = headline(ledger.record("study-xray"))
    assert (done.kind, done.status) == ("answer", Status.ANSWERED)
    strange = headline(ledger.record("study-strange"))
    assert strange.kind == "provisional" and "nobody's answer" in strange.by
    cut = headline(ledger.record("study-cut"))
    assert (cut.kind, cut.answer) == ("none", "No result")
    assert "nothing about the patient" in cut.by
    record = ledger.record("study-strange")
    bare = record.model_copy(
        update={"outcome": record.outcome.model_copy(update={"provisional": None})}
    )
    assert headline(bare).answer == "No reading"


def test_disagreement_and_silence_are_told_apart(ledger):
    record = ledger.record("study-xray")
    said = record.outcome.answer
    other = next(o for o in record.options if o != said)
    flipped = (0.1, 0.9) if record.options[1] == other else (0.9, 0.1)
    more = (
        Reading(
            agent="g",
            fingerprint="1",
            options=record.options,
            probabilities=flipped,
            confidence=0.9,
        ),
        Abstention(agent="s", reason="not its modality"),
        Failure(agent="f", kind="timeout", message="took too long"),
    )
    found = readings(record.model_copy(update={"responses": (*more, *record.responses)}))
    assert found[0].read_for_case and not found[0].differs
    by = {s.agent: s for s in found}
    assert by["g"].differs and by["g"].options[0] == (other, 0.9)
    assert (by["s"].answer, by["s"].why_not) == ("abstained", "not its modality")
    assert by["f"].answer == "failed (timeout)"


def test_competence_keeps_who_matters(ledger):
    from curbside.readings import AgentCompetence

    record = ledger.record("study-xray")
    many = tuple(
        AgentCompetence(agent=f"a{i}", estimate=i / 20, low=0, high=1, support=5) for i in range(12)
    )
    own = AgentCompetence(agent="specialist-xray", estimate=0.01, low=0, high=1, support=5)
    rows = whisker_rows(record.model_copy(update={"competence": (*many, own)}))
    assert rows[-1].name == "specialist-xray" and rows[-1].chosen
    assert [r.name for r in rows[:2]] == ["a11", "a10"] and len(rows) == 6


def test_digits_choose_answers_while_there_are_enough():
    assert shortcuts(("a", "b")) == {"a": "1", "b": "2"}
    assert shortcuts([str(i) for i in range(10)]) == {}


def test_the_story_says_who_what_and_why(ledger):
    record = ledger.record("study-xray")
    assert posterior(record)[0][0] == "xray"
    assert dict(version_lines(record))["policy"] == record.versions.policy[:16]
    event = Event("c", 1, 0.0, "Dr. A", Kind.OVERRIDE, "broken", "wrong_finding", "see rib 4")
    when, who, what = event_line(event)
    assert when.startswith(("1970", "1969")) and who == "Dr. A"
    assert what == "overrode with broken (wrong finding) see rib 4"


def test_all_moments_of_a_story_are_in_one_time_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        event = Event("s", 0, 0.0, "Dr. A", Kind.NOTE)
        assert event_line(event)[0] == "1970-01-01 09:00:00"
        decided = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        assert moment(decided) == "1970-01-01 09:00:00"
    finally:
        monkeypatch.undo()
        time.tzset()
