"""Versions of what the index knows, each a folder named by its content, and which one serves.

::

    <stores.index>/
      serving.json            which version serves, and everything that ever did
      versions/<name>/        written beside and renamed: whole, or not there
        version.json          what it was made of, and the checksum of each file
        index/  competence/  tune.parquet  cases.jsonl  withheld.json
      gates/<name>.json       what the gate said of it

Serving another version replaces one small file, atomically and one process at a time; whoever
has opened a version keeps it.  Nothing is ever deleted but what a killed run left half-written.
Knows nothing of what is in an index, and not how a gate decides.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curbside import __version__
from curbside.errors import IndexCorrupt, NotBuilt, UserError
from curbside.storage import new_folder, one_process, tree_digest, write_text

__all__ = [
    "CASES_FILE",
    "TUNE_FILE",
    "WITHHELD_FILE",
    "Gate",
    "Served",
    "Serving",
    "VersionFacts",
    "VersionStore",
]

CASES_FILE, TUNE_FILE, WITHHELD_FILE = "cases.jsonl", "tune.parquet", "withheld.json"
_FACTS_FILE, _SERVING_FILE, _LOCK_FILE = "version.json", "serving.json", ".serving.lock"
_BUILD = "curbside build --cases MANIFEST (or make demo)"
_MEND = "curbside index rollback; or make it again: curbside build --cases MANIFEST, or index add"
_LEFT_OVER_AFTER_S = 3600.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionFacts(_Frozen):
    """What a version is: ``made_of`` hashes all that went into it, ``parent`` is what it grew from.

    ``added`` counts the cases that it has and its parent has not, by role; ``outcomes`` are of
    reviewed production cases that its competence learned from.
    """

    name: str
    parent: str | None
    made_of: str
    fleet: str
    cases: dict[str, int]
    added: dict[str, int] = Field(default_factory=dict)
    outcomes: int = 0
    created: str = Field(default_factory=lambda: _now())
    code_version: str = __version__


class _Stored(VersionFacts):
    files: dict[str, str]


class Served(_Frozen):
    """A version that began to serve, when and why."""

    version: str
    how: Literal["build", "promote", "rollback"]
    why: str
    at: str = Field(default_factory=lambda: _now())


class Serving(_Frozen):
    """``serving.json``: the last entry serves; ``back`` are those that a rollback returns to."""

    history: tuple[Served, ...]
    back: tuple[str, ...] = ()


class Gate(_Frozen):
    """What an evaluation said of a version before it may serve.

    ``against`` is the version that it was compared with; ``report`` names or sums up the run.
    """

    version: str
    against: str
    passed: bool
    report: str
    at: str = Field(default_factory=lambda: _now())


class VersionStore:
    """The versions in one folder.

    Args:
        folder: made when the first version is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- what there is ----------------------------------------------------------------------

    def names(self) -> list[str]:
        """Versions that are there, oldest first; those whose facts cannot be read before all."""
        found = [p.parent.name for p in self.folder.glob(f"versions/*/{_FACTS_FILE}")]

        def when(name: str) -> str:
            with suppress(IndexCorrupt):
                return self.facts(name).created
            return ""

        return sorted((n for n in found if not n.startswith(".")), key=lambda n: (when(n), n))

    def path(self, name: str) -> Path:
        """Folder of a version.

        Raises:
            UserError: there is no such version; says which there are.
        """
        where = self.folder / "versions" / name
        if name.startswith(".") or "/" in name or not (where / _FACTS_FILE).is_file():
            there = ", ".join(self.names()) or "none"
            raise UserError(
                f"there is no index version {name!r}; versions: {there}", hint="curbside index list"
            )
        return where

    def facts(self, name: str) -> VersionFacts:
        """What a version is.  Raises UserError, IndexCorrupt."""
        stored = _read(self.path(name) / _FACTS_FILE, _Stored)
        return VersionFacts(**stored.model_dump(exclude={"files"}))

    def check(self, name: str) -> Path:
        """Folder of a version whose every file is as it was written.

        Raises:
            UserError: there is no such version.
            IndexCorrupt: a file is missing or its bytes differ.
        """
        where = self.path(name)
        expected = _read(where / _FACTS_FILE, _Stored).files
        found = {n: d for n, d in tree_digest(where).items() if n != _FACTS_FILE}
        if found != expected:
            differ = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
            raise IndexCorrupt(f"index version {name} is damaged: {', '.join(differ)}", hint=_MEND)
        return where

    # -- which one serves -------------------------------------------------------------------

    def serving(self) -> Serving:
        """Which version serves, and what served before.  Raises NotBuilt, IndexCorrupt."""
        path = self.folder / _SERVING_FILE
        if not path.is_file():
            raise NotBuilt(f"no index was built in {self.folder}", hint=_BUILD)
        return _read(path, Serving)

    def current(self) -> str:
        """Name of the version that serves.  Raises NotBuilt, IndexCorrupt."""
        return self.serving().history[-1].version

    def opened(self) -> Path:
        """Folder of the version that serves, verified.

        Raises:
            NotBuilt: nothing was built.
            IndexCorrupt: it is not there any more, or not as it was written.
        """
        name = self.current()
        if not (self.folder / "versions" / name / _FACTS_FILE).is_file():
            there = ", ".join(self.names()) or "none"
            raise IndexCorrupt(
                f"index version {name} serves, but it is not whole or not there any more; "
                f"versions: {there}",
                hint=_MEND,
            )
        return self.check(name)

    def serve(self, name: str, how: Literal["build", "promote"], why: str = "") -> None:
        """From now on this version is opened; one atomic write.

        A build starts a history where that cannot be read, and keeps it beside.

        Raises:
            UserError, IndexCorrupt: it is not there, or not whole.
            StorageError: it cannot be written, or another process is at it for a minute.
        """
        with self._deciding():
            self._serve(name, how, why)

    def _serve(self, name: str, how: Literal["build", "promote"], why: str) -> None:
        self.check(name)
        try:
            before = self.serving()
        except NotBuilt:
            before = Serving(history=())
        except IndexCorrupt:
            if how != "build":
                raise
            before = Serving(history=())
            path = self.folder / _SERVING_FILE
            with suppress(OSError):  # where renaming fails, writing fails too and says so
                path.replace(path.with_suffix(".damaged.json"))
        old = before.history[-1].version if before.history else None
        back = before.back if old in (None, name) else (*before.back, str(old))
        self._write(Served(version=name, how=how, why=why), before, back)

    def rollback(self, why: str) -> str:
        """Serve again what served before the last promotion; returns its name.

        Raises:
            UserError: nothing served before.
            IndexCorrupt: it is no longer whole.
            StorageError: as for :meth:`serve`.
        """
        with self._deciding():
            return self._rollback(why)

    def _rollback(self, why: str) -> str:
        before = self.serving()
        if not before.back:
            raise UserError(
                f"nothing served before {self.current()}, so there is nothing to roll back to",
                hint="curbside index list",
            )
        name = before.back[-1]
        self.check(name)
        self._write(Served(version=name, how="rollback", why=why), before, before.back[:-1])
        return name

    def _deciding(self) -> AbstractContextManager[None]:
        """What serves is read and written by one process at a time."""
        return one_process(self.folder / _LOCK_FILE)

    def _write(self, served: Served, before: Serving, back: tuple[str, ...]) -> None:
        serving = Serving(history=(*before.history, served), back=back)
        write_text(self.folder / _SERVING_FILE, serving.model_dump_json(indent=1) + "\n")

    def made_of(self, mark: str) -> str | None:
        """The version made of this, if there is one that is whole."""
        for name in self.names():
            with suppress(IndexCorrupt):
                if self.facts(name).made_of == mark:
                    return self.check(name).name
        return None

    def serves(self, name: str) -> bool:
        """Whether this version serves, or one that was grown from it; whole, that is."""
        try:
            at: str | None = self.opened().name
        except (NotBuilt, IndexCorrupt):
            return False
        while at is not None and at != name:
            at = self.facts(at).parent
        return at == name

    # -- adding -----------------------------------------------------------------------------

    @contextmanager
    def adding(self, facts: VersionFacts) -> Iterator[Path]:
        """Yield an empty folder to fill; it becomes the version when the block ends well.

        What is left of a damaged version of that name is replaced.

        Raises:
            StorageError: the disk is full; versions that are there are untouched.
        """
        self._sweep()
        where = self.folder / "versions" / facts.name
        with new_folder(where) as temporary:
            yield temporary
            stored = _Stored(**facts.model_dump(), files=tree_digest(temporary))
            body = stored.model_dump_json(indent=1) + "\n"
            (temporary / _FACTS_FILE).write_text(body, encoding="utf-8")

    def _sweep(self) -> None:
        """Remove what runs killed an hour ago or more left half-written."""
        for left in self.folder.glob("versions/.*"):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)

    # -- the gate ---------------------------------------------------------------------------

    def record_gate(self, gate: Gate) -> None:
        """Keep what the gate said; the latest counts.  Raises UserError, StorageError."""
        self.path(gate.version)
        body = gate.model_dump_json(indent=1) + "\n"
        write_text(self.folder / "gates" / f"{gate.version}.json", body)

    def record_run(self, run: str, baseline: str, *, passed: bool, report: str) -> Gate | None:
        """Keep what a gate said of a run against another, if both are of versions kept here.

        Args:
            run, baseline: versions of the index that the two runs name.
            report: names or sums up the run.
        """
        if run == baseline or not {run, baseline} <= set(self.names()):
            return None
        gate = Gate(version=run, against=baseline, passed=passed, report=report)
        self.record_gate(gate)
        return gate

    def gate(self, name: str) -> Gate | None:
        """What the gate last said of a version, if anything."""
        path = self.folder / "gates" / f"{name}.json"
        return _read(path, Gate) if path.is_file() else None

    def promote(self, name: str, *, without_gate: str = "") -> None:
        """Serve a version that has passed the gate against the one that serves.

        Args:
            without_gate: why it may serve all the same; kept in the history.

        Raises:
            UserError: it has not passed, or against another version, and no reason is given.
            IndexCorrupt: it is not whole.
            StorageError: as for :meth:`serve`.
        """
        with self._deciding():
            self._promote(name, without_gate)

    def _promote(self, name: str, without_gate: str) -> None:
        self.path(name)
        gate, current = self.gate(name), self.current()
        if name == current:
            raise UserError(f"version {name} serves already", hint="curbside index list")
        if without_gate:
            self._serve(name, "promote", f"without a gate: {without_gate}")
            return
        wrong = (
            "has not been through the gate"
            if gate is None
            else "did not pass the gate"
            if not gate.passed
            else f"passed the gate against {gate.against}, but {current} serves"
            if gate.against != current
            else ""
        )
        if wrong or gate is None:
            raise UserError(
                f"version {name} {wrong}",
                hint="curbside eval gate, or curbside index promote --without-gate 'REASON'",
            )
        self._serve(name, "promote", f"gate passed: {gate.report}")


_Model = TypeVar("_Model", bound=BaseModel)


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise IndexCorrupt(
            f"{path.name} of the index versions cannot be read ({type(e).__name__})",
            hint="curbside build --cases MANIFEST",
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
