"""Features on disk, named by the content they came from: append-only segment files.

One folder for each encoder fingerprint; in it, one safetensors file for each segment of at
most a few hundred images:

- tensor ``pooled``, float32 (n, d), and ``grid``, float16 (n, c, h, w), where there is one;
- metadata ``format``, ``digests`` (a JSON list of n SHA-256 of image bytes), and
  ``pooled_sha256`` and ``grid_sha256`` (each over the digests and then the tensor's bytes).

A segment is written under a temporary name, flushed and renamed, so it is there whole or
not at all, and what is there is never changed.  Reading is by memory map.  The checksum of
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curbside.errors import StorageError
from curbside.storage import write_bytes

__all__ = ["FORMAT", "SEGMENT_ROWS", "FeatureCache", "Row"]

#: Raise when the layout of a segment changes; older segments are then not looked at.
FORMAT = 1
#: Most rows of one segment: small enough that looking up one image verifies little.
SEGMENT_ROWS = 512
#: From this many segments with few rows, the smallest are merged.
_MERGE_FROM = 32
_FEW_ROWS = 64
#: Seconds after which a temporary file is taken for what a killed process left.
_LEFTOVER_AGE = 3600.0

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """Features of one image: float32 (d,), and float16 (c, h, w) or None."""

    pooled: NDArray[np.float32]
    grid: NDArray[np.float16] | None


class _Damaged(Exception):
    """A segment is not what its header says; never leaves this module."""


class _Segment:
    """One file: header read and checked against the file's size, tensors mapped on demand."""

    def __init__(self, path: Path, dimensions: int, grid_shape: tuple[int, ...] | None) -> None:
        self.path = path
        self._checked: dict[str, NDArray[Any]] = {}
        try:
            with path.open("rb") as f:
                length = int.from_bytes(f.read(8), "little")
                size = path.stat().st_size
                if not 2 <= length <= size - 8:
                    raise _Damaged("it is cut short")
                header: dict[str, Any] = json.loads(f.read(length))
            metadata = header["__metadata__"]
            self.digests: tuple[str, ...] = tuple(json.loads(metadata["digests"]))
            n = len(self.digests)
            shapes: dict[str, tuple[str, np.dtype[Any], tuple[int, ...]]] = {
                "pooled": ("F32", np.dtype("<f4"), (n, dimensions))
            }
            if grid_shape is not None:
                shapes["grid"] = ("F16", np.dtype("<f2"), (n, *grid_shape))
            self._where: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, str]] = {}
            for name, (code, dtype, shape) in shapes.items():
                entry = header[name]
                start, end = entry["data_offsets"]
                if entry["dtype"] != code or tuple(entry["shape"]) != shape:
                    raise _Damaged(f"{name} is {entry['dtype']} {entry['shape']}")
                if end - start != dtype.itemsize * int(np.prod(shape)) or 8 + length + end > size:
                    raise _Damaged("it is cut short")
                self._where[name] = (dtype, shape, 8 + length + start, metadata[f"{name}_sha256"])
        except (ValueError, KeyError, TypeError) as e:
            raise _Damaged(f"its header cannot be read ({type(e).__name__})") from None

    def tensor(self, name: str) -> NDArray[Any]:
        """The mapped tensor, its checksum verified on the first call."""
        if name not in self._checked:
            dtype, shape, offset, checksum = self._where[name]
            try:
                mapped = np.memmap(self.path, dtype, "r", offset, shape)
            except ValueError as e:  # the file has become shorter since its header was read
                raise _Damaged("it is cut short") from e
            if _checksum(self.digests, mapped) != checksum:
                raise _Damaged(f"the checksum of {name} differs")
            self._checked[name] = mapped
        return self._checked[name]


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
        self._segments: dict[str, _Segment] = {}
        self._rows: dict[str, tuple[_Segment, int]] = {}
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
        for name in sorted(found.keys() - self._segments.keys()):
            self._open(found[name])

    def get(self, digest: str, *, grid: bool) -> Row | None:
        """The row of an image, or None.  Without ``grid`` only the pooled part is touched.

        Raises:
            StorageError: the disk fails; a damaged segment is dropped instead.
        """
        while digest in self._rows:
            segment, i = self._rows[digest]
            try:
                pooled = segment.tensor("pooled")[i]
                if not grid or self._grid_shape is None:
                    return Row(pooled, None)
                return Row(pooled, segment.tensor("grid")[i])
            except FileNotFoundError:  # another process merged it into a larger one
                self._drop(segment)
                self.refresh()
            except _Damaged as e:
                self._delete(segment.path, e)
                self._drop(segment)
            except OSError as e:
                raise self._unreadable(e) from e
        return None

    def put(self, digests: Sequence[str], rows: Sequence[Row]) -> None:
        """Write one segment.

        Raises:
            StorageError: the disk is full or read-only; nothing stored earlier is touched.
        """
        self._write(tuple(digests), rows)
        few = [s for s in self._segments.values() if len(s.digests) < _FEW_ROWS]
        if len(few) >= _MERGE_FROM:
            few.sort(key=lambda s: len(s.digests))
            total = np.cumsum([len(s.digests) for s in few])
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
        self._open(path)

    def _merge(self, few: list[_Segment]) -> None:
        """One segment for many small ones; a crash half-way leaves rows twice, never none."""
        kept: dict[str, Row] = {}
        for digest in [d for s in few for d in s.digests]:
            row = self.get(digest, grid=True)
            if row is not None:
                kept[digest] = row
        if kept:
            self._write(tuple(kept), list(kept.values()))
        for segment in few:
            segment.path.unlink(missing_ok=True)
            self._drop(segment)

    def _open(self, path: Path) -> None:
        try:
            segment = _Segment(path, self._dimensions, self._grid_shape)
        except FileNotFoundError:
            return  # merged away by another process since it was listed
        except _Damaged as e:
            self._delete(path, e)
            return
        except OSError as e:
            raise self._unreadable(e) from e
        self._segments[path.name] = segment
        self._rows |= {d: (segment, i) for i, d in enumerate(segment.digests)}

    def _drop(self, segment: _Segment) -> None:
        self._segments.pop(segment.path.name, None)
        self._rows = {d: (s, i) for s in self._segments.values() for i, d in enumerate(s.digests)}

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
