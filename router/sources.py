"""Which files a case came from: on this machine only, apart from every record.

File names may hold names of patients.  They are kept in a store of their own, so that a
viewer can show a case's images, and go nowhere else: not into the ledger, a log, a
checkpoint or an export.  ``privacy.keep_sources: false`` keeps none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from curbside.config import Config
from curbside.errors import StorageError
from curbside.study import Study

__all__ = ["SourceStore", "open_sources"]

_TABLE = "CREATE TABLE IF NOT EXISTS sources (study TEXT PRIMARY KEY, files TEXT NOT NULL)"


class SourceStore:
    """Study id → files of each series, in an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Give back the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def keep(self, studies: Sequence[Study]) -> None:
        """Remember where studies came from; images given as bytes have no file.

        Raises:
            StorageError: the store cannot be written.
        """
        rows = []
        for study in studies:
            files = [
                [str(i.source.absolute()) for i in series.instances if isinstance(i.source, Path)]
                for series in study.series
            ]
            if any(files):
                rows.append((study.id, json.dumps(files)))
        if rows:
            with self._open() as c:
                c.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?)", rows)

    def files(self, case: str) -> tuple[tuple[Path, ...], ...]:
        """Files of each series of a case; empty where none are known.  Raises StorageError."""
        if not self._path.is_file():
            return ()
        with self._open() as c:
            found = c.execute("SELECT files FROM sources WHERE study = ?", (case,)).fetchone()
        return tuple(tuple(Path(f) for f in s) for s in json.loads(found[0])) if found else ()

    def forget(self, cases: Sequence[str]) -> None:
        """Remove what is known of cases.  Raises StorageError."""
        if self._path.is_file():
            with self._open() as c:
                c.executemany("DELETE FROM sources WHERE study = ?", [(case,) for case in cases])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction; the connection is made once and shared by threads in turn."""
        try:
            with self._lock:
                if self._connection is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    self._connection = sqlite3.connect(
                        self._path, timeout=60, check_same_thread=False
                    )
                    self._connection.execute("PRAGMA journal_mode=WAL")
                    self._connection.execute("PRAGMA synchronous=NORMAL")
                    self._connection.execute(_TABLE)
                with self._connection:
                    yield self._connection
        except (sqlite3.Error, OSError) as e:
            raise StorageError(
                f"the store of image files {self._path} failed: {e}",
                hint="free some space, or set privacy.keep_sources: false in curbside.yaml",
            ) from None


def open_sources(home: Path, config: Config) -> SourceStore | None:
    """The store that the configuration names, or None where none is to be kept."""
    return SourceStore(home / config.stores.sources) if config.privacy.keep_sources else None
