"""Batches to files: parts, errors, summary; killed anywhere, each case has exactly one outcome."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests_router_batch import drive, write_manifest
from tests_router_world import World, picture, strange

from curbside.cli import app
from curbside.config import TierPolicy
from curbside.errors import CasesError, StorageError, UserError
from curbside.phantom_dicom import as_dicom
from curbside.router import batch, flow
from curbside.router.api import Router
from curbside.router.batch import BatchSummary, incoming, run_batch
from curbside.router.ledger import open_ledger
from curbside.router.parts import SCHEMA
from curbside.storage import one_process
from curbside.study import Question

TAGS = ("Modality",)


def rows(out: Path) -> list[dict[str, Any]]:
    found = [pq.read_table(p) for p in sorted((out / "parts").glob("part-*.parquet"))]
    assert all(t.schema.equals(SCHEMA) for t in found)
    return [row for t in found for row in t.to_pylist()]


def run(router: Router, cases: Path, out: Path, **more: Any) -> BatchSummary:
    return run_batch(router, incoming(cases, Question(), TAGS), out, **more)


def test_a_manifest_becomes_parts_errors_and_a_summary(world: World, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 30)
    seen: list[int] = []
    summary = run(
        world.router(tmp_path / "home"),
        manifest,
        tmp_path / "out",
        rows=8,
        show=lambda n, note: seen.append(n),
    )
    table = rows(tmp_path / "out")
    assert [r["case"] for r in table] == [f"case-{i:04d}" for i in range(30)]
    assert len(list((tmp_path / "out" / "parts").iterdir())) == summary.parts == 4
    assert sum(seen) == 30 == summary.cases == summary.new
    assert summary.status == dict(Counter(r["status"] for r in table))
    assert set(summary.status) == {"answered", "needs_review", "not_analysed"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary.model_dump()
    errors = [json.loads(x) for x in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert {e["case"] for e in errors} == {r["case"] for r in table if r["error"]}
    assert Counter(e["reason"] for e in errors) == summary.errors
    assert str(tmp_path) not in (tmp_path / "out" / "errors.jsonl").read_text()


def test_a_second_run_reads_nothing_and_writes_nothing_new(world: World, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, 12)
    out, router = tmp_path / "out", world.router(tmp_path / "home")
    first = run(router, manifest, out)
    before = {p.name: p.read_bytes() for p in (out / "parts").iterdir()}
    asked = len(world.asked)
    again = run(world.router(tmp_path / "home"), manifest, out)
    assert {p.name: p.read_bytes() for p in (out / "parts").iterdir()} == before
    assert (len(world.asked), again.new, again.cases) == (asked, 0, first.cases)
    assert again.status == first.status and again.errors == first.errors
    # another folder is filled from the ledger, and nobody is asked
    other = run(world.router(tmp_path / "home"), manifest, tmp_path / "other")
    assert len(world.asked) == asked and other.status == first.status
    # and a longer manifest adds what is new
    longer = run(router, write_manifest(tmp_path, 15), out)
    assert (longer.new, longer.cases) == (3, 15)


def test_a_folder_of_images_and_other_things(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.png").write_bytes(picture("ct", 0, 5000 + i))
    (folder / "odd.png").write_bytes(strange())
    (folder / "notes.txt").write_text("jane doe")
    summary = run(world.router(tmp_path / "home"), tmp_path / "images", tmp_path / "out")
    assert (summary.cases, summary.objects_refused) == (6, {"wrong_type": 1})
    assert summary.status == {"answered": 5, "needs_review": 1}
    (line,) = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "wrong_type" and "jane" not in line


def test_a_question_for_those_that_bring_none(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("ct", 0, 5000))
    (tmp_path / "cases.csv").write_text("id,image,options\n1,a.png,\n2,a.png,yes|no\n")
    given = incoming(tmp_path / "cases.csv", Question(options=("up", "down")), TAGS)
    run_batch(world.router(tmp_path / "home"), given, tmp_path / "out")
    assert [r["options"] for r in rows(tmp_path / "out")] == [["up", "down"], ["yes", "no"]]


def test_parts_of_another_policy_are_not_mixed(world: World, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 3), tmp_path / "out"
    run(world.router(tmp_path / "home"), manifest, out)
    other = world.router(tmp_path / "home", TierPolicy(alpha=0.5))
    with pytest.raises(UserError, match="another policy"):
        run(other, manifest, out)
    assert run(other, manifest, tmp_path / "second").cases == 3


def test_bad_input_is_refused_before_anything_is_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "twice.jsonl").write_text('{"image":"a.png"}\n{"image":"a.png"}\n{"image":""}\n')
    with pytest.raises(CasesError, match=r"line 2: the same id as line 1.*\n.*line 3: image is"):
        incoming(tmp_path / "twice.jsonl", Question(), TAGS)
    (tmp_path / "none.csv").write_text("image\n")
    with pytest.raises(CasesError, match="no case"):
        incoming(tmp_path / "none.csv", Question(), TAGS)
    (tmp_path / "other.csv").write_text("file\na.png\n")
    with pytest.raises(CasesError, match="'image' or 'study'; its columns: file"):
        incoming(tmp_path / "other.csv", Question(), TAGS)
    with pytest.raises(UserError, match="no such"):
        incoming(tmp_path / "gone", Question(), TAGS)


def test_a_full_disk_keeps_what_was_written_and_the_run_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "BLOCK", 4)
    manifest, out = write_manifest(tmp_path, 30), tmp_path / "out"
    written: list[Any] = []
    real = pq.write_table

    def full(table: Any, path: Any, **more: Any) -> None:
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(table, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(StorageError, match="No space left"):
            run(world.router(tmp_path / "home"), manifest, out, rows=8)
    assert len(rows(out)) == 8
    assert [p.name for p in (out / "parts").iterdir()] == ["part-000000.parquet"]
    summary = run(world.router(tmp_path / "home"), manifest, out, rows=8)
    assert sorted(r["case"] for r in rows(out)) == [f"case-{i:04d}" for i in range(30)]
    assert summary.cases == 30


def test_a_disk_that_is_full_when_the_last_lines_are_flushed_is_no_bug(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = write_manifest(tmp_path, 3), tmp_path / "out"
    router = world.router(tmp_path / "home")

    class Full(io.StringIO):
        def close(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open

    def opened(path: Path, mode: str = "r", **more: Any) -> Any:
        return Full() if path.name.startswith(".errors.jsonl.") else real(path, mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(StorageError, match=r"errors\.jsonl: No space left") as e:
            run(router, manifest, out)
    assert e.value.hint.startswith("free some space")
    assert len(rows(out)) == 3 and not (out / "errors.jsonl").exists()
    assert run(router, manifest, out).cases == 3


def test_two_processes_never_write_into_one_folder(world: World, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 6), tmp_path / "out"
    router = world.router(tmp_path / "home")
    with (
        one_process(out / ".lock"),
        pytest.raises(StorageError, match=r"another process is at work in .*out") as e,
    ):
        run(router, manifest, out)
    assert "another --out" in e.value.hint
    assert [p.name for p in out.iterdir()] == [".lock"] and not world.asked
    assert run(router, manifest, out).new == 6


def test_a_copy_of_a_part_is_named_and_nothing_is_written(world: World, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 3), tmp_path / "out"
    run(world.router(tmp_path / "home"), manifest, out)
    copy = out / "parts" / "part-000000 copy.parquet"
    copy.write_bytes((out / "parts" / "part-000000.parquet").read_bytes())
    with pytest.raises(UserError, match=r"part-000000 copy\.parquet .* is no part"):
        run(world.router(tmp_path / "home"), write_manifest(tmp_path, 5), out)
    copy.unlink()
    assert run(world.router(tmp_path / "home"), write_manifest(tmp_path, 5), out).cases == 5


def test_a_part_that_is_broken_is_named(world: World, tmp_path: Path) -> None:
    manifest, out = write_manifest(tmp_path, 3), tmp_path / "out"
    run(world.router(tmp_path / "home"), manifest, out)
    (out / "parts" / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="part-000000"):
        run(world.router(tmp_path / "home"), manifest, out)
    (out / "parts" / "part-000000.parquet").unlink()
    assert run(world.router(tmp_path / "home"), manifest, out).cases == 3


def kill_and_resume(tmp_path: Path, kills: int, cases: int) -> None:
    """SIGKILL at random times until a run ends by itself; then everything is there once."""
    import random

    manifest = write_manifest(tmp_path, cases)
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["curbside.router.api", "curbside.router.batch"])
    rng = random.Random(0)
    killed = 0
    home, out = tmp_path / "home", tmp_path / "out"
    while True:
        child = context.Process(target=drive, args=(str(manifest), str(home), str(out)))
        child.start()
        ready = home / "started"
        while child.is_alive() and not ready.exists():
            time.sleep(0.005)
        ready.unlink(missing_ok=True)
        if killed < kills:
            time.sleep(rng.random() * 0.35)
            if child.is_alive() and child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert killed >= 1
    ids = [f"case-{i:04d}" for i in range(cases)]
    table = rows(out)
    assert sorted(r["case"] for r in table) == ids
    ledger = open_ledger(home, "ledger.sqlite")
    recorded = dict(ledger.all())
    assert sorted(e.study for e in recorded) == ids
    assert all(e.revision == 0 for e in recorded)
    status = {e.study: str(e.status) for e in recorded}
    assert {r["case"]: r["status"] for r in table} == status
    assert json.loads((out / "summary.json").read_text())["cases"] == cases
    assert list(out.rglob(".*")) == [out / ".lock"]
    ledger.close()


def test_killed_at_random_points_each_case_has_one_outcome(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=4, cases=120)


@pytest.mark.slow
def test_killed_at_fifty_random_points(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=50, cases=3000)


def test_what_is_shown_may_change_meanwhile() -> None:
    """The thread that takes studies in shows the routes while the caller's thread counts them."""
    before = sys.getswitchinterval()
    routes: Counter[str] = Counter()
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            routes.clear()
            for i in range(50):
                routes[str(i)] += 1

    thread = threading.Thread(target=count)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(20_000):
            batch._note(routes)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)


