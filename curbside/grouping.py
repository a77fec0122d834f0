"""DICOM objects to studies and series, on disk until the last header is read.

Any object may belong to any study, so none is whole before that.  What is known of each lies in
a :class:`~curbside.scratch.Scratch`, some 400 bytes an object, and one study at a time is read
back: a tree of 10^6 objects takes no more memory than one of 10^4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from curbside.archives import Member, Source
from curbside.errors import ImageError
from curbside.identity import keyed
from curbside.scratch import Scratch
from curbside.study import Instance, Question, Series, Study

__all__ = ["NO_LOSS", "Groups"]

#: Reasons that are no loss to a study: it holds reports and plans beside its images.
NO_LOSS = frozenset({"wrong_type", "not_an_image"})

# UIDs, patients' ids and folders as keyed hashes; sources are file names, and leave with the file
_SCHEMA = """
CREATE TABLE studies (study INTEGER PRIMARY KEY, id TEXT UNIQUE, patient TEXT);
CREATE TABLE series (series INTEGER PRIMARY KEY, study INTEGER, uid TEXT, facts TEXT);
CREATE UNIQUE INDEX series_of ON series (study, uid);
CREATE TABLE objects (series INTEGER, place INTEGER, source TEXT, facts TEXT,
                      PRIMARY KEY (series, place)) WITHOUT ROWID;
CREATE TABLE uids (study INTEGER, uid TEXT, source TEXT, PRIMARY KEY (study, uid)) WITHOUT ROWID;
CREATE TABLE lost (study INTEGER, place INTEGER, reason TEXT,
                   PRIMARY KEY (study, place)) WITHOUT ROWID;
