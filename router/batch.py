"""A whole batch to files: Parquet parts, an errors file, a summary; goes on after any kill.

Order of truth: the ledger first, then a part.  A run that was killed between the two finds
its outcomes in the ledger and writes the parts that are missing; cases that a part holds
are not looked at again.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from curbside.case_stream import CaseStream, is_manifest
from curbside.errors import StorageError, UserError
from curbside.intake import Looked, Refusal, count_in, studies_in
from curbside.progress import Expect, Show
from curbside.readings import CaseRecord, Versions
from curbside.router.parts import SCHEMA, row_of
from curbside.scratch import Scratch
from curbside.storage import new_file, one_process, write_text
from curbside.study import Question, Study

if TYPE_CHECKING:
    from curbside.router.api import Router

__all__ = ["BatchSummary", "Incoming", "incoming", "run_batch"]

#: Cases of one part.
PART_ROWS = 2048
#: What to do while another batch writes into the same folder.
_OCCUPIED = "wait until it has ended, or give another --out: two folders share the work"
#: Objects between two words on how far the search of a folder is.
_LOOKED = 64


@dataclass(frozen=True)
class Incoming:
    """What a batch takes in: studies, and objects that are in none.

    Args:
        total: cases of a manifest; of a folder about how many objects there are to look at.
        open: begins; called with what is told how far the search of a folder is.
    """

    total: int
    open: Callable[[Looked], Iterator[Study | Refusal]]


def incoming(path: Path, question: Question, allowed_tags: tuple[str, ...]) -> Incoming:
    """Studies of a manifest, or of a file, a folder or an archive of images and DICOM objects.

    Args:
        question: asked of studies that bring none.

    Raises:
        CasesError: bad rows of a manifest, all of them named.
        UserError: there is no such path.
    """
    if is_manifest(path):
        cases = CaseStream(path)

        def studies(looked: Looked) -> Iterator[Study | Refusal]:
            for case in cases:
                study = case.study()
                asked = study.question
                bare = not (asked.options or asked.text or asked.task)
                yield replace(study, question=question) if bare else study

        return Incoming(len(cases), studies)
    if not path.exists():
        raise UserError("there is no such manifest, file or folder", hint="curbside batch CASES")
    return Incoming(
        count_in(path),
        lambda looked: studies_in(
            path, question=question, allowed_tags=allowed_tags, looked=looked
        ),
    )


class BatchSummary(BaseModel):
    """What a batch came to; ``summary.json``.

    Args:
        cases: rows in the parts; new: of these, written by this run.
        objects_refused: objects that are in no study, by reason.
        seconds: of this run; rate: its new cases a second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int
    new: int
    status: dict[str, int]
    tier: dict[str, int]
    route: dict[str, int]
    errors: dict[str, int]
    objects_refused: dict[str, int]
    parts: int
    seconds: float
    rate: float
    versions: Versions


def run_batch(
    router: Router,
    given: Incoming,
    out: Path,
    *,
    rows: int = PART_ROWS,
    show: Show = lambda n, note: None,
    expect: Expect = lambda n: None,
) -> BatchSummary:
    """Read every study once, into the ledger and into ``out``.

    ``out/parts/*.parquet`` have columns :data:`curbside.router.parts.SCHEMA`, one row a case;
    ``out/errors.jsonl`` one line for each case or object that could not be used;
    ``out/summary.json`` is a :class:`BatchSummary`, written last.

    Args:
        rows: cases of one part.
        show: called as cases are done, with the routes so far, and before the first of them
            with how much of a folder was looked at.
        expect: called with how many cases there will be, as far as is known by then.

    Raises:
        UserError: ``out`` holds the parts of another policy, index or fleet, or a file that is no
            part.
        StorageError: the disk is full, or another process writes into ``out``; parts and ledger
            keep what is in them, and the same command goes on from there.
    """
    # two would number their parts alike, and one would take the place of the other's
    with one_process(out / ".lock", 0, hint=_OCCUPIED):
        return _run(router, given, out, rows, show, expect)


def _run(
    router: Router, given: Incoming, out: Path, rows: int, show: Show, expect: Expect
) -> BatchSummary:
    started = time.monotonic()
    _same_run(out, router.versions)
    routes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    with (
        closing(_Parts(out / "parts", rows)) as parts,
        _error_lines(out / "errors.jsonl") as write_line,
    ):

        def looked(objects: int, cases: int) -> None:
            if objects % _LOOKED and objects < given.total:
                return
            # each object that is still to come may be a case
            expect(cases + max(0, given.total - objects))
            if not routes:
                show(0, f"{objects} of {max(objects, given.total)} files looked at")

        def studies() -> Iterator[Study]:
            for found in given.open(looked):
                if isinstance(found, Refusal):
                    refused[found.reason] += 1
                    why = {"reason": found.reason, "message": found.message}
                    write_line({"object": found.id, "study": found.study, **why})
                elif parts.has(found.id):
                    show(1, _note(routes))
                else:
                    yield found

        for record in router.read_batch(studies()):
            parts.add(record)
            routes["+".join(record.outcome.route) or str(record.outcome.status)] += 1
            show(1, _note(routes))
        parts.flush()
        counts = _counts(parts.paths(), write_line)
        written = len(parts.paths())
    seconds = time.monotonic() - started
    summary = BatchSummary(
        cases=counts["status"].total(),
        new=routes.total(),
        status=_by_size(counts["status"]),
        tier=_by_size(counts["tier"]),
        route=_by_size(counts["route"]),
        errors=_by_size(counts["error"]),
        objects_refused=_by_size(refused),
        parts=written,
        seconds=round(seconds, 3),
        rate=round(routes.total() / seconds, 2),
        versions=router.versions,
    )
    write_text(out / "summary.json", summary.model_dump_json(indent=1) + "\n")
    return summary


