"""The ledger: one outcome a key, claims, reviews under an optimistic lock, what is kept."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.errors import ConfigError, Conflict, StorageError, UserError
from curbside.readings import CaseRecord, Status
from curbside.router import ledger as ledger_module
from curbside.router.ledger import Ledger, case_key, open_ledger, process_name
from curbside.router.review import Kind
from curbside.router.synthetic import fill, synthetic_records
from curbside.study import Question


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path, "ledger.sqlite")


def records(n: int, status: Status | None = None) -> list[CaseRecord]:
    made = synthetic_records(60 + n, now=1e9)
    return [r for r in made if status is None or r.outcome.status is status][:n]


def put(ledger: Ledger, *some: CaseRecord) -> list[str]:
    keys = [case_key(r.case, r.content, Question(options=r.options), r.versions) for r in some]
    assert ledger.write(zip(keys, some, strict=True)) == len(some)
    return keys


def test_a_key_is_written_once_and_its_first_outcome_stays(ledger: Ledger) -> None:
    first, second = records(2)
    (key,) = put(ledger, first)
    assert ledger.write([(key, second), (key, first)]) == 0
    assert ledger.of_keys([key, "other"]) == {key: first}
    assert ledger.finished([key, "other"]) == {key}
    assert [e.study for e, _ in ledger.all()] == [first.case]


def test_the_record_comes_back_as_it_was(ledger: Ledger) -> None:
    some = records(60)
    put(ledger, *some)
    assert [r for _, r in ledger.all(block=7)] == sorted(some, key=lambda r: r.case)
    entry = ledger.get(some[0].case)
    assert entry.route == some[0].outcome.route
    assert entry.received_at == pytest.approx(1e9 - 7 * 86400)
    assert entry.answers.count(":") == len(some[0].responses)


def test_a_study_read_anew_under_other_versions_keeps_its_older_record(ledger: Ledger) -> None:
    (old,) = records(1)
    new = old.model_copy(update={"versions": old.versions.model_copy(update={"policy": "9"})})
    put(ledger, old)
    put(ledger, new)
    assert [r for _, r in ledger.history(old.case)] == [old, new]
    assert ledger.record(old.case, 0) == old and ledger.record(old.case) == new
    assert ledger.get(old.case).revision == 1
    assert len(list(ledger.all())) == 1


@pytest.mark.parametrize("part", ["case", "content", "question", "policy", "index", "fleet"])
def test_the_key_depends_on(part: str) -> None:
    (r,) = records(1)
    question = Question(options=("a", "b"))
    key = case_key(r.case, r.content, question, r.versions)
    assert key == case_key(r.case, r.content, question, r.versions.model_copy(update={"code": "2"}))
    case = "other" if part == "case" else r.case
    content = "other" if part == "content" else r.content
    asked = Question(options=("b", "a")) if part == "question" else question
    versions = r.versions
    if part in ("policy", "index", "fleet"):
        versions = versions.model_copy(update={part: "other"})
    assert case_key(case, content, asked, versions) != key


def test_claims_exclude_each_other_until_the_lease_ends(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.claim(["a", "b"], "one", seconds=60) == {"a", "b"}
    assert ledger.claim(["a", "b", "c"], "two", seconds=60) == {"c"}
    assert ledger.claim(["a"], "one") == {"a"}  # renewed
    ledger.release("one")
    assert ledger.claim(["a", "b", "c"], "two", seconds=60) == {"a", "b", "c"}
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    assert ledger.claim(["a", "b", "c"], "three") == {"a", "b", "c"}


def test_a_renewal_holds_the_owners_open_claims_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.claim(["a", "b"], "one", seconds=60)
    ledger.claim(["c"], "two", seconds=60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 50)
    ledger.renew("one", seconds=60)
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert ledger.claim(["a", "b", "c"], "three", seconds=60) == {"c"}


def test_what_a_killed_process_held_is_free_at_once(ledger: Ledger) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    host, _, pid = process_name().partition(":")
    ledger.claim(["a"], f"{host}:{gone.pid}:x")
    ledger.claim(["b"], f"{host}:{pid}:x")
    ledger.claim(["c"], f"elsewhere:{gone.pid}:x")
    ledger.claim(["d"], f"{host}:none:x")
    ledger.release_dead()
    assert ledger.claim(["a", "b", "c", "d"], "two") == {"a", "d"}


def test_what_is_finished_cannot_be_claimed(ledger: Ledger) -> None:
    (key,) = put(ledger, *records(1))
    assert ledger.claim([key, "free"], "one") == {"free"}
    ledger.release("")
    assert ledger.finished([key]) == {key}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=2, max_size=6))
def test_workers_at_once_never_hold_the_same_key(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[set[int]]
) -> None:
    ledger = open_ledger(tmp_path_factory.mktemp("claims"), "ledger.sqlite")
    with ThreadPoolExecutor(len(wanted)) as pool:
        keys = [[str(k) for k in some] for some in wanted]
        granted = list(pool.map(ledger.claim, keys, map(str, range(len(keys)))))
    held = [k for some in granted for k in some]
    assert sorted(held) == sorted(set().union(*map(set, keys)))
    ledger.close()


def test_a_person_answers_and_the_record_before_is_kept(ledger: Ledger) -> None:
    (waits,) = records(1, Status.NEEDS_REVIEW)
    (key,) = put(ledger, waits)
    after = ledger.review(waits.case, "dr-1", answer="mass")
    assert (after.outcome.status, after.outcome.answer) == (Status.ANSWERED, "mass")
    assert ledger.record(waits.case) == after and ledger.record(waits.case, 0) == waits
    assert ledger.of_keys([key]) == {key: after}
    entry = ledger.get(waits.case)
    assert (entry.truth, entry.reader, entry.revision, entry.urgency) == ("mass", "dr-1", 1, 6)
    (event,) = ledger.events(waits.case)
    assert (event.who, event.kind, event.answer, event.revision) == ("dr-1", "answer", "mass", 1)


def test_who_comes_second_is_told_who_was_first(ledger: Ledger) -> None:
    (waits,) = records(1, Status.NEEDS_REVIEW)
    put(ledger, waits)
    seen = ledger.get(waits.case).revision
    ledger.review(waits.case, "dr-1", kind=Kind.AGREE, revision=seen)
    with pytest.raises(Conflict, match=r"answered by dr-1 with '.*' at .*revision 1"):
        ledger.review(waits.case, "dr-2", answer="normal", revision=seen)
    with pytest.raises(Conflict, match="dr-1"):
        ledger.review(waits.case, "dr-2", answer="normal")
    assert len(ledger.events(waits.case)) == 1
    # having seen it, a second person may still differ
    ledger.review(waits.case, "dr-2", kind=Kind.OVERRIDE, answer="normal", code="other", revision=1)
    assert ledger.get(waits.case).truth == "normal"
    with pytest.raises(Conflict, match="overridden by dr-2"):
        ledger.add(waits.case, Kind.NOTE, "dr-1", text="late", revision=1)


def test_at_once_one_answer_wins(ledger: Ledger) -> None:
    (waits,) = records(1, Status.NEEDS_REVIEW)
    put(ledger, waits)

    def answer(i: int) -> bool:
        try:
            ledger.review(waits.case, f"dr-{i}", answer="mass", revision=0)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(answer, range(6))) == 1
    assert len(ledger.events(waits.case)) == 1 and ledger.get(waits.case).revision == 1


def test_notes_add_to_the_story_and_change_nothing(ledger: Ledger) -> None:
    (waits,) = records(1, Status.NEEDS_REVIEW)
    put(ledger, waits)
    ledger.add(waits.case, Kind.BLIND, "dr-1", answer="mass")
    ledger.add(waits.case, Kind.NOTE, "dr-1", text="compare with the earlier one", revision=0)
    entry = ledger.get(waits.case)
    assert (entry.revision, entry.truth, entry.status) == (0, None, Status.NEEDS_REVIEW)
    assert [e.kind for e in ledger.events(waits.case)] == ["blind", "note"]


def test_a_rerouted_case_carries_the_new_record_and_no_truth(ledger: Ledger) -> None:
    (case,) = records(1, Status.ANSWERED)
    put(ledger, case)
    other = case.model_copy(update={"tier": None})
    ledger.add(case.case, Kind.REROUTE, "dr-1", text="generalist", revision=0, record=other)
    assert ledger.record(case.case) == other
    assert (ledger.get(case.case).revision, ledger.get(case.case).truth) == (1, None)
    with pytest.raises(Conflict, match="re-routed by dr-1"):
        ledger.review(case.case, "dr-2", answer="normal", revision=0)


def test_answers_that_cannot_be_given(ledger: Ledger) -> None:
    waits, broken = records(1, Status.NEEDS_REVIEW) + records(1, Status.NOT_ANALYSED)
    put(ledger, waits, broken)
    with pytest.raises(UserError, match="normal, mass, effusion, fracture"):
        ledger.review(waits.case, "dr", answer="perhaps")
    with pytest.raises(UserError, match="no answer"):
        ledger.review(waits.case, "dr", answer="")
    with pytest.raises(UserError, match="wrong_finding"):
        ledger.review(waits.case, "dr", kind=Kind.OVERRIDE, answer="mass", code="because")
    with pytest.raises(UserError, match="no reading to agree"):
        ledger.review(broken.case, "dr", kind=Kind.AGREE)
    with pytest.raises(UserError, match="no case 'nobody'"):
        ledger.review("nobody", "dr", answer="mass")
    with pytest.raises(UserError, match="no case"):
        ledger.record("nobody")
    for unnamed in ("", "  "):
        with pytest.raises(UserError, match="nobody is named who did this"):
            ledger.review(waits.case, unnamed, answer="mass")
    assert ledger.events(waits.case) == () and ledger.get(waits.case).revision == 0


def test_stamps_say_what_a_hash_stands_for(ledger: Ledger) -> None:
    ledger.stamp("policy", "1", "{}")
    ledger.stamp("policy", "1", "never twice")
    assert ledger.stamped("policy", "1") == "{}"
    assert ledger.stamped("fleet", "1") is None


def test_another_process_sees_it_and_nothing_is_there_twice(tmp_path: Path) -> None:
    assert fill(open_ledger(tmp_path, "l.sqlite"), 40) == 40
    again = open_ledger(tmp_path, "l.sqlite")
    assert len(list(again.all())) == 40


def test_a_failed_transaction_leaves_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = records(2)
    put(ledger, first)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "flags_of", full)
        with pytest.raises(sqlite3.OperationalError):
            ledger.write([("k", second)])
    assert ledger.finished(["k"]) == set()
    assert [r for _, r in ledger.all()] == [first]


def test_a_disk_that_is_full_is_a_storage_error_and_what_was_there_stays(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "ledger.sqlite")
    fill(ledger, 20)
    with ledger.engine.connect() as c:
        pages = c.exec_driver_sql("PRAGMA page_count").scalar()
    ledger.close()

    from sqlalchemy import event

    event.listen(ledger.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    with pytest.raises(StorageError, match=r"full.*recorded before is kept"):
        fill(ledger, 500, seed=1)
    assert len(list(ledger.all())) == 20


def test_a_ledger_that_may_only_be_read_says_what_to_do(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "ledger.sqlite")
    from sqlalchemy import event

    event.listen(ledger.engine, "connect", lambda c, _: c.execute("PRAGMA query_only=ON"))
    ledger.close()
    with pytest.raises(StorageError, match="readonly database") as caught:
        fill(ledger, 1)
    assert caught.value.hint.startswith("make it writable or mend stores.ledger")


def test_files_that_are_no_ledger_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("hello " * 300)
    with pytest.raises(StorageError, match="cannot be"):
        open_ledger(tmp_path, "text.sqlite")
    ledger = open_ledger(tmp_path, "old.sqlite")
    with ledger.engine.begin() as c:
        c.exec_driver_sql("UPDATE about SET value = '0'")
    with pytest.raises(StorageError, match="version 0"):
        open_ledger(tmp_path, "old.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder"):
        open_ledger(tmp_path / "file", "ledger.sqlite")


def test_a_url_without_a_driver_is_the_users_to_mend(tmp_path: Path) -> None:
    for url in ("nosuch://host/db", "postgresql+nodriver://u:secret@host/db"):
        with pytest.raises(ConfigError, match=r"stores\.ledger") as caught:
            open_ledger(tmp_path, url)
        assert "secret" not in str(caught.value)
