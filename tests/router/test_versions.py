"""Versions of the index: whole or not there, promoted by a gate, rolled back by name."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeout
from pathlib import Path

import pytest

from curbside.errors import IndexCorrupt, NotBuilt, StorageError, UserError
from curbside.router.versions import Gate, VersionFacts, VersionStore
from curbside.storage import one_process


def facts(name: str, parent: str | None = None) -> VersionFacts:
    return VersionFacts(
        name=name, parent=parent, made_of=f"mark-{name}", fleet="f", cases={"train": 3}
    )


def add(store: VersionStore, name: str, parent: str | None = None) -> None:
    with store.adding(facts(name, parent)) as folder:
        (folder / "index").mkdir()
        (folder / "index" / "vectors").write_bytes(name.encode() * 10)
        (folder / "cases.jsonl").write_text("{}\n")


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    s = VersionStore(tmp_path / "index")
    add(s, "one")
    s.serve("one", "build")
    add(s, "two", "one")
    add(s, "three", "two")
    return s


def test_nothing_built_names_the_command(tmp_path: Path) -> None:
    s = VersionStore(tmp_path / "index")
    with pytest.raises(NotBuilt, match="curbside build"):
        s.current()
    assert s.names() == []
    assert not s.serves("one")


def test_versions_are_kept_in_order_with_what_they_are_made_of(store: VersionStore) -> None:
    assert store.names() == ["one", "two", "three"]
    assert store.facts("two").parent == "one"
    assert store.made_of("mark-two") == "two"
    assert store.made_of("mark-four") is None
    with pytest.raises(UserError, match="no index version 'four'; versions: one, two, three"):
        store.path("four")
    for name in ("..", "../index", ".one"):
        with pytest.raises(UserError, match="no index version"):
            store.path(name)


def test_a_version_serves_once_it_has_passed_the_gate_against_the_one_that_does(
    store: VersionStore,
) -> None:
    def refused(why: str) -> None:
        with pytest.raises(UserError, match=why):
            store.promote("two")
        assert store.current() == "one"

    refused("has not been through the gate")
    store.record_gate(Gate(version="two", against="one", passed=False, report="r"))
    refused("did not pass the gate")
    store.record_gate(Gate(version="two", against="zero", passed=True, report="r"))
    refused("passed the gate against zero, but one serves")
    store.record_gate(Gate(version="two", against="one", passed=True, report="run 7"))
    store.promote("two")
    assert store.current() == "two"
    assert store.serving().history[-1].why == "gate passed: run 7"
    with pytest.raises(UserError, match="serves already"):
        store.promote("two")
    with pytest.raises(UserError, match="no index version"):
        store.record_gate(Gate(version="four", against="one", passed=True, report="r"))


def test_a_gate_is_kept_for_the_versions_that_two_runs_are_of(store: VersionStore) -> None:
    assert store.record_run("two", "nine", passed=True, report="r") is None
    assert store.record_run("", "one", passed=True, report="r") is None
    assert store.record_run("two", "two", passed=True, report="r") is None
    kept = store.record_run("two", "one", passed=True, report="7 of 7 checks")
    assert kept is not None
    assert (kept.version, kept.against) == ("two", "one")
    assert store.gate("two") == kept


def test_a_promotion_without_a_gate_leaves_its_reason(store: VersionStore) -> None:
    store.promote("two", without_gate="the old one is wrong")
    assert store.serving().history[-1].why == "without a gate: the old one is wrong"


def test_rollback_goes_back_one_promotion_at_a_time(store: VersionStore) -> None:
    store.promote("two", without_gate="a")
    store.promote("three", without_gate="b")
    assert store.serves("one") and store.serves("two")  # three grew from both
    assert store.rollback("worse") == store.current() == "two"
    assert not store.serves("three")
    store.promote("three", without_gate="again")
    assert [store.rollback(""), store.rollback("")] == ["two", "one"]
    with pytest.raises(UserError, match="nothing served before one"):
        store.rollback("")
    hows = [e.how for e in store.serving().history]
    assert hows == ["build", "promote", "promote", "rollback", "promote", "rollback", "rollback"]


def test_two_that_decide_at_once_lose_no_decision(store: VersionStore) -> None:
    # each opens the store for itself, as two processes do; an unlocked read and write loses some
    def promote_and_return(name: str) -> None:
        own = VersionStore(store.folder)
        for _ in range(10):
            own.serve(name, "promote")
            own.rollback("")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(promote_and_return, ["two", "three"]))
    hows = [e.how for e in store.serving().history]
    assert hows.count("promote") == hows.count("rollback") == 20
    assert store.current() == "one" and store.serving().back == ()


def test_a_promotion_that_waited_sees_what_has_served_since(store: VersionStore) -> None:
    store.record_gate(Gate(version="two", against="one", passed=True, report="r"))
    with ThreadPoolExecutor(1) as pool:
        with one_process(store.folder / ".serving.lock"):
            waiting = pool.submit(VersionStore(store.folder).promote, "two")
            with pytest.raises(FuturesTimeout):
                waiting.result(timeout=0.2)
            store._serve("three", "promote", "meanwhile")
        with pytest.raises(UserError, match="passed the gate against one, but three serves"):
            waiting.result(timeout=10)
    assert store.current() == "three"


@pytest.mark.parametrize("damage", ["flip", "remove", "more"])
def test_a_damaged_version_never_begins_to_serve(store: VersionStore, damage: str) -> None:
    file = store.path("two") / "index" / "vectors"
    if damage == "flip":
        raw = bytearray(file.read_bytes())
        raw[3] ^= 1
        file.write_bytes(raw)
    elif damage == "remove":
        file.unlink()
    else:
        file.with_name("stray").write_bytes(b"")
    with pytest.raises(IndexCorrupt, match="index version two is damaged: index/"):
        store.promote("two", without_gate="x")
    assert store.current() == "one"
    store.check("one")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"history": 3}'])
def test_a_damaged_pointer_is_said(store: VersionStore, text: str) -> None:
    (store.folder / "serving.json").write_text(text)
    with pytest.raises(IndexCorrupt, match=r"serving\.json"):
        store.current()


def test_a_full_disk_leaves_what_serves(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"), store.adding(facts("four")):
        full()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        store.promote("two", without_gate="x")
    assert store.current() == "one"
    assert store.names() == ["one", "two", "three"]


def test_what_a_killed_run_left_is_swept_after_an_hour(store: VersionStore) -> None:
    old, new = (store.folder / "versions" / n for n in (".four.abc", ".five.def"))
    for left in (old, new):
        left.mkdir()
        (left / "half").write_bytes(b"x")
    os.utime(old, (0, 0))
    add(store, "six")
    assert not old.exists()
    assert new.exists()  # someone may be writing it
    assert store.names() == ["one", "two", "three", "six"]


def test_the_facts_are_plain_json(store: VersionStore) -> None:
    body = json.loads((store.path("one") / "version.json").read_text())
    assert set(body["files"]) == {"index/vectors", "cases.jsonl"}


def test_a_version_whose_facts_cannot_be_read_hides_no_other(store: VersionStore) -> None:
    (store.path("two") / "version.json").write_text("{")
    assert set(store.names()) == {"one", "two", "three"}
    assert store.made_of("mark-three") == "three"
    assert store.made_of("mark-two") is None
    assert store.opened().name == "one"
    with pytest.raises(IndexCorrupt, match=r"version\.json"):
        store.promote("two", without_gate="x")
    store.promote("three", without_gate="x")


def test_a_version_that_serves_and_is_gone_is_damage_not_a_wrong_name(store: VersionStore) -> None:
    shutil.rmtree(store.path("one"))
    with pytest.raises(IndexCorrupt, match=r"one serves, but .* any more; versions: two, three"):
        store.opened()
    assert not store.serves("one")
    store.promote("two", without_gate="x")
    assert store.opened().name == "two"


def test_a_build_keeps_a_history_that_it_cannot_read(store: VersionStore) -> None:
    (store.folder / "serving.json").write_text("{")
    with pytest.raises(IndexCorrupt, match=r"serving\.json"):
        store.serve("two", "promote")
    store.serve("two", "build")
    assert store.current() == "two"
    assert (store.folder / "serving.damaged.json").read_text() == "{"
