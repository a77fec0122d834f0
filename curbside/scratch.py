"""Tables of this process that may be larger than memory, and that nothing outlives.

SQLite's temporary database: it has no name, only its owner can read it, the system removes it
when the process ends in whatever way, and it is written to disk only where it does not fit in
:data:`CACHED`.  Python's own sets and dictionaries take 100 to 400 bytes an entry instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from curbside.errors import StorageError

__all__ = ["CACHED", "Scratch"]

#: Bytes of one such database that are in memory.
CACHED = 8 * 2**20


class Scratch:
    """A private database; used by one thread at a time, whichever it is.

    Args:
        schema: statements that make its tables, separated by semicolons.
        cached: bytes of it that may be in memory.

    Attributes:
        failed: a method has raised StorageError, and what is held means nothing any more: there
            is no way back to what was there before.

    Raises:
        StorageError: from every method: there is no room for SQLite's temporary files.
    """

    def __init__(self, schema: str, *, cached: int = CACHED) -> None:
        self.failed = False
        with self._full_disk():
            self._connection = sqlite3.connect("", check_same_thread=False, isolation_level=None)
            for pragma in (
                "temp_store = FILE",
                f"cache_size = -{cached // 1024}",
                # nothing is ever taken back, and nothing is there after a crash
                "journal_mode = OFF",
                "synchronous = OFF",
                "secure_delete = OFF",
            ):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(schema)
            # one transaction, since each of its own would write what changed to the disk
            self._connection.execute("BEGIN")

    def run(self, statement: str, *values: Any) -> int:
        """Carry out one statement; the number of the row that it inserted, if it did."""
        with self._full_disk():
            return self._connection.execute(statement, values).lastrowid or 0

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Carry out one statement for each row of values."""
        with self._full_disk():
            self._connection.executemany(statement, rows)

    def changed(self, statement: str, *values: Any) -> bool:
        """Carry out one statement; whether it changed a row."""
        with self._full_disk():
            return self._connection.execute(statement, values).rowcount > 0

    def first(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row that a query finds, or None."""
        with self._full_disk():
            found: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return found

    def rows(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Rows that a query finds, read from the disk as they are asked for."""
        with self._full_disk():
            cursor = self._connection.execute(query, values)
        while True:
            with self._full_disk():
                some = cursor.fetchmany(256)
            if not some:
                return
            yield from some

    def close(self) -> None:
        """Forget everything."""
        self._connection.close()

    def __del__(self) -> None:  # of what was made half, too
        if hasattr(self, "_connection"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise  # a statement that is wrong, and no fault of the disk
        except sqlite3.DatabaseError as e:
            self.failed = True
            # no values: they may be file names
            raise StorageError(
                f"SQLite's temporary files cannot be written or read: {e}",
                hint="free some space, or set SQLITE_TMPDIR to a folder with room",
            ) from None