def test_how_far_a_folder_of_objects_is_and_how_many_studies_there_will_be(
    world: World, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    pixels = np.zeros((8, 8), np.int16)
    for i in range(70):
        (tree / f"{i:02d}").write_bytes(as_dicom(pixels + i, study=i % 5, number=i))
    (tree / "no image").write_bytes(b"words")
    notes: list[str] = []
    totals: list[int] = []
    summary = run(
        world.router(tmp_path / "home"),
        tree,
        tmp_path / "out",
        show=lambda n, note: notes.append(note),
        expect=totals.append,
    )
    assert summary.cases == 5 == totals[-1]
    assert totals == sorted(totals, reverse=True) and totals[0] == 5 + 71 - 64
    assert notes[:2] == ["64 of 71 files looked at", "71 of 71 files looked at"]
    assert len([n for n in notes if "looked" not in n]) == 5


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_batch_that_finds_no_study_is_no_success(
    words: tuple[str, ...], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path / "home"))
    app(["config", "init"], standalone_mode=False)
    monkeypatch.setattr("curbside.router.workspace.Workspace", world.workspace)
    (tmp_path / "empty").mkdir()
    line = ["batch", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), *words]
    with pytest.raises(UserError, match="no study in CASES") as caught:
        app(line, standalone_mode=False)
    assert "curbside batch CASES" in caught.value.hint
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases"] == 0
    (tmp_path / "empty" / "words").write_text("no image")
    with pytest.raises(UserError, match="nothing was read") as caught:
        app(line, standalone_mode=False)
    assert "errors.jsonl says why" in caught.value.hint
    (tmp_path / "empty" / "one.png").write_bytes(picture("xray", 0, 7000))
    app(line, standalone_mode=False)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases"] == 1
