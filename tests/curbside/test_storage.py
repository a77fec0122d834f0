"""What was stored before survives whatever happens while writing."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curbside.errors import StorageError
from curbside.storage import (
    file_digest,
    new_file,
    new_folder,
    one_process,
    tree_digest,
    write_bytes,
    write_text,
)


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "note.txt"
    write_text(path, "früher")
    write_text(path, "später")
    assert path.read_text(encoding="utf-8") == "später"
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_nothing_appears_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "note"
    with new_file(path) as temporary:
        temporary.write_text("x")
        assert not path.exists()
    assert path.read_text() == "x"


def test_an_error_of_the_writer_passes_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "note"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_text("half")
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "note"
    write_text(path, "old")
    monkeypatch.setattr(Path, step, _full)
    with pytest.raises(StorageError, match="No space left on device") as e:
        write_bytes(path, b"new")
    assert "what was there before is unchanged" in str(e.value)
    assert "CURBSIDE_HOME" in e.value.hint
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_limit_on_file_size_leaves_the_old_file(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from curbside.errors import StorageError
from curbside.storage import write_bytes
path = Path(sys.argv[1])
write_bytes(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_bytes(path, bytes(10_000))
except StorageError as e:
    print(e.code, path.read_bytes(), len(list(path.parent.iterdir())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "note"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "storage b'old' 1"


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "note", "x")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "may write to"),
        (errno.EACCES, "may write to"),
        (errno.ENOTDIR, "where one can be made"),
        (errno.EISDIR, "not of a folder"),
    ],
    ids=lambda x: errno.errorcode[x] if isinstance(x, int) else "",
)
def test_what_to_do_next_fits_what_went_wrong(tmp_path: Path, number: int, said: str) -> None:
    with pytest.raises(StorageError, match=os.strerror(number)) as e, new_file(tmp_path / "note"):
        raise OSError(number, os.strerror(number))
    assert said in e.value.hint


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for content in ("one", "two"):
        with new_folder(folder) as temporary:
            (temporary / content).write_text(content)
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("fail", "error"),
    [(_full, StorageError), (lambda: 1 / 0, ZeroDivisionError)],
    ids=["full", "bug"],
)
def test_a_half_written_folder_never_appears(
    tmp_path: Path, fail: Callable[[], object], error: type[Exception]
) -> None:
    folder = tmp_path / "index"
    with new_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(error), new_folder(folder) as temporary:
        (temporary / "a").write_text("half")
        fail()
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_digests_are_of_bytes_and_of_every_file_below(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b" / "x", b"1")
    write_bytes(tmp_path / "a", b"2")
    one, two = (hashlib.sha256(raw).hexdigest() for raw in (b"1", b"2"))
    assert file_digest(tmp_path / "a") == two
    assert list(tree_digest(tmp_path).items()) == [("a", two), ("b/x", one)]


def test_whoever_waits_too_long_for_another_process_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / ".lock"
    with (
        one_process(lock),
        pytest.raises(StorageError, match=r"another process has been using .*deep for 0\.1 s"),
        one_process(lock, wait_s=0.1),
    ):
        pass
    with one_process(lock, wait_s=0.1):  # free again after a refusal and after use
        pass
    with (
        one_process(lock),
        pytest.raises(StorageError, match=r"another process is at work in .*deep\n  next: later"),
        one_process(lock, 0, hint="later"),
    ):
        pass


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import pathlib, sys, time\n"
        "from curbside.storage import one_process\n"
        "with one_process(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as held:
        try:
            assert held.stdout is not None and held.stdout.readline() == b"in\n"
            with (
                pytest.raises(StorageError, match="another process"),
                one_process(lock, wait_s=0.1),
            ):
                pass
        finally:
            held.kill()
    with one_process(lock, wait_s=5):
        pass
