"""From files, folders and zip archives to studies, without a pixel and without a name.

One pass reads headers only: DICOM objects are grouped by StudyInstanceUID and
SeriesInstanceUID and sorted by position, then InstanceNumber; every other image is a study of
its own.  What cannot be used becomes a :class:`Refusal`; a study that lost objects is given
all the same and says so in ``Study.incomplete``.  UIDs and patient ids become keyed hashes
here and go no further.  docs/studies.md has the limits and reasons.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curbside import decoding
from curbside.archives import Member, Source, members_of
from curbside.config import PrivacyConfig
from curbside.errors import ImageError
from curbside.grouping import NO_LOSS, Groups
from curbside.identity import keyed
from curbside.pixels import MAX_BYTES, check_image_header
from curbside.scratch import Scratch
from curbside.sniffing import PREFIX, is_dicom, is_zip
from curbside.study import Instance, Question, Series, Study

__all__ = [
    "Looked",
    "Refusal",
    "Source",
    "count_in",
    "look_at",
    "one_study",
    "places_of",
    "sources_in",
    "studies_in",
]

#: A source, the folder that it lies in, and why it cannot be opened.
Found = tuple[Source, str, ImageError | None]
Told = dict[str, Any] | Study | ImageError
#: Called with the objects that were looked at so far, and the studies that were met.
Looked = Callable[[int, int], None]

#: Headers that are asked for ahead of where the walk is.
_AHEAD = 64
#: Names of one folder that are in memory at a time.
_LISTED = 8192
_NAMES = "CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID"


@dataclass(frozen=True)
class Refusal:
    """One object that is in no study, and why.

    Args:
        id: keyed hash of where it lay, the same at every run.
        reason: one of :data:`curbside.errors.IMAGE_REASONS`; ``message`` is for people.
        kind: its DICOM modality code and ``syntax`` the name of its transfer syntax, where known.
        study: id of the study that it belongs to and that is incomplete without it, where known.
    """

    id: str
    reason: str
    message: str
    kind: str = ""
    syntax: str = ""
    study: str | None = None


def studies_in(
    source: str | Path | bytes,
    *,
    question: Question | None = None,
    allowed_tags: Sequence[str] = PrivacyConfig().allowed_tags,
    looked: Looked = lambda objects, studies: None,
) -> Iterator[Study | Refusal]:
    """Every study in a file, a folder (with those below it) or a zip archive, and what is in none.

    Lazy: headers are read as it goes, and no pixel is.  Plain images come as they are met; DICOM
    studies at the end, since any file may belong to any of them.  Until then what is known of
    their objects is in a temporary file that no one else can open and that ends with the process.

    Args:
        question: asked of every study.
        allowed_tags: DICOM keywords that may go further (``privacy.allowed_tags``).
        looked: called as it goes: objects that were looked at, and studies that were met.

    Raises:
        ImageError: ``missing``: there is no such file or folder.
        ConfigError: a tag cannot be allowed.
        StorageError: the key of ids cannot be read or made, or there is no room for temporary
            files.
    """
    if tuple(allowed_tags) != PrivacyConfig().allowed_tags:
        # only then, since it loads the dictionary of DICOM
        from curbside.dicom import check_tags

        check_tags(allowed_tags)
    start = source if isinstance(source, bytes) else Path(source)
    if isinstance(start, Path) and not start.exists():
        raise ImageError("missing", "there is no such file or folder")
    return _studies(start, question or Question(), tuple(allowed_tags), looked)


def one_study(source: str | Path | bytes, *, question: Question | None = None) -> Study:
    """The only study in a source; see :meth:`curbside.study.Study.from_dicom`."""
    refusals: Counter[str] = Counter()
    studies, last = [], None
    for found in studies_in(source, question=question):
        if isinstance(found, Study):
            studies.append(found)
        else:
            refusals[found.reason] += 1
            last = found
    if len(studies) == 1:
        return studies[0]
    if studies:
        raise ImageError(
            "wrong_type",
            f"it holds {len(studies)} studies, not one",
            hint="curbside.intake.studies_in gives each of them",
        )
    if last is not None and refusals.total() == 1:
        raise ImageError(last.reason, last.message)
    counts = ", ".join(f"{n} {reason}" for reason, n in refusals.most_common())
    worst = refusals.most_common(1)[0][0] if refusals else "missing"
    raise ImageError(worst, f"no object in it can be used ({counts or 'there is none'})")


def _studies(
    start: Path | bytes, question: Question, tags: tuple[str, ...], looked: Looked
) -> Iterator[Study | Refusal]:
    plain = objects = 0
    with Groups(start) as groups:
        for objects, (source, folder, told) in enumerate(_told(sources_in(start), tags), 1):
            looked(objects, plain + groups.found)
            if isinstance(told, Study):
                plain += 1
                yield replace(told, question=question)
            elif isinstance(told, ImageError):
                id = _place_id(source)
                if told.reason in NO_LOSS:
                    yield Refusal(id, told.reason, told.message)
                else:
                    groups.stray(folder, id, told)
            else:
                key = keyed("study", told["study"]) if told["study"] else _place_id(source)
                problem = groups.add(key, source, folder, told)
                if problem is not None:
                    yield Refusal(
                        _place_id(source),
                        problem.reason,
                        problem.message,
                        told["kind"],
                        told["syntax"],
                        None if problem.reason in NO_LOSS else key,
                    )
        looked(objects, plain + groups.found)
        for id, problem, study in groups.strays():
            yield Refusal(id, problem.reason, problem.message, study=study)
        yield from groups.studies(question)


def places_of(start: Path, id: str) -> list[str]:
    """Where a study or an object with an id lies: files, members of an archive after a ``:``.

    For whoever has the files: the names are for a screen, not for a log or a record.

    Args:
        id: of a :class:`~curbside.study.Study` or a :class:`Refusal`.

    Returns:
        Each file once, in order; empty where nothing below ``start`` has the id.

    Raises:
        As :func:`studies_in`.
    """
    # what is named by where it lies needs no file to be opened
    for source, _, _ in sources_in(start):
        if _place_id(source) == id:
            return [_shown(source)]
    for found in studies_in(start):
        if isinstance(found, Study) and found.id == id:
            sources = (i.source for s in found.series for i in s.instances)
            return list(dict.fromkeys(_shown(s) for s in sources if isinstance(s, Path | Member)))
    return []


def count_in(start: Path) -> int:
    """About how many objects there are: archives are told by their names, and no file is opened."""
    count = 0
    for file, _, problem in _files(start):
        count += 1
        # a pipe by that name would never end
        if problem is None and file.suffix.lower() == ".zip" and file.is_file():
            with suppress(ImageError):
                count += sum(1 for _ in members_of(file)) - 1
    return count


def sources_in(start: Path | bytes) -> Iterator[Found]:
    """Every file with the folder that it lies in, archives opened (one level), links to folders
    not followed.  An archive or folder that cannot be opened comes with the reason.
    """
    if isinstance(start, bytes):
        yield from _opened(start, "")
        return
    for file, folder, problem in _files(start):
        if problem is None:
            yield from _opened(file, folder)
        else:
            yield file, folder, problem


def _files(start: Path) -> Iterator[tuple[Path, str, ImageError | None]]:
    """A file, or those in a folder and below it in order; folders that cannot be read."""
    if not start.is_dir():
        yield start, str(start.parent), None
        return
    #: folders that are open, the innermost last, each with those in it that are still to come
    within: list[tuple[str, Iterator[str]]] = [("", iter((str(start),)))]
    while within:
        outer, below = within[-1]
        folder = outer
        try:
            inner = next(below, None)
            if inner is None:
                within.pop()
                continue
            folder = inner
            for name in _names(folder, folders=False):
                if not name.startswith(".") and name not in ("Thumbs.db", "desktop.ini"):
                    yield Path(folder, name), folder, None
            within.append((folder, _below(folder)))
        except ImageError as e:
            yield Path(folder), str(start), e


def _below(folder: str) -> Iterator[str]:
    for name in _names(folder, folders=True):
        if not name.startswith((".", "__MACOSX")):
            yield str(Path(folder, name))


def _names(folder: str, *, folders: bool) -> Iterator[str]:
    """Names of a folder's files, or of the folders in it (no links to such), in order.

    From :data:`_LISTED` of them on they are sorted on disk: none of them is in memory for long.

    Raises:
        ImageError: the folder cannot be read.
        StorageError: there is no room for temporary files.
    """
    names: list[bytes] = []
    with ExitStack() as closing:
        held: Scratch | None = None
        for name in _unsorted(folder, folders=folders):
            names.append(name)
            if len(names) == _LISTED:
                held = held or closing.enter_context(Scratch(_NAMES))
                held.run_many("INSERT OR IGNORE INTO names VALUES (?)", ((n,) for n in names))
                names.clear()
        if held is None:
            # a set, since a folder that changes while it is listed may name a file twice
            yield from map(os.fsdecode, sorted(set(names)))
            return
        held.run_many("INSERT OR IGNORE INTO names VALUES (?)", ((n,) for n in names))
        names.clear()
        for (name,) in held.rows("SELECT name FROM names ORDER BY name"):
            yield os.fsdecode(name)


def _unsorted(folder: str, *, folders: bool) -> Iterator[bytes]:
    """As bytes, since a file's name need not be text."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_folder(entry, links=not folders) == folders:
                    yield os.fsencode(entry.name)
    except OSError as e:
        raise ImageError("unreadable", f"the folder cannot be read ({e.strerror})") from None


