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

from curbside.archives import Member
from curbside.config import Config
from curbside.errors import ImageError, StorageError
from curbside.indexes.features import central_instance
from curbside.readings import CaseRecord
from curbside.study import Instance, Series, Study

__all__ = ["SourceStore", "open_sources"]

_TABLE = "CREATE TABLE IF NOT EXISTS images (study TEXT PRIMARY KEY, places TEXT NOT NULL)"


class SourceStore:
    """Study id → where each series' images are (file, member of an archive, frame), in SQLite."""

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
            places = [[p for i in s.instances if (p := _place(i))] for s in study.series]
            if any(places):
                rows.append((study.id, json.dumps(places)))
        if rows:
            with self._open() as c:
                c.executemany("INSERT OR REPLACE INTO images VALUES (?, ?)", rows)

    def images(self, case: str) -> tuple[tuple[Instance, ...], ...]:
        """Images of each series of a case, in reading order; empty where none are known.

        Raises:
            StorageError: the store cannot be read.
        """
        if not self._path.is_file():
            return ()
        with self._open() as c:
            found = c.execute("SELECT places FROM images WHERE study = ?", (case,)).fetchone()
        series = json.loads(found[0]) if found else ()
        return tuple(tuple(_instance(*place) for place in s) for s in series)

    def standing_for(self, record: CaseRecord) -> Instance | None:
        """The image that a record was made from, where it is still here and still the same.

        None also where another object of the study may have stood in for one that could not
        be used.

        Raises:
            StorageError: the store cannot be read.
        """
        series = tuple(Series(s) for s in self.images(record.case) if s)
        if not series or record.incomplete:
            return None
        try:
            found = central_instance(Study(id=record.case, series=series))
            return found if found.digest() == record.content else None
        except ImageError:
            return None

    def forget(self, cases: Sequence[str]) -> None:
        """Remove what is known of cases.  Raises StorageError."""
        if self._path.is_file():
            with self._open() as c:
                c.executemany("DELETE FROM images WHERE study = ?", [(case,) for case in cases])

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


def _place(instance: Instance) -> tuple[str, str | None, int | None] | None:
    """File, member and frame; None for an image that lies in no file."""
    source = instance.source
    file, member = (source.archive, source.name) if isinstance(source, Member) else (source, None)
    return (str(file.absolute()), member, instance.frame) if isinstance(file, Path) else None


def _instance(file: str, member: str | None, frame: int | None) -> Instance:
    path = Path(file)
    return Instance(path if member is None else Member(path, member), frame)


def open_sources(home: Path, config: Config) -> SourceStore | None:
    """The store that the configuration names, or None where none is to be kept."""
    return SourceStore(home / config.stores.sources) if config.privacy.keep_sources else None
