"""Features on disk, named by the content they came from: append-only segment files.

One folder for each encoder fingerprint; in it, one safetensors file for each segment of at
most a few hundred images:

- tensor ``pooled``, float32 (n, d), and ``grid``, float16 (n, c, h, w), where there is one;
- metadata ``format``, ``digests`` (a JSON list of n SHA-256 of image bytes), and
  ``pooled_sha256`` and ``grid_sha256`` (each over the digests and then the tensor's bytes).

A segment is written under a temporary name, flushed and renamed, so it is there whole or
not at all, and what is there is never changed.  Reading is by memory map, and few segments
stay mapped.  The checksum of
a tensor is verified when this process first uses it (25 MB take some 15 ms); a segment that
fails is deleted with a warning, and its images are encoded again.  Not thread-safe by
itself: :class:`curbside.indexes.features.FeatureSource` holds a lock around it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curbside.errors import StorageError
from curbside.indexes.digest_rows import DigestRows, check_digests
from curbside.storage import write_bytes

__all__ = ["FORMAT", "SEGMENT_ROWS", "FeatureCache", "Row"]

#: Raise when the layout of a segment changes; older segments are then not looked at.
FORMAT = 1
#: Most rows of one segment: small enough that looking up one image verifies little.
SEGMENT_ROWS = 512
#: From this many segments with few rows, the smallest are merged.
_MERGE_FROM = 32
_FEW_ROWS = 64
#: Bytes of tensors that stay mapped: two of the largest segments, or twenty of a batch's.
_MAPPED = 64 * 2**20
#: Seconds after which a temporary file is taken for what a killed process left.
_LEFTOVER_AGE = 3600.0

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """Features of one image: float32 (d,), and float16 (c, h, w) or None."""

    pooled: NDArray[np.float32]
    grid: NDArray[np.float16] | None


class _Damaged(Exception):
    """A segment is not what its header says; never leaves this module."""


class _Header(NamedTuple):
    """What a segment says of itself: digests of its rows, and where each tensor lies (dtype,
    shape, offset, checksum)."""

    digests: tuple[str, ...]
    where: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, str]]


class _Segment:
    """One file, checked against its size when it is opened; tensors are mapped on demand.

    Its header is not kept but read again with the first tensor: a long batch has thousands open.
    """

    def __init__(self, path: Path, dimensions: int, grid_shape: tuple[int, ...] | None) -> None:
        self.path = path
        self._dimensions, self._grid_shape = dimensions, grid_shape
        self._where: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, str]] = {}
        self._checked: set[str] = set()
        self._mapped: dict[str, NDArray[Any]] = {}
        self.rows = 0

    def header(self) -> _Header:
        """Read and check the header.  Raises _Damaged, OSError."""
        try:
            with self.path.open("rb") as f:
                length = int.from_bytes(f.read(8), "little")
                size = self.path.stat().st_size
                if not 2 <= length <= size - 8:
                    raise _Damaged("it is cut short")
                header: dict[str, Any] = json.loads(f.read(length))
            metadata = header["__metadata__"]
            digests: tuple[str, ...] = tuple(json.loads(metadata["digests"]))
            check_digests(digests)
            self.rows = n = len(digests)
            shapes: dict[str, tuple[str, np.dtype[Any], tuple[int, ...]]] = {
                "pooled": ("F32", np.dtype("<f4"), (n, self._dimensions))
            }
            if self._grid_shape is not None:
                shapes["grid"] = ("F16", np.dtype("<f2"), (n, *self._grid_shape))
            where = {}
            for name, (code, dtype, shape) in shapes.items():
                entry = header[name]
                start, end = entry["data_offsets"]
                if entry["dtype"] != code or tuple(entry["shape"]) != shape:
                    raise _Damaged(f"{name} is {entry['dtype']} {entry['shape']}")
                if end - start != dtype.itemsize * int(np.prod(shape)) or 8 + length + end > size:
                    raise _Damaged("it is cut short")
                where[name] = (dtype, shape, 8 + length + start, metadata[f"{name}_sha256"])
            return _Header(digests, where)
        except (ValueError, KeyError, TypeError) as e:
            raise _Damaged(f"its header cannot be read ({type(e).__name__})") from None

    def tensor(self, name: str) -> NDArray[Any]:
        """The mapped tensor, its checksum verified on the first call.  Raises _Damaged, OSError."""
        if name not in self._mapped:
            digests: tuple[str, ...] = ()
            if name not in self._checked:
                digests, self._where = self.header()
            dtype, shape, offset, checksum = self._where[name]
            try:
                mapped = np.memmap(self.path, dtype, "r", offset, shape)
            except ValueError as e:  # the file has become shorter since its header was read
                raise _Damaged("it is cut short") from e
            if name not in self._checked and _checksum(digests, mapped) != checksum:
                raise _Damaged(f"the checksum of {name} differs")
            self._checked.add(name)
            self._mapped[name] = mapped
        return self._mapped[name]

    def unmap(self, name: str) -> None:
        """Let go of a mapped tensor; rows of it that others hold stay."""
        self._mapped.pop(name, None)


class FeatureCache:
    """Rows by content digest, under ``folder/<fingerprint>``.

    Args:
        folder: where all encoders' segments are; made on the first write.
        fingerprint: the encoder's.
        dimensions, grid_shape: what its rows look like.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        dimensions: int,
        grid_shape: tuple[int, int, int] | None,
    ) -> None:
        self.folder = folder / f"features-{FORMAT}-{fingerprint[:32]}"
        self._dimensions = dimensions
        self._grid_shape = grid_shape
        #: number → segment, in the order taken up
        self._segments: dict[int, _Segment] = {}
        self._rows = DigestRows()
        self._next = 0
        #: (segment, tensor) → bytes, of those that are mapped, the latest used last
        self._mapped: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._remove_leftovers()
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Take up segments that another process has written.  Raises StorageError."""
        try:
            found = {p.name: p for p in self.folder.glob("[0-9a-f]*.safetensors")}
        except OSError as e:
            raise self._unreadable(e) from e
        known = {s.path.name for s in self._segments.values()}
        self._open([found[name] for name in sorted(found.keys() - known)])

    def get(self, digest: str, *, grid: bool) -> Row | None:
        """The row of an image, or None.  Without ``grid`` only the pooled part is touched.

        Raises:
            StorageError: the disk fails; a damaged segment is dropped instead.
        """
        while (place := self._rows.find(digest)) is not None:
            number, i = place
            segment = self._segments[number]
            try:
                pooled = self._tensor(number, "pooled")[i]
                if not grid or self._grid_shape is None:
                    return Row(pooled, None)
                return Row(pooled, self._tensor(number, "grid")[i])
            except FileNotFoundError:  # another process merged it into a larger one
                self._drop(number)
                self.refresh()
            except _Damaged as e:
                self._delete(segment.path, e)
                self._drop(number)
            except OSError as e:
                raise self._unreadable(e) from e
        return None

    def _tensor(self, number: int, name: str) -> NDArray[Any]:
        """A segment's tensor; those that were not used for long are let go.

        What is mapped counts as this process's memory, and a batch of 10^5 cases whose features
        are kept looks at 4 GB of them.
        """
        tensor = self._segments[number].tensor(name)
        self._mapped[number, name] = tensor.nbytes
        self._mapped.move_to_end((number, name))
        while len(self._mapped) > 1 and sum(self._mapped.values()) > _MAPPED:
            (old, part), _ = self._mapped.popitem(last=False)
            if old in self._segments:
                self._segments[old].unmap(part)
        return tensor

    def put(self, digests: Sequence[str], rows: Sequence[Row]) -> None:
        """Write one segment.

        Raises:
            StorageError: the disk is full or read-only; nothing stored earlier is touched.
        """
        self._write(tuple(digests), rows)
        few = [n for n, s in self._segments.items() if s.rows < _FEW_ROWS]
        if len(few) >= _MERGE_FROM:
            few.sort(key=lambda n: self._segments[n].rows)
            total = np.cumsum([self._segments[n].rows for n in few])
            self._merge(few[: int(np.searchsorted(total, SEGMENT_ROWS, side="right"))])

    def _write(self, digests: tuple[str, ...], rows: Sequence[Row]) -> None:
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {"pooled": np.stack([r.pooled for r in rows])}
        if self._grid_shape is not None:
            grids = [r.grid for r in rows if r.grid is not None]
            tensors["grid"] = np.stack(grids)
        metadata = {"format": str(FORMAT), "digests": json.dumps(digests)}
        for name, values in tensors.items():
            metadata[f"{name}_sha256"] = _checksum(digests, values)
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        write_bytes(path, save(tensors, metadata))
        self._open([path])

    def _merge(self, few: list[int]) -> None:
        """One segment for many small ones; a crash half-way leaves rows twice, never none."""
        kept: dict[str, Row] = {}
        for digest in [d for n in few for d in self._rows.of(n)]:
            row = self.get(digest, grid=True)
            if row is not None:
                kept[digest] = row
        if kept:
            self._write(tuple(kept), list(kept.values()))
        for number in few:
            # one that was found damaged on the way is gone
            segment = self._segments.get(number)
            if segment is not None:
                segment.path.unlink(missing_ok=True)
                self._drop(number)

    def _open(self, paths: Sequence[Path]) -> None:
        new: list[tuple[int, tuple[str, ...]]] = []
        for path in paths:
            segment = _Segment(path, self._dimensions, self._grid_shape)
            try:
                digests = segment.header().digests
            except FileNotFoundError:
                continue  # merged away by another process since it was listed
            except _Damaged as e:
                self._delete(path, e)
                continue
            except OSError as e:
                raise self._unreadable(e) from e
            self._segments[self._next] = segment
            new.append((self._next, digests))
            self._next += 1
        if new:
            self._rows.add(new)

    def _drop(self, number: int) -> None:
        if self._segments.pop(number, None) is not None:
            self._rows.drop(number)

    def _delete(self, path: Path, why: _Damaged) -> None:
        _log.warning(
            "feature cache: %s is damaged (%s) and deleted; its images are encoded again",
            path.name,
            why,
        )
        with suppress(OSError):  # on a read-only disk it stays, and is refused every time
            path.unlink()

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(".*.safetensors.*"):
            with suppress(OSError):  # another process may be quicker
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                    path.unlink()

    def _unreadable(self, e: Exception) -> StorageError:
        return StorageError(
            f"cannot read the feature cache {self.folder}: {e}",
            hint=f"make it readable, or delete {self.folder} and run the command again",
        )


def _checksum(digests: Sequence[str], values: NDArray[Any]) -> str:
    digest = hashlib.sha256(json.dumps(list(digests)).encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