def _is_folder(entry: os.DirEntry[str], *, links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:
        return False


def _opened(source: Path | bytes, folder: str) -> Iterator[Found]:
    try:
        if not is_zip(_prefix(source)):
            yield source, folder, None
            return
        for member in members_of(source):
            yield member, f"{folder}\0{member.name.rpartition('/')[0]}", None
    except ImageError as e:
        yield source, folder, e


def look_at(source: Source, tags: Sequence[str]) -> dict[str, Any] | Study:
    """The fields of a DICOM object's header, or the study that a plain image is.

    Raises:
        ImageError: it is neither, or its header cannot be read.
    """
    prefix = _prefix(source)
    if not prefix:
        raise ImageError("empty", "the file is empty (0 bytes)")
    if is_zip(prefix):
        raise ImageError("wrong_type", "an archive within an archive is not opened")
    whole = source.read(MAX_BYTES) if isinstance(source, Member) else source
    if is_dicom(prefix):
        return decoding.header(whole, tags)
    check_image_header(whole)
    return Study(_place_id(source), (Series((Instance(source),)),))


def _told(sources: Iterable[Found], tags: Sequence[str]) -> Iterator[tuple[Source, str, Told]]:
    """Each source with what it says of itself, in order; a few are looked at at a time."""

    def look(source: Source, problem: ImageError | None) -> Told:
        try:
            return problem or look_at(source, tags)
        except ImageError as e:
            return e

    ahead: deque[tuple[Source, str, Future[Told]]] = deque()
    with ThreadPoolExecutor(decoding.WORKERS) as threads:
        for source, folder, problem in sources:
            ahead.append((source, folder, threads.submit(look, source, problem)))
            if len(ahead) > _AHEAD:
                source, folder, told = ahead.popleft()
                yield source, folder, told.result()
        for source, folder, told in ahead:
            yield source, folder, told.result()


def _prefix(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:PREFIX]
    if isinstance(source, Member):
        return source.prefix(PREFIX)
    try:
        if not source.exists():
            raise ImageError("missing", "there is no such file")
        # pipes and devices would never end
        if not source.is_file():
            raise ImageError("wrong_type", "not a regular file")
        with source.open("rb") as f:
            return f.read(PREFIX)
    except OSError as e:
        raise ImageError("unreadable", f"the file cannot be read ({e.strerror})") from None


def _place_id(source: Source) -> str:
    return keyed("place", _place(source))


def _shown(source: Source) -> str:
    """What :func:`places_of` says of a file or a member; a search begins at a file or a folder."""
    if isinstance(source, Member):
        return f"{_shown(source.archive)}:{source.name}"
    return source.hex() if isinstance(source, bytes) else str(source)


def _place(source: Source) -> str:
    """Where a source lies; of bytes, what they are."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if isinstance(source, Member):
        return f"{_place(source.archive)}\0{source.name}"
    return str(source.absolute())
