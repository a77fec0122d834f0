"""Cases of a manifest of any size: checked as a whole first, then one after another.

:func:`curbside.cases.read_cases` holds all cases in memory and gives columns; this holds ids
while it checks, on disk where they are many.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from curbside.cases import Case, bad_rows, case_of, rows_of
from curbside.errors import CasesError, RowProblem
from curbside.scratch import Scratch

__all__ = ["CaseStream", "is_manifest"]

_SUFFIXES = (".csv", ".jsonl", ".parquet")
_IDS = "CREATE TABLE ids (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID"
#: Bad rows after which no more are looked for.
_ENOUGH = 1000


def is_manifest(path: Path) -> bool:
    """Whether a path is a manifest by its name."""
    return path.suffix.lower() in _SUFFIXES and not path.is_dir()


class CaseStream:
    """A manifest that was checked; iterating reads it again, a row at a time.

    Raises:
        CasesError: as :func:`curbside.cases.read_cases`; with very many bad rows, the first
            thousand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        problems: list[RowProblem] = []
        n = 0
        with Scratch(_IDS) as ids:
            for line, row in rows_of(path):
                if not n and not {"image", "study"} & set(row):
                    found = ", ".join(c for c in row if c) or "none"
                    raise CasesError(
                        f"{path} has no column 'image' or 'study'; its columns: {found}",
                        hint="docs/cases.md says what each column holds",
                    )
                n += 1
                case, wrong = case_of(path.parent, line, row)
                problems += [RowProblem(line, w) for w in wrong]
                if case is not None and (why := _again(ids, case.id, line)):
                    problems.append(RowProblem(line, why))
                if len(problems) >= _ENOUGH:
                    break
        if not n:
            raise CasesError(f"{path} has no case in it", hint="give a manifest with cases")
        if problems:
            raise bad_rows(path, problems, n)
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Case]:
        for line, row in rows_of(self.path):
            case, _ = case_of(self.path.parent, line, row)
            if case is not None:
                yield case


def _again(ids: Scratch, case: str, line: int) -> str:
    """What is wrong where an earlier line has the same id; "" where none has."""
    if ids.changed("INSERT OR IGNORE INTO ids VALUES (?, ?)", case, line):
        return ""
    (first,) = ids.first("SELECT line FROM ids WHERE id = ?", case) or (line,)
    return (
        f"the same id as line {first} (without a column 'id', the image's path gives the id: an "
        "image that is asked twice needs ids)"
    )
