"""One manifest format for everything that has cases: CSV, JSONL or Parquet.

Columns: ``image`` (or ``study``), relative to the manifest's folder, is required; ``id``,
``modality``, ``label``, ``task``, ``options`` (joined by ``|``, or a list), ``question``,
``role``, ``tier`` and ``group`` are known; any other column is a free attribute.  Every bad
row is reported, all at once.  Nothing is opened here: an image that is missing is one
failed case later, and no reason to refuse the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from curbside.errors import CasesError, ImageError, RowProblem
from curbside.pixels import IMAGE_SUFFIXES
from curbside.study import Question, Study, content_hash

__all__ = [
    "ROLES",
    "TIERS",
    "Case",
    "Cases",
    "bad_rows",
    "case_of",
    "cases_of_rows",
    "read_cases",
    "read_table",
    "rows_of",
]

ROLES = ("train", "tune", "calibration", "test")
TIERS = ("common", "rare", "novel")
_KNOWN = frozenset(
    ("image", "study", "id", "modality", "label", "task", "options", "question", "role", "tier")
) | {"group"}
_SUFFIXES = (".csv", ".jsonl", ".parquet")
_SHOWN = 10
_PARQUET_ROWS = 1000
_HINT = "mend the manifest (docs/cases.md says what each column holds), then run it again"


@dataclass(frozen=True)
class Case:
    """One row of a manifest.  ``line`` counts from 1, with a CSV's header as line 1.

    ``None`` and ``()`` stand where the manifest says nothing.
    """

    id: str
    image: Path
    modality: str | None = None
    label: str | None = None
    task: str | None = None
    options: tuple[str, ...] = ()
    question: str = ""
    role: str | None = None
    tier: str | None = None
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    line: int = 0

    @property
    def own_group(self) -> str:
        """Its group, or one of its own where it has none: what is drawn and kept whole."""
        return self.group or f"case {self.id}"

    def study(self) -> Study:
        """The study with its question; no pixel is read.

        DICOM files, folders and archives are told by a name that is no image's; their headers
        are read.  What cannot be used becomes a study that fails with the reason.
        """
        question = Question(options=self.options, text=self.question, task=self.task)
        if self.image.suffix.lower() in IMAGE_SUFFIXES:
            return Study.from_image(self.image, id=self.id, question=question, group=self.group)
        try:
            return Study.from_dicom(self.image, id=self.id, question=question, group=self.group)
        except ImageError as e:
            return Study.unusable(self.id, e, question=question, group=self.group)

    def __repr__(self) -> str:  # a path may hold a patient's name
        return f"Case({self.id!r}, line {self.line})"


class Cases(Sequence[Case]):
    """Cases of one manifest, also as columns (str arrays, ``""`` where absent)."""

    def __init__(self, cases: Iterable[Case], path: Path) -> None:
        self._cases = tuple(cases)
        self.path = path

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases)

    @overload
    def __getitem__(self, at: int) -> Case: ...
    @overload
    def __getitem__(self, at: slice) -> Cases: ...
    def __getitem__(self, at: int | slice) -> Case | Cases:
        return Cases(self._cases[at], self.path) if isinstance(at, slice) else self._cases[at]

    def __repr__(self) -> str:
        return f"Cases({len(self)} from {self.path.name})"

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | Sequence[int]) -> Cases:
        """Some of the cases, in the order given."""
        where = np.asarray(rows)
        if where.dtype == np.bool_:
            where = np.flatnonzero(where)
        return Cases((self._cases[int(i)] for i in where), self.path)

    def where(
        self,
        *,
        role: str | Sequence[str] | None = None,
        tier: str | Sequence[str] | None = None,
        modality: str | Sequence[str] | None = None,
    ) -> NDArray[np.intp]:
        """Rows that match all that is given, intp, ascending."""
        keep = np.ones(len(self), bool)
        for column, wanted in ((self.roles, role), (self.tiers, tier), (self.modalities, modality)):
            if wanted is not None:
                keep &= np.isin(column, [wanted] if isinstance(wanted, str) else list(wanted))
        return np.flatnonzero(keep)

    def studies(self) -> list[Study]:
        """One study a case, in order."""
        return [c.study() for c in self]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every row's text, order included; image contents are not in it.

        Image paths count relative to the manifest's folder, which may move.
        """
        rows: list[str] = []
        folder = self.path.parent.as_posix() + "/"
        for c in self:
            image = c.image.as_posix().removeprefix(folder)
            rows += [c.id, image, c.modality or "", c.label or "", c.task or ""]
            rows += ["|".join(c.options), c.question, c.role or "", c.tier or "", c.group]
            rows += [f"{k}={v}" for k, v in sorted(c.attributes.items())]
        return content_hash("\0".join(rows))

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Ids, (n,)."""
        return _column(c.id for c in self)

    @cached_property
    def modalities(self) -> NDArray[np.str_]:
        """Modalities, (n,)."""
        return _column(c.modality or "" for c in self)

    @cached_property
    def labels(self) -> NDArray[np.str_]:
        """Labels, (n,)."""
        return _column(c.label or "" for c in self)

    @cached_property
    def tasks(self) -> NDArray[np.str_]:
        """Tasks, (n,)."""
        return _column(c.task or "" for c in self)

    @cached_property
    def roles(self) -> NDArray[np.str_]:
        """Roles, (n,)."""
        return _column(c.role or "" for c in self)

    @cached_property
    def tiers(self) -> NDArray[np.str_]:
        """Tiers, (n,)."""
        return _column(c.tier or "" for c in self)

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Groups, (n,)."""
        return _column(c.group for c in self)


