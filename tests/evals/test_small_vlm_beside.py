"""Parts of a run in processes of their own: the same as in one process, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))

from small_world import REAL_EYES, write_world
from tiny_language import base, short

from curbside.agents.small_vlm.language import Base
from curbside.config import Config
from curbside.errors import AgentUnavailable, BackendError
from curbside.evals.small_vlm_beside import make_parts
from curbside.evals.small_vlm_run import Part, Run, open_run
from curbside.storage import tree_digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
SEEDS = (0, 1)


def killed() -> Base:
    """As the system ends a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def absent() -> Base:
    raise AgentUnavailable("the language model cannot be loaded (OSError)", hint="install it")


def waiting() -> Base:
    (Path(os.environ["WAITING"]) / str(os.getpid())).touch()
    time.sleep(600)
    raise AssertionError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def opening(world: Path, out: str, load: object = base) -> partial[Run]:
    return partial(
        open_run, world / out, world / "cases.jsonl", world / "asked.jsonl",
        Config().encoder, world / "cache", short(2), load, REAL_EYES,
    )  # fmt: skip


def test_needs() -> None:
    adapter = Part(1, "adapter", "disjoint")
    assert adapter.needs == ()
    assert Part(1, "adapter", "published").needs == (adapter,)
    assert Part(1, "labels", "tune").needs == Part(1, "modality", "test").needs == (adapter,)
    assert Part(1, "visual", "published").needs == (Part(1, "adapter", "published"),)


def test_beside_each_other_they_make_what_one_process_makes(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opening(world, "together")()
    parts = run.missing(SEEDS)
    assert len(parts) == 13 and parts[:2] == [Part(s, "adapter", "disjoint") for s in SEEDS]
    make_parts(opening(world, "together"), parts, 2)
    assert run.missing(SEEDS) == []
    alone = opening(world, "alone")()
    for part in parts:
        alone.make(part)
    for name in ("align", "read", "visual-disjoint", "visual-published"):
        made, same = (tree_digest(r.folder / "seed-1" / name) for r in (run, alone))
        made.pop("made.json"), same.pop("made.json")  # it holds seconds too
        assert made == same
    assert run.table(SEEDS, {}) == alone.table(SEEDS, {})


def test_what_was_damaged_is_missing(world: Path) -> None:
    run = opening(world, "together")()
    (run.folder / "seed-0" / "modality-disjoint.json").write_text("{", encoding="utf-8")
    assert run.missing(SEEDS) == [Part(0, "modality", "test")]
    made = run.folder / "seed-1" / "visual-published" / "adapter_config.json"
    made.write_text("{}", encoding="utf-8")
    assert Part(1, "visual", "published") in run.missing(SEEDS)


def test_an_error_of_a_part_is_said(world: Path) -> None:
    with pytest.raises(AgentUnavailable, match="cannot be loaded") as e:
        make_parts(opening(world, "broken", absent), [Part(0, "adapter", "disjoint")], 1)
    assert e.value.hint == "install it"


def test_a_process_that_ends_is_said(world: Path) -> None:
    with pytest.raises(BackendError, match="memory ran out"):
        make_parts(opening(world, "broken", killed), [Part(0, "adapter", "disjoint")], 1)


def test_processes_end_with_the_one_that_began_them(world: Path, tmp_path: Path) -> None:
    """Else two of them would write one folder when the command is run again."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import pathlib, test_small_vlm_beside as t\n"
        "from curbside.evals.small_vlm_beside import make_parts\n"
        "from curbside.evals.small_vlm_run import Part\n"
        "if __name__ == '__main__':\n"
        f"    make_parts(t.opening(pathlib.Path({str(world)!r}), 'killed', t.waiting),\n"
        "        [Part(0, 'adapter', 'disjoint')], 1)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code, encoding="utf-8")
    marks = tmp_path / "marks"
    marks.mkdir()
    own = {**os.environ, "WAITING": str(marks)}
    parent = subprocess.Popen([sys.executable, str(script)], env=own)
    try:
        deadline = time.monotonic() + 120
        while not list(marks.iterdir()):
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        child = int(next(marks.iterdir()).name)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < deadline, "the child went on"
        time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
