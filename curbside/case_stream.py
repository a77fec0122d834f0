"""Cases of a manifest of any size: checked as a whole first, then one after another.

:func:`curbside.cases.read_cases` holds all cases in memory and gives columns; this holds
eight bytes a case while it checks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from curbside.cases import Case, bad_rows, case_of, rows_of
from curbside.errors import CasesError, RowProblem
from curbside.study import content_hash

__all__ = ["CaseStream", "id_hash", "is_manifest"]

_SUFFIXES = (".csv", ".jsonl", ".parquet")
#: Bad rows after which no more are looked for.
_ENOUGH = 1000


def is_manifest(path: Path) -> bool:
    """Whether a path is a manifest by its name."""
    return path.suffix.lower() in _SUFFIXES and not path.is_dir()


def id_hash(case: str) -> int:
    """64 bits that tell ids apart in a small space; two of 10^6 collide once in 10^7 runs."""
    return int(content_hash(case)[:16], 16)


class CaseStream:
    """A manifest that was checked; iterating reads it again, a row at a time.

    Raises:
        CasesError: as :func:`curbside.cases.read_cases`; with very many bad rows, the first
            thousand.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        problems: list[RowProblem] = []
        ids = array("Q")
        lines = array("Q")
        n = 0
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
            if case is not None:
                ids.append(id_hash(case.id))
                lines.append(line)
            if len(problems) >= _ENOUGH:
                break
        if not n:
            raise CasesError(f"{path} has no case in it", hint="give a manifest with cases")
        problems += _twice(ids, lines)
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


def _twice(ids: array[int], lines: array[int]) -> list[RowProblem]:
    values = np.frombuffer(ids, np.uint64) if ids else np.zeros(0, np.uint64)
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(np.diff(values[order]) == 0)[:_ENOUGH]
    why = "the same id as line {} (without a column 'id', the image's path gives the id: an "
    why += "image that is asked twice needs ids)"
    return [RowProblem(lines[int(order[i + 1])], why.format(lines[int(order[i])])) for i in same]