CREATE TABLE folders (folder TEXT, study INTEGER, PRIMARY KEY (folder, study)) WITHOUT ROWID;
CREATE TABLE strays (place INTEGER PRIMARY KEY, folder TEXT, id TEXT, reason TEXT, message TEXT)
"""


@dataclass(frozen=True, slots=True)
class _Object:
    """A DICOM object that can be used."""

    source: Source
    number: int
    frames: int
    normal: tuple[float, ...]
    positions: tuple[float, ...]


class Groups:
    """What was found so far.

    Args:
        start: where the search began: an archive that is given as bytes is named by it.

    Attributes:
        found: studies with an object that can be used, so far.

    Raises:
        StorageError: from every method: there is no room for temporary files.
    """

    def __init__(self, start: Path | bytes) -> None:
        self._start = start
        self._held = Scratch(_SCHEMA)
        self.found = 0
        #: counts objects, so that each has its place in the order of the search
        self._place = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._held.close()

    def add(
        self, study: str, source: Source, folder: str, told: dict[str, Any]
    ) -> ImageError | None:
        """Put an object into its study, or say why it cannot be.

        Args:
            study: id of its study.
            folder: where the object lies.
            told: fields of its :class:`curbside.dicom.Header`.
        """
        held, number = self._held, self._study(study, told["patient"])
        held.run("INSERT OR IGNORE INTO folders VALUES (?, ?)", keyed("folder", folder), number)
        problem = ImageError(*told["unusable"]) if told["unusable"] else None
        written = self._written(source)
        if problem is None and told["uid"]:
            uid = keyed("object", told["uid"])
            fresh = "INSERT OR IGNORE INTO uids VALUES (?, ?, ?)"
            if not held.changed(fresh, number, uid, written):
                first = held.first(
                    "SELECT source FROM uids WHERE study = ? AND uid = ?", number, uid
                )
                if first is not None and _same(self._read(first[0]), source):
                    return None  # a copy
                problem = ImageError("duplicate", "another object of the study has the same UID")
        if problem is not None:
            if problem.reason not in NO_LOSS:
                self._lose(number, problem.reason)
            return problem
        facts = [told["number"], told["frames"], told["normal"], told["positions"]]
        held.run(
            "INSERT INTO objects VALUES (?, ?, ?, ?)",
            self._series(number, told),
            self._next(),
            written,
            json.dumps(facts),
        )
        return None

    def stray(self, folder: str, id: str, problem: ImageError) -> None:
        """An object of no known study."""
        put = "INSERT INTO strays VALUES (?, ?, ?, ?, ?)"
        here = keyed("folder", folder)
        self._held.run(put, self._next(), here, id, problem.reason, problem.message)

    def strays(self) -> Iterator[tuple[str, ImageError, str | None]]:
        """Id and reason of each stray; in a folder of one study it is that one's, and lost to it.

        A broken header names no study.
        """
        homes = "SELECT study, id FROM folders JOIN studies USING (study) WHERE folder = ? LIMIT 2"
        for folder, id, reason, message in self._held.rows(
            "SELECT folder, id, reason, message FROM strays ORDER BY place"
        ):
            only: str | None = None
            here = list(self._held.rows(homes, folder))
            if len(here) == 1:
                ((study, only),) = here
                self._lose(study, reason)
            yield id, ImageError(reason, message), only

    def studies(self, question: Question) -> Iterator[Study]:
        """Every study with an object that can be used, in the order in which they were met."""
        for number, id, patient in self._held.rows("SELECT * FROM studies ORDER BY study"):
            found = list(
                self._held.rows(
                    "SELECT series, facts FROM series WHERE study = ? ORDER BY series", number
                )
            )
            facts = {row: json.loads(written) for row, written in found}
            series = [
                Series(tuple(_instances(self._objects(row))), MappingProxyType(facts[row][1]))
                for row in sorted(facts, key=lambda row: facts[row][0])
            ]
            if not series:
                continue
            lost = "SELECT reason FROM lost WHERE study = ? ORDER BY reason"
            yield Study(
                id=id,
                series=tuple(series),
                question=question,
                tags=max(series, key=lambda s: len(s.instances)).tags,
                group=patient,
                incomplete=tuple(reason for (reason,) in self._held.rows(lost, number)),
            )

    def _study(self, id: str, patient: str) -> int:
        found = self._held.first("SELECT study FROM studies WHERE id = ?", id)
        if found is not None:
            return int(found[0])
        group = keyed("patient", patient) if patient else ""
        return self._held.run("INSERT INTO studies VALUES (NULL, ?, ?)", id, group)

    def _series(self, study: int, told: dict[str, Any]) -> int:
        """The row of an object's series; its number and tags are those of its first object."""
        uid = keyed("series", told["series"])
        found = self._held.first(
            "SELECT series FROM series WHERE study = ? AND uid = ?", study, uid
        )
        if found is not None:
            return int(found[0])
        if self._held.first("SELECT 1 FROM series WHERE study = ? LIMIT 1", study) is None:
            self.found += 1
        facts = json.dumps([told["series_number"], told["tags"]])
        return self._held.run("INSERT INTO series VALUES (NULL, ?, ?, ?)", study, uid, facts)

    def _objects(self, series: int) -> list[_Object]:
        found = self._held.rows(
            "SELECT source, facts FROM objects WHERE series = ? ORDER BY place", series
        )
        objects = []
        for source, facts in found:
            number, frames, normal, positions = json.loads(facts)
            objects.append(
                _Object(self._read(source), number, frames, tuple(normal), tuple(positions))
            )
        return objects

    def _lose(self, study: int, reason: str) -> None:
        self._held.run("INSERT INTO lost VALUES (?, ?, ?)", study, self._next(), reason)

    def _next(self) -> int:
        self._place += 1
        return self._place

    def _written(self, source: Source) -> str:
        """A source as JSON, which keeps names that are no text; bytes are what was given."""
        if isinstance(source, Member):
            given = isinstance(source.archive, bytes)
            return json.dumps([None if given else str(source.archive), source.name])
        return json.dumps([None if isinstance(source, bytes) else str(source)])

    def _read(self, written: str) -> Source:
        file, *member = json.loads(written)
        place = self._start if file is None else Path(file)
        return Member(place, member[0]) if member else place


def _instances(objects: list[_Object]) -> Iterator[Instance]:
    """Frames by position where every object has one along the same normal, else by number."""
    first = objects[0].normal
    placed = all(
        o.normal and abs(sum(a * b for a, b in zip(o.normal, first, strict=True)) - 1) < 1e-3
        for o in objects
    )
    frames = []
    for o in objects:
        for i in range(o.frames):
            where = o.positions[min(i, len(o.positions) - 1)] if placed else 0.0
            frames.append((where, o.number, i, o))
    frames.sort(key=lambda f: f[:3])
    for _, _, i, o in frames:
        yield Instance(o.source, i if o.frames > 1 else None)


def _same(one: Source, other: Source) -> bool:
    try:
        return Instance(one).read() == Instance(other).read()
    except ImageError:
        return False
