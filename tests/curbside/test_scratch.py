"""Tables larger than memory: bounded, private, gone with the process, and a full disk is said."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from curbside.errors import StorageError
from curbside.memory import resident_bytes
from curbside.scratch import Scratch

NUMBERS = "CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT)"


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def large_files() -> set[int]:
    """Handles of this process's open files of 20 MB and more."""
    large = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing itself is open while it lasts
            if os.fstat(int(entry.name)).st_size > 20 * 2**20:
                large.add(int(entry.name))
    return large


def fill(held: Scratch, n: int) -> None:
    held.run_many("INSERT INTO numbers VALUES (?, ?)", ((i, f"{i:>200}") for i in range(n)))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux shows open files")
def test_what_does_not_fit_in_memory_lies_in_a_file_without_a_name() -> None:
    with Scratch(NUMBERS, cached=2**20) as held:
        before, earlier = resident_bytes(), large_files()
        fill(held, 150_000)  # 30 MB
        assert resident_bytes() - before < 6 * 2**20
        (handle,) = large_files() - earlier
        assert Path(f"/proc/self/fd/{handle}").readlink().name.endswith("(deleted)")
        stat = os.fstat(handle)
        assert stat.st_mode & 0o777 == 0o600
        assert stat.st_nlink == 0
        assert held.first("SELECT text FROM numbers WHERE n = 77777") == (f"{77777:>200}",)
        assert sum(n for (n,) in held.rows("SELECT n FROM numbers")) == 150_000 * 149_999 // 2


def test_statements_say_what_they_did() -> None:
    with Scratch(NUMBERS) as held:
        put = "INSERT OR IGNORE INTO numbers VALUES (?, ?)"
        assert held.run("INSERT INTO numbers VALUES (NULL, 'a')") == 1
        assert held.run("INSERT INTO numbers VALUES (NULL, 'b')") == 2
        assert held.changed(put, 3, "c")
        assert not held.changed(put, 3, "d")
        assert held.first("SELECT text FROM numbers WHERE n = ?", 3) == ("c",)
        assert held.first("SELECT text FROM numbers WHERE n = ?", 4) is None
        found = held.rows("SELECT n FROM numbers ORDER BY n")
        assert next(found) == (1,)
        # while a query is under way
        held.run("DELETE FROM numbers WHERE n = 1")
        assert list(found) == [(2,), (3,)]


def test_a_wrong_statement_is_no_full_disk() -> None:
    with Scratch(NUMBERS) as held:
        held.run("INSERT INTO numbers VALUES (1, 'a')")
        with pytest.raises(sqlite3.IntegrityError):
            held.run("INSERT INTO numbers VALUES (1, 'b')")
    with pytest.raises(sqlite3.ProgrammingError):
        held.first("SELECT 1")
    assert not held.failed


def test_two_of_them_know_nothing_of_each_other() -> None:
    with Scratch(NUMBERS) as one, Scratch(NUMBERS) as other:
        fill(one, 3)
        assert other.first("SELECT count(*) FROM numbers") == (0,)


def test_a_full_disk_is_said_without_what_was_to_be_kept() -> None:
    with Scratch(NUMBERS, cached=2**18) as held, no_file_larger_than(2**20):
        with pytest.raises(StorageError, match="temporary files") as caught:
            held.run_many(
                "INSERT INTO numbers VALUES (?, ?)",
                ((i, f"MUSTER^{i:>200}") for i in range(50_000)),
            )
        assert held.failed
        assert "MUSTER" not in str(caught.value)
        assert "SQLITE_TMPDIR" in str(caught.value.hint)
        assert caught.value.__cause__ is None