def read_cases(path: Path) -> Cases:
    """Read and check a manifest.

    Raises:
        CasesError: it cannot be read, lacks a column, holds no case, or has bad rows: all
            of them are in ``problems``, by line and reason.
    """
    return cases_of_rows(read_table(path), path)


def cases_of_rows(rows: Sequence[tuple[int, Mapping[Any, Any]]], path: Path) -> Cases:
    """Check rows of a manifest.

    Args:
        rows: line number and columns of each.
        path: names the rows in messages; images are relative to its folder.

    Raises:
        CasesError: as :func:`read_cases`.
    """
    if not rows:
        raise CasesError(f"{path} has no case in it", hint=_HINT)
    columns = list(dict.fromkeys(c for _, row in rows for c in row if c))
    if not {"image", "study"} & set(columns):
        found = ", ".join(columns) or "none"
        raise CasesError(
            f"{path} has no column 'image' or 'study'; its columns: {found}", hint=_HINT
        )
    problems: list[RowProblem] = []
    cases: list[Case] = []
    for line, row in rows:
        case, wrong = case_of(path.parent, line, row)
        problems += [RowProblem(line, w) for w in wrong]
        if case is not None:
            cases.append(case)
    problems += _between_rows(cases)
    if problems:
        raise bad_rows(path, problems, len(rows))
    return Cases(cases, path)


def bad_rows(path: Path, problems: Sequence[RowProblem], n: int) -> CasesError:
    """The error that names all bad rows of the n of a manifest."""
    ordered = sorted(problems, key=lambda p: p.line)
    shown = [f"line {p.line}: {p.reason}" for p in ordered[:_SHOWN]]
    more = len(ordered) - len(shown)
    rest = [f"… and {more} more"] if more else []
    bad = len({p.line for p in ordered})
    return CasesError(
        f"{path} has {len(ordered)} problem(s) in {bad} of {n} row(s):\n  "
        + "\n  ".join(shown + rest),
        problems=ordered,
        hint=_HINT,
    )