class _Parts:
    """Parts of earlier runs and of this one; each file is whole or not there."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder, self._rows = folder, rows
        self._buffer: list[dict[str, Any]] = []
        for left in folder.glob(".*.parquet.*"):  # of a killed run
            left.unlink(missing_ok=True)
        names = [p.stem.removeprefix("part-") for p in self.paths()]
        foreign = [n for n in names if not n.isdecimal()]
        if foreign:
            raise UserError(
                f"part-{foreign[0]}.parquet in {folder} is no part of a batch; whoever reads the "
                "folder would count its cases again",
                hint="move it elsewhere, then run the command again",
            )
        self._next = 1 + max((int(n) for n in names), default=-1)
        self._known = Scratch("CREATE TABLE cases (id TEXT PRIMARY KEY) WITHOUT ROWID")
        for path in self.paths():
            cases = ((case,) for case in _column(path, "case"))
            self._known.run_many("INSERT OR IGNORE INTO cases VALUES (?)", cases)

    def close(self) -> None:
        """Forget which cases were there."""
        self._known.close()

    def paths(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def has(self, case: str) -> bool:
        """Whether a part of an earlier run holds the case."""
        return self._known.first("SELECT 1 FROM cases WHERE id = ?", case) is not None

    def add(self, record: CaseRecord) -> None:
        self._buffer.append(row_of(record))
        if len(self._buffer) >= self._rows:
            self.flush()

    def flush(self) -> None:
        if not self._buffer:
            return
        table = pa.Table.from_pylist(self._buffer, schema=SCHEMA)
        with new_file(self._folder / f"part-{self._next:06d}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
        self._next += 1
        self._buffer = []


def _same_run(out: Path, versions: Versions) -> None:
    """Parts of one folder come from one policy, index and fleet."""
    path = out / "run.json"
    body = versions.model_dump(mode="json", exclude={"code"})
    if not path.is_file():
        write_text(path, json.dumps(body, indent=1) + "\n")
        return
    try:
        earlier = json.loads(path.read_text("utf-8"))
    except ValueError:
        earlier = {}
    changed = [name for name, value in body.items() if earlier.get(name) != value]
    if changed:
        raise UserError(
            f"the parts in {out} come from another {', '.join(changed)}; they are not mixed",
            hint="give another folder: curbside batch CASES --out DIR",
        )


@contextmanager
def _error_lines(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what writes a line of JSON; the file takes its place when all are written."""
    for left in path.parent.glob(f".{path.name}.*"):  # of a killed run
        left.unlink(missing_ok=True)
    # closed within new_file: a disk may be full only when the last lines are flushed
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as lines:

        def write(row: dict[str, Any]) -> None:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write


def _counts(
    paths: Iterable[Path], write_line: Callable[[dict[str, Any]], None]
) -> dict[str, Counter[str]]:
    """What the parts hold, by column; errors are written as they are met."""
    counts: dict[str, Counter[str]] = {n: Counter() for n in ("status", "tier", "route", "error")}
    for path in paths:
        columns = ["case", "status", "tier", "route", "error", "error_text"]
        for row in pq.read_table(path, columns=columns).to_pylist():
            counts["status"][row["status"]] += 1
            counts["tier"][row["tier"] or "unassessed"] += 1
            if row["route"]:
                counts["route"]["+".join(row["route"])] += 1
            if row["error"]:
                counts["error"][row["error"]] += 1
                why = {"reason": row["error"], "message": row["error_text"]}
                write_line({"case": row["case"], "status": row["status"], **why})
    return counts


def _column(path: Path, name: str) -> list[str]:
    try:
        found: list[str] = pq.read_table(path, columns=[name])[name].to_pylist()
    except (pa.ArrowException, OSError) as e:
        raise StorageError(
            f"the part {path} cannot be read ({type(e).__name__})",
            hint="delete it and run the command again: its cases come from the ledger",
        ) from None
    return found


def _by_size(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())


def _note(routes: Counter[str]) -> str:
    # a copy: the thread that takes studies in says it too, while the caller's may add a route
    most = Counter(dict(routes)).most_common(3)
    return ", ".join(f"{name} {n}" for name, n in most)
