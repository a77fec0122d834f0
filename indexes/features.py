"""Features of studies, each image decoded and encoded once: memory, disk, then the encoder.

Agents, the index and the router share one :class:`FeatureSource`, so the trunk runs once
a case however many of them look at it.  Knows no question, no label and no role.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.errors import ImageError, InternalError, StorageError
from curbside.indexes.encoder import ImageEncoder
from curbside.indexes.feature_cache import SEGMENT_ROWS, FeatureCache, Row
from curbside.progress import bar
from curbside.study import Instance, Study

__all__ = ["FeatureSource", "Features", "central_instance"]

_BATCH = 32
_DECODERS = 2
#: Images of a study that are tried before it counts as unusable.
_CANDIDATES = 5
#: New images from which the work takes over two seconds and a bar is shown.
_SHOW_FROM = 200

Prepared = NDArray[np.uint8] | ImageError
#: Positions, or a mask of as many rows as there are.
Rows = Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]


@dataclass(frozen=True)
class Features:
    """Features of n studies, in the order asked.

    Args:
        pooled: float32 (n, d), raw; zeros where the image failed.
        digests: SHA-256 of each image's bytes, ``""`` where it failed.
        failures: row to what was wrong with its image.
        passed_over: row to the reasons why other images of the study were tried before the one
            that stands for it.
        fingerprint: the encoder's.
        grids: one float16 (c, h, w) array a row, usually a view of a file, None where the
            image failed; None altogether where no grids were asked for or exist.
    """

    pooled: NDArray[np.float32]
    digests: tuple[str, ...]
    failures: Mapping[int, ImageError]
    fingerprint: str
    grids: tuple[NDArray[np.float16] | None, ...] | None = field(default=None, repr=False)
    grid_shape: tuple[int, int, int] | None = None
    passed_over: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """bool (n,), False where the image failed."""
        ok = np.ones(len(self), bool)
        ok[list(self.failures)] = False
        return ok

    @property
    def grid(self) -> NDArray[np.float16] | None:
        """All grids at once, float16 (n, c, h, w); None where there are none.

        44 KB a case in memory: for many cases gather some at a time by :meth:`grid_rows`.
        """
        return None if self.grids is None else self.grid_rows()

    def grid_rows(self, rows: Rows | None = None) -> NDArray[np.float16]:
        """Grids of some rows (default: all), float16 (len(rows), c, h, w); zeros on failure.

        Raises:
            InternalError: the features were asked for without grids.
        """
        if self.grids is None or self.grid_shape is None:
            raise InternalError("these features carry no grids; ask for them with grid=True")
        picked = range(len(self)) if rows is None else _positions(rows)
        out = np.zeros((len(picked), *self.grid_shape), np.float16)
        for i, r in enumerate(picked):
            values = self.grids[r]
            if values is not None:
                out[i] = values
        return out

    def take(self, rows: Rows) -> Features:
        """The same for some rows, in the order given."""
        picked = _positions(rows)
        failures = {i: self.failures[r] for i, r in enumerate(picked) if r in self.failures}
        return Features(
            self.pooled[picked],
            tuple(self.digests[r] for r in picked),
            MappingProxyType(failures),
            self.fingerprint,
            None if self.grids is None else tuple(self.grids[r] for r in picked),
            self.grid_shape,
            {i: self.passed_over[r] for i, r in enumerate(picked) if r in self.passed_over},
        )


def central_instance(study: Study) -> Instance:
    """The image that stands for a study: the middle one of its longest series.

    Raises:
        ImageError: the study has no image.
    """
    return next(standing_for(study))


def standing_for(study: Study) -> Iterator[Instance]:
    """Images that may stand for a study, the best first: outwards from the middle of its
    longest series, then of the others.

    Raises:
        ImageError: the study has no image.
    """
    longest_first = sorted(study.series, key=lambda s: -len(s.instances))
    if not longest_first or not longest_first[0].instances:
        raise ImageError("missing", "the study has no image")
    for series in longest_first:
        middle = len(series.instances) // 2
        order = sorted(range(len(series.instances)), key=lambda i: abs(i - middle))
        for i in order:
            yield series.instances[i]


class FeatureSource:
    """Features of studies: from memory, else from disk, else from the encoder.

    Safe to call from several threads; equal images are encoded once, whoever asks.

    Args:
        encoder: see :class:`~curbside.indexes.encoder.ImageEncoder`.
        folder: where features are kept between runs, or None for memory only (then the
            result of a call holds its grids in memory, 44 KB a case).
        memory: images whose features are kept in memory.  Default: five blocks of a batch, the
            three under way and the two before them, which were looked at later than those that
            wait; with four, a block that waits long is read back from disk.
    """

    def __init__(
        self, encoder: ImageEncoder, *, folder: Path | None = None, memory: int = 320
    ) -> None:
        self.encoder, self.folder = encoder, folder
        self._memory = memory
        self._recent: OrderedDict[str, Row] = OrderedDict()
        self._unsaved: dict[str, Row] = {}
        self._cache = (
            None
            if folder is None
            else FeatureCache(folder, encoder.fingerprint, encoder.dimensions, encoder.grid_shape)
        )
        self._lock = RLock()
        self._encoding = Lock()

    @property
    def fingerprint(self) -> str:
        """The encoder's."""
        return self.encoder.fingerprint

    @property
    def dimensions(self) -> int:
        """Length of a pooled feature vector."""
        return self.encoder.dimensions

    def of(self, studies: Sequence[Study], *, label: str = "", grid: bool = True) -> Features:
        """Features of studies, one row each; an image that cannot be used never raises.

        Args:
            label: what the progress bar of a long call says; no bar without it.
            grid: whether grids are wanted (False reads a tenth as much from disk).

        Raises:
            StorageError: the cache cannot be written or read; rows stored earlier are safe.
        """
        grid = grid and self.encoder.grid_shape is not None
        n = len(studies)
        pooled = np.zeros((n, self.encoder.dimensions), np.float32)
        failures: dict[int, ImageError] = {}
        grids: list[NDArray[np.float16] | None] = [None] * n
        digests = [""] * n
        tried: dict[int, list[str]] = {}
        open_ = [(i, s, _candidates(s)) for i, s in enumerate(studies)]
        while open_:
            named = self._name([next(c) for _, _, c in open_])
            rows, failed = self._rows(named, label=label, grid=grid)
            again = []
            for (i, study, candidates), name in zip(open_, named, strict=True):
                problem = name if isinstance(name, ImageError) else failed.get(name[1])
                if problem is None:
                    assert not isinstance(name, ImageError)
                    digests[i] = name[1]
                    pooled[i], grids[i] = rows[name[1]]
                    failures.pop(i, None)
                    continue
                # what the first choice said of itself is what a study without any ends with
                failures.setdefault(i, problem)
                tried.setdefault(i, []).append(problem.reason)
                # one that was stopped has cost what five others may
                more = len(tried[i]) < min(_CANDIDATES, len(study.instances))
                if more and problem.reason != "timeout":
                    again.append((i, study, candidates))
            open_ = again
        return Features(
            pooled,
            tuple(digests),
            MappingProxyType(failures),
            self.encoder.fingerprint,
            tuple(grids) if grid else None,
            self.encoder.grid_shape if grid else None,
            {i: tuple(reasons) for i, reasons in tried.items() if i not in failures},
        )

    def _rows(
        self, named: Sequence[tuple[Instance, str] | ImageError], *, label: str, grid: bool
    ) -> tuple[dict[str, Row], dict[str, ImageError]]:
        """Rows of named images by digest, and what was wrong with the others."""
        sources: dict[str, Instance] = {}
        for name in named:
            if not isinstance(name, ImageError):
                sources.setdefault(name[1], name[0])
        rows = self._known(sources, grid=grid)
        todo = [(d, i) for d, i in sources.items() if d not in rows]
        failed = self._encode(todo, rows, label=label, grid=grid) if todo else {}
        return rows, failed

    def kept(self, digests: Sequence[str]) -> NDArray[np.float32]:
        """Raw pooled features of images that were encoded before, float32 (n, d).

        A row of NaN where none are kept; nothing is encoded.
        """
        rows = self._known(dict.fromkeys(digests), grid=False)
        out = np.full((len(digests), self.encoder.dimensions), np.nan, np.float32)
        for i, digest in enumerate(digests):
            if digest in rows:
                out[i] = rows[digest].pooled
        return out

    def _name(
        self, instances: Sequence[Instance | ImageError]
    ) -> list[tuple[Instance, str] | ImageError]:
        """Each image with its digest, or what is wrong with it."""

        def one(instance: Instance | ImageError) -> tuple[Instance, str] | ImageError:
            if isinstance(instance, ImageError):
                return instance
            try:
                return instance, instance.digest()
            except ImageError as e:
                return e

        if len(instances) <= _BATCH:
            return [one(i) for i in instances]
        with ThreadPoolExecutor(_DECODERS) as pool:
            return list(pool.map(one, instances))

    def _known(self, digests: Iterable[str], *, grid: bool) -> dict[str, Row]:
        """Rows that are in memory or on disk."""
        known: dict[str, Row] = {}
        with self._lock:
            refreshed = self._cache is None
            for digest in digests:
                row = self._find(digest, grid=grid)
                if row is None and self._cache is not None and not refreshed:
                    refreshed = True
                    self._cache.refresh()
                    row = self._find(digest, grid=grid)
                if row is not None:
                    known[digest] = row
        return known

    def _find(self, digest: str, *, grid: bool) -> Row | None:
        if digest in self._recent:
            self._recent.move_to_end(digest)
            return self._recent[digest]
        if digest in self._unsaved:
            return self._unsaved[digest]
        return None if self._cache is None else self._cache.get(digest, grid=grid)

    def _encode(
        self, todo: list[tuple[str, Instance]], rows: dict[str, Row], *, label: str, grid: bool
    ) -> dict[str, ImageError]:
        """Fill ``rows`` for images not known yet; returns those that cannot be used."""
        failed: dict[str, ImageError] = {}
        show = bool(label) and len(todo) >= _SHOW_FROM
        with bar(label, len(todo)) if show else nullcontext(_no_bar) as advance:
            for batch in self._prepared(todo):
                failed |= {d: image for d, image in batch if isinstance(image, ImageError)}
                good = [(d, image) for d, image in batch if not isinstance(image, ImageError)]
                fresh = self._encode_batch(good)
                if self._cache is None:
                    rows |= fresh  # memory keeps only the latest; the caller needs them all
                else:
                    self._save(SEGMENT_ROWS)
                advance(len(batch))
        self._save(1)
        wanted = [d for d, _ in todo if d not in failed and d not in rows]
        rows |= self._known(wanted, grid=grid)
        if not rows.keys() >= set(wanted):
            raise StorageError(
                "the feature cache does not give back what was just written to it",
                hint="check the disk, or set CURBSIDE_HOME to another one and run it again",
            )
        return failed

    def _prepared(self, todo: list[tuple[str, Instance]]) -> Iterator[list[tuple[str, Prepared]]]:
        """Batches of images decoded and resized, a little ahead of the encoder."""

        def one(digest: str, instance: Instance) -> Prepared:
            try:
                raw = instance.read()
                if instance.digest(raw) != digest:
                    raise ImageError("unreadable", "the image changed while it was being read")
                return self.encoder.prepare(instance.pixels(raw))
            except ImageError as e:
                return e

        if len(todo) == 1:
            yield [(digest, one(digest, instance)) for digest, instance in todo]
            return
        with ThreadPoolExecutor(_DECODERS) as pool:
            ahead: deque[tuple[str, Future[Prepared]]] = deque()
            batch: list[tuple[str, Prepared]] = []
            for digest, instance in todo:
                ahead.append((digest, pool.submit(one, digest, instance)))
                if len(ahead) > 2 * _BATCH:
                    done, future = ahead.popleft()
                    batch.append((done, future.result()))
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
            batch += [(digest, future.result()) for digest, future in ahead]
            for start in range(0, len(batch), _BATCH):
                yield batch[start : start + _BATCH]

    def _encode_batch(self, images: list[tuple[str, NDArray[np.uint8]]]) -> dict[str, Row]:
        with self._encoding:
            # another thread may have encoded some of them since they were looked up
            rows = self._known((d for d, _ in images), grid=True)
            new = [(d, image) for d, image in images if d not in rows]
            if not new:
                return rows
            encoded = self.encoder.encode([image for _, image in new])
            with self._lock:
                for i, (digest, _) in enumerate(new):
                    grid = None if encoded.grid is None else encoded.grid[i].copy()
                    rows[digest] = self._recent[digest] = Row(encoded.pooled[i].copy(), grid)
                    if self._cache is not None:
                        self._unsaved[digest] = rows[digest]
                while len(self._recent) > self._memory:
                    self._recent.popitem(last=False)
        return rows

    def _save(self, at_least: int) -> None:
        """Write what is not on disk yet, if it is that many rows; on failure it is kept."""
        with self._lock:
            while self._cache is not None and len(self._unsaved) >= at_least:
                digests = list(self._unsaved)[:SEGMENT_ROWS]
                self._cache.put(digests, [self._unsaved[d] for d in digests])
                for digest in digests:
                    del self._unsaved[digest]


def _candidates(study: Study) -> Iterator[Instance | ImageError]:
    """What may stand for a study; where it has no image, that alone."""
    try:
        yield from standing_for(study)
    except ImageError as e:
        yield e


def _positions(rows: Rows) -> list[int]:
    where = np.asarray(rows)
    if where.dtype == np.bool_:
        where = np.flatnonzero(where)
    return [int(r) for r in where]


def _no_bar(_: int) -> None:
    return None
