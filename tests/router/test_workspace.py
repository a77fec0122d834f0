"""A home that grows: build, add, promote, roll back; what serves is always one whole version."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests_growing_world import SIZES, config, open_workspace, write_manifest

from curbside.cases import read_cases
from curbside.errors import IndexCorrupt, IndexMismatch, NotBuilt, UserError
from curbside.router.adding import add_cases
from curbside.router.building import build_home
from curbside.router.workspace import Workspace
from curbside.study import Study


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    manifest = write_manifest(pictures, "manifest.csv", SIZES)
    build_home(open_workspace(tmp_path / "home"), read_cases(manifest))
    return tmp_path / "home"


def more(home: Path, *, start: int = 100, n: int = 3, role: str = "") -> Path:
    return write_manifest(home.parent / "pictures", f"more-{start}.csv", {role: n}, start=start)


def answers(workspace: Workspace) -> NDArray[np.float64]:
    x = np.random.default_rng(0).normal(size=(20, 24)).astype(np.float32)
    return workspace.assessor().assess(x).novelty


def test_a_second_build_makes_nothing(home: Path) -> None:
    before = open_workspace(home).versions.serving()
    build_home(open_workspace(home), read_cases(home.parent / "pictures" / "manifest.csv"))
    assert open_workspace(home).versions.serving() == before


def test_reviewed_cases_join_and_serve_only_once_promoted(home: Path) -> None:
    serving = open_workspace(home)
    first, before = serving.versions.current(), answers(serving)
    name, admission = add_cases(serving, read_cases(more(home)))
    assert name is not None
    assert admission.refused == {}
    assert {c.role for c in admission.cases} == {"train", "tune"}
    assert serving.versions.current() == first
    assert (answers(open_workspace(home)) == before).all()
    candidate = open_workspace(home, name)
    known, grown = serving.built_cases(), candidate.built_cases()
    assert len(grown) == len(known) + 18
    added = serving.versions.facts(name).added
    assert added["train"] + added["tune"] == 18
    assert len(candidate.assessor()) == len(serving.assessor()) + added["train"]
    tuned = set(candidate.tune_responses().cases) - set(serving.tune_responses().cases)
    assert len(tuned) == added["tune"]
    assert not (answers(candidate) == before).all()
    serving.versions.promote(name, without_gate="a test")
    assert (answers(open_workspace(home)) == answers(candidate)).all()
    assert (answers(serving) == before).all()  # whoever opened the old one keeps it
    serving.versions.rollback("")
    assert (answers(open_workspace(home)) == before).all()


def test_the_same_cases_make_the_same_version_once(home: Path) -> None:
    manifest = read_cases(more(home))
    a, _ = add_cases(open_workspace(home), manifest)
    b, _ = add_cases(open_workspace(home), manifest)
    assert a == b
    assert len(open_workspace(home).versions.names()) == 2


def test_old_tune_readings_are_kept_and_only_new_ones_are_made(home: Path) -> None:
    serving = open_workspace(home)
    asked: list[int] = []
    agent: Any
    for agent in serving.fleet().agents.values():

        def counted(studies: Sequence[Study], read: Any = agent.read_batch) -> Any:
            asked.append(len(studies))
            return read(studies)

        agent.read_batch = counted
    name, admission = add_cases(serving, read_cases(more(home)))
    tune = sum(c.role == "tune" for c in admission.cases)
    assert sum(asked) == 2 * tune
    a, b = serving.tune_responses(), open_workspace(home, name).tune_responses()
    assert b.cases[: len(a)] == a.cases
    assert (b.probabilities[: len(a)] == a.probabilities).all()


def test_a_build_keeps_what_was_added_since(home: Path) -> None:
    workspace = open_workspace(home)
    name, _ = add_cases(workspace, read_cases(more(home)))
    assert name is not None
    workspace.versions.promote(name, without_gate="a test")
    manifest = home.parent / "pictures" / "manifest.csv"
    build_home(open_workspace(home), read_cases(manifest))
    assert workspace.versions.current() == name
    # another manifest is another beginning
    other = write_manifest(home.parent / "pictures", "other.csv", SIZES, start=500)
    build_home(open_workspace(home), read_cases(other))
    assert workspace.versions.current() != name
    assert workspace.versions.facts(workspace.versions.current()).parent is None
    # and one that is there already serves again without being made
    build_home(open_workspace(home), read_cases(manifest))
    assert workspace.versions.facts(workspace.versions.current()).made_of
    assert len(workspace.versions.names()) == 3


def test_test_cases_never_join(home: Path) -> None:
    workspace = open_workspace(home)
    manifest = read_cases(home.parent / "pictures" / "manifest.csv")
    name, admission = add_cases(workspace, manifest.take(manifest.where(role="test")))
    assert name is None
    assert dict(admission.refused) == {"a test case": 18}
    stripped = write_manifest(home.parent / "pictures", "again.csv", {"test": 3})
    text = stripped.read_text().replace(",test,", ",,")
    stripped.write_text(text.replace("test-", "other-"))
    name, admission = add_cases(workspace, read_cases(stripped))
    assert name is None  # the images are known to be of test
    assert dict(admission.refused) == {"a test case": 18}


def test_a_build_from_a_version_s_own_cases_forgets_no_test_case(home: Path) -> None:
    pictures, workspace = home.parent / "pictures", open_workspace(home)
    name, _ = add_cases(
        workspace, read_cases(write_manifest(pictures, "new.csv", {"": 6}, start=9000))
    )
    assert name is not None
    workspace.versions.promote(name, without_gate="a trial")
    own = read_cases(workspace.versions.path(name) / "cases.jsonl")
    again = open_workspace(home)
    build_home(again, own.take(np.arange(1, len(own))))  # one fewer: another version
    assert again.versions.current() != name
    disguised = write_manifest(pictures, "again.csv", {"test": 3})
    disguised.write_text(disguised.read_text().replace(",test,", ",,").replace("test-", "other-"))
    added, admission = add_cases(again, read_cases(disguised))
    assert added is None
    assert dict(admission.refused) == {"a test case": 18}


def test_a_version_of_another_fleet_does_not_serve(home: Path) -> None:
    workspace = open_workspace(home)
    fleet: Any = workspace.fleet()
    fleet.fingerprint = "another"
    with pytest.raises(IndexMismatch, match="knows the outcomes of fleet fleet, but another"):
        workspace.assessor()


def test_a_changed_byte_anywhere_is_found_when_a_version_is_opened(home: Path) -> None:
    folder = open_workspace(home).version_folder
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "version.json"):
        raw = file.read_bytes()
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        with pytest.raises(IndexCorrupt, match="is damaged"):
            open_workspace(home).assessor()
        file.write_bytes(raw)
    open_workspace(home).assessor()


def test_an_unknown_version_is_the_user_s_to_mend(home: Path) -> None:
    with pytest.raises(UserError, match="no index version 'seven'"):
        Workspace(home, config(), version="seven").version_folder.is_dir()


def test_no_query_fails_while_versions_are_swapped(home: Path) -> None:
    workspace = open_workspace(home)
    name, _ = add_cases(workspace, read_cases(more(home)))
    assert name is not None
    expected = [answers(workspace), answers(open_workspace(home, name))]
    failed: list[str] = []
    stop = threading.Event()
    counts = [0] * 3

    def query(i: int) -> None:
        while not stop.is_set():
            try:
                found = answers(open_workspace(home))
            except Exception as e:
                failed.append(repr(e))
                return
            counts[i] += 1
            if not any((found == e).all() for e in expected):
                failed.append("neither the old version nor the new one")

    readers = [threading.Thread(target=query, args=(i,)) for i in range(3)]
    for r in readers:
        r.start()
    while min(counts) < 5 and not failed:
        workspace.versions.promote(name, without_gate="swap")
        workspace.versions.rollback("swap")
    stop.set()
    for r in readers:
        r.join()
    assert failed == []


@pytest.mark.parametrize(
    "damage", ["flip", "no facts", "gone", "pointer", "no pointer", "bad facts"]
)
def test_the_command_that_the_error_names_mends_a_damaged_home(home: Path, damage: str) -> None:
    folder, before = open_workspace(home).version_folder, answers(open_workspace(home))
    pointer = home / "index" / "serving.json"
    if damage == "flip":
        vectors = folder / "index" / "vectors.faiss"
        raw = bytearray(vectors.read_bytes())
        raw[len(raw) // 2] ^= 1
        vectors.write_bytes(raw)
    elif damage == "no facts":
        (folder / "version.json").unlink()
    elif damage == "bad facts":
        (folder / "version.json").write_text("{")
    elif damage == "gone":
        shutil.rmtree(folder)
    elif damage == "pointer":
        pointer.write_text("{")
    else:
        pointer.unlink()
    with pytest.raises(
        NotBuilt if damage == "no pointer" else IndexCorrupt, match="curbside build"
    ):
        answers(open_workspace(home))
    build_home(open_workspace(home), read_cases(home.parent / "pictures" / "manifest.csv"))
    assert (answers(open_workspace(home)) == before).all()
    assert open_workspace(home).versions.names() == [folder.name]


def test_a_damaged_version_that_was_added_is_added_again(home: Path) -> None:
    workspace, cases = open_workspace(home), read_cases(more(home))
    name, _ = add_cases(workspace, cases)
    assert name is not None
    expected = answers(open_workspace(home, name))
    (workspace.versions.path(name) / "tune.parquet").unlink()
    with pytest.raises(IndexCorrupt, match=r"damaged: tune\.parquet"):
        workspace.versions.promote(name, without_gate="a test")
    assert add_cases(open_workspace(home), cases)[0] == name
    workspace.versions.promote(name, without_gate="a test")
    assert (answers(open_workspace(home)) == expected).all()
    # damaged while it serves: a build serves the version that it makes, which is whole
    (workspace.versions.path(name) / "tune.parquet").unlink()
    build_home(open_workspace(home), read_cases(home.parent / "pictures" / "manifest.csv"))
    assert open_workspace(home).versions.current() != name
    assert len(answers(open_workspace(home))) == len(expected)