def read_table(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Rows of a CSV, JSONL or Parquet file with their line numbers, nothing checked.

    Raises:
        CasesError: it cannot be read as what its ending says.
    """
    return list(rows_of(path))


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """:func:`read_table` one row after another, few of them in memory at a time."""
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in _SUFFIXES:
        raise CasesError(
            f"{path} is no manifest by its name; valid endings: {', '.join(_SUFFIXES)}", hint=_HINT
        )
    try:
        yield from readers[path.suffix.lower()](path)
    except FileNotFoundError:
        raise CasesError(f"{path} does not exist", hint="give the path of a manifest") from None
    except UnicodeDecodeError:
        raise CasesError(f"{path} is not UTF-8 text", hint=_HINT) from None
    except OSError as e:
        raise CasesError(f"{path} cannot be read: {e.strerror or e}", hint=_HINT) from None


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f, strict=True)
        try:
            names = [n.strip() for n in reader.fieldnames or []]
        except csv.Error as e:
            raise CasesError(f"{path}, line 1: not CSV ({e})", hint=_HINT) from None
        reader.fieldnames = names
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise CasesError(f"{path} has a column twice: {', '.join(twice)}", hint=_HINT)
        try:
            for row in reader:
                yield reader.line_num, dict(row)
        except csv.Error as e:
            raise CasesError(f"{path}, line {reader.line_num}: not CSV ({e})", hint=_HINT) from None


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import json

    problems = []
    with path.open(encoding="utf-8-sig") as f:
        for line, text in enumerate(f, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError:
                row = None
            if isinstance(row, dict):
                yield line, {k: v for k, v in row.items() if v is not None}
            else:
                problems.append(RowProblem(line, "not a JSON object"))
    if problems:
        shown = ", ".join(str(p.line) for p in problems[:_SHOWN])
        raise CasesError(
            f"{path} has {len(problems)} line(s) that are no JSON object: {shown}",
            problems=problems,
            hint=_HINT,
        )


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        with pq.ParquetFile(path) as f:
            for batch in f.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    line += 1
                    yield line, {k: v for k, v in row.items() if v is not None}
    except pa.ArrowException as e:
        raise CasesError(f"{path} is not Parquet ({type(e).__name__})", hint=_HINT) from None


def case_of(folder: Path, line: int, row: Mapping[Any, Any]) -> tuple[Case | None, list[str]]:
    """The case of one row, None where it has no image, and all that is wrong with the row."""
    wrong: list[str] = []
    # csv.DictReader puts surplus fields under None, and None into missing fields
    if None in row:
        wrong.append("more fields than the header has columns")
    elif None in row.values():
        wrong.append("fewer fields than the header has columns")
    text = {k: _text(v) for k, v in row.items() if k}
    wrong += [
        f"{k} holds a {type(v).__name__}, not a text"
        for k, v in row.items()
        if k and isinstance(v, list | tuple | dict) and (k != "options" or isinstance(v, dict))
    ]
    # JSON can write half of a pair of code units, which neither a file nor a database takes
    broken = [k for k, v in row.items() if k and not _whole(k, v)]
    if broken:
        return None, [*wrong, *(f"{k!r} holds a lone surrogate, which is no text" for k in broken)]
    image = text.get("image") or text.get("study") or ""
    if not image:
        return None, [*wrong, "image is empty" if "image" in row else "study is empty"]
    given = row.get("options")
    options = (
        tuple(_text(o) for o in given)
        if isinstance(given, list | tuple)
        else tuple(o.strip() for o in text["options"].split("|"))
        if text.get("options")
        else ()
    )
    label = text.get("label", "")
    if options and len(options) < 2:
        wrong.append(f"options {options[0]!r} is a single one; at least two, joined by '|'")
    if len(set(options)) < len(options):
        wrong.append("an option is repeated")
    if options and "" in options:
        wrong.append("an option is empty")
    if label and options and label not in options:
        wrong.append(f"label {label!r} is none of the options {'|'.join(options)}")
    for column, valid in (("role", ROLES), ("tier", TIERS)):
        value = text.get(column, "")
        if value and value not in valid:
            wrong.append(f"{column} {value!r} is unknown; valid: {', '.join(valid)}, or empty")
    case = Case(
        id=text.get("id") or content_hash(image)[:16],
        image=folder / image,
        modality=text.get("modality") or None,
        label=label or None,
        task=text.get("task") or None,
        options=options,
        question=text.get("question", ""),
        role=text.get("role") or None,
        tier=text.get("tier") or None,
        group=text.get("group", ""),
        attributes=MappingProxyType({k: v for k, v in text.items() if k not in _KNOWN and v}),
        line=line,
    )
    return case, wrong


def _between_rows(cases: Sequence[Case]) -> list[RowProblem]:
    problems = []
    first: dict[str, int] = {}
    home: dict[str, tuple[str, int]] = {}
    for c in cases:
        if c.id in first:
            problems.append(
                RowProblem(
                    c.line,
                    f"the same id as line {first[c.id]} (without a column 'id', the image's path "
                    "gives the id: an image that is asked twice needs ids)",
                )
            )
        first.setdefault(c.id, c.line)
        if c.group and c.role:
            role, line = home.setdefault(c.group, (c.role, c.line))
            if role != c.role:
                problems.append(
                    RowProblem(
                        c.line,
                        f"its group is in role {c.role!r} here and {role!r} on line {line}",
                    )
                )
    return problems


def _text(value: Any) -> str:
    # NaN is how tables of numbers say that nothing is there
    return "" if value is None or value != value else str(value).strip()


def _whole(*values: Any) -> bool:
    """Whether UTF-8 can write all of it, of lists each."""
    for value in values:
        some = value if isinstance(value, list | tuple) else [value]
        try:
            "".join(_text(v) for v in some).encode()
        except UnicodeEncodeError:
            return False
    return True


def _column(values: Iterable[str]) -> NDArray[np.str_]:
    column = list(values)
    return np.array(column, np.str_) if column else np.zeros(0, "U1")
