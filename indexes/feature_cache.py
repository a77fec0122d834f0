"""Features on disk, named by the content they came from: append-only segment files.

One folder for each encoder fingerprint; in it, one safetensors file for each segment of at
most a few hundred images:

- tensor ``pooled``, float32 (n, d), and ``grid``, float16 (n, c, h, w), where there is one;
- metadata ``format``, ``digests`` (a JSON list of n SHA-256 of image bytes), and
  ``pooled_sha256`` and ``grid_sha256`` (each over the digests and then the tensor's bytes).

A segment is written under a temporary name, flushed and renamed, so it is there whole or
not at all, and what is there is never changed.  Reading is by memory map, and few segments
stay mapped; which file holds what is in :class:`~curbside.indexes.digest_rows.DigestRows`.
The checksum of a tensor is verified when this process first uses it (25 MB take some 15 ms); a
segment that fails is deleted with a warning, and its images are encoded again.  Not thread-safe
by itself: :class:`curbside.indexes.features.FeatureSource` holds a lock around it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
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
#: ASCII: a name that is no text is none of ours.
_SEGMENT = re.compile(r"[0-9a-f][!-~]*\.safetensors")
#: Names of segments that are in memory at a time, before they are taken up.
_LISTED = 1024
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


class _Layout(NamedTuple):
    """What the rows of an encoder look like."""

    dimensions: int
    grid_shape: tuple[int, ...] | None

    def header(self, path: Path) -> _Header:
        """Read a segment's header and check it against the file's size.

        Raises _Damaged, OSError.
        """
        try:
            with path.open("rb") as f:
                length = int.from_bytes(f.read(8), "little")
                size = path.stat().st_size
                if not 2 <= length <= size - 8:
                    raise _Damaged("it is cut short")
                header: dict[str, Any] = json.loads(f.read(length))
            metadata = header["__metadata__"]
            digests: tuple[str, ...] = tuple(json.loads(metadata["digests"]))
            n = len(check_digests(digests))
            shapes: dict[str, tuple[str, np.dtype[Any], tuple[int, ...]]] = {
                "pooled": ("F32", np.dtype("<f4"), (n, self.dimensions))
            }
            if self.grid_shape is not None:
                shapes["grid"] = ("F16", np.dtype("<f2"), (n, *self.grid_shape))
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

    def tensor(self, path: Path, name: str, *, verify: bool) -> NDArray[Any]:
        """Map a tensor of a segment, with a look at its checksum if wanted.

        Raises _Damaged, OSError.
        """
        digests, where = self.header(path)
        dtype, shape, offset, checksum = where[name]
        try:
            mapped = np.memmap(path, dtype, "r", offset, shape)
        except ValueError as e:  # the file has become shorter since its header was read
            raise _Damaged("it is cut short") from e
        if verify and _checksum(digests, mapped) != checksum:
            raise _Damaged(f"the checksum of {name} differs")
        return mapped


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
        self._layout = _Layout(dimensions, grid_shape)
        self._taken_up = DigestRows()
        #: (segment, tensor) → what is mapped, the latest used last
        self._mapped: OrderedDict[tuple[int, str], NDArray[Any]] = OrderedDict()
        self._remove_leftovers()
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _rows(self) -> DigestRows:
        """What was taken up; nothing, where there was no room for it: the next refresh begins
        anew, so that a disk which was full for a while costs time and no restart."""
        if self._taken_up.failed:
            self._taken_up = DigestRows()
            self._mapped.clear()
        return self._taken_up

    def refresh(self) -> None:
        """Take up segments that another process has written.  Raises StorageError."""
        new: list[str] = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if _SEGMENT.fullmatch(entry.name) and not self._rows.has(entry.name):
                        new.append(entry.name)
                    if len(new) == _LISTED:
                        self._open(new)
                        new = []
        except FileNotFoundError:
            return  # nothing was written yet
        except OSError as e:
            raise self._unreadable(e) from e
        self._open(new)

    def get(self, digest: str, *, grid: bool) -> Row | None:
        """The row of an image, or None.  Without ``grid`` only the pooled part is touched.

        Raises:
            StorageError: the disk fails; a damaged segment is dropped instead.
        """
        while (place := self._rows.find(digest)) is not None:
            number, i = place
            try:
                pooled = self._tensor(number, "pooled")[i]
                if not grid or self._layout.grid_shape is None:
                    return Row(pooled, None)
                return Row(pooled, self._tensor(number, "grid")[i])
            except FileNotFoundError:  # another process merged it into a larger one
                self._drop(number)
                self.refresh()
            except _Damaged as e:
                self._delete(self._path(number), e)
                self._drop(number)
            except OSError as e:
                raise self._unreadable(e) from e
        return None

    def _tensor(self, number: int, name: str) -> NDArray[Any]:
        """A segment's tensor, mapped; those that were not used for long are let go.

        What is mapped counts as this process's memory, and a batch of 10^5 cases whose features
        are kept looks at 4 GB of them.  Raises _Damaged, OSError.
        """
        tensor = self._mapped.get((number, name))
        if tensor is None:
            fresh = not self._rows.verified(number, name)
            tensor = self._layout.tensor(self._path(number), name, verify=fresh)
            self._rows.verify(number, name)
            self._mapped[number, name] = tensor
        self._mapped.move_to_end((number, name))
        while len(self._mapped) > 1 and sum(t.nbytes for t in self._mapped.values()) > _MAPPED:
            self._mapped.popitem(last=False)
        return tensor

    def _path(self, number: int) -> Path:
        return self.folder / self._rows.name(number)

    def put(self, digests: Sequence[str], rows: Sequence[Row]) -> None:
        """Write one segment.

        Raises:
            StorageError: the disk is full or read-only; nothing stored earlier is touched.
        """
        self._write(tuple(digests), rows)
        few = self._rows.small(_FEW_ROWS)
        if len(few) >= _MERGE_FROM:
            total = np.cumsum([rows for _, rows in few])
            fit = int(np.searchsorted(total, SEGMENT_ROWS, side="right"))
            self._merge([number for number, _ in few[:fit]])

    def _write(self, digests: tuple[str, ...], rows: Sequence[Row]) -> None:
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {"pooled": np.stack([r.pooled for r in rows])}
        if self._layout.grid_shape is not None:
            grids = [r.grid for r in rows if r.grid is not None]
            tensors["grid"] = np.stack(grids)
        metadata = {"format": str(FORMAT), "digests": json.dumps(digests)}
        for name, values in tensors.items():
            metadata[f"{name}_sha256"] = _checksum(digests, values)
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        write_bytes(path, save(tensors, metadata))
        self._open([path.name])

    def _merge(self, few: list[int]) -> None:
        """One segment for many small ones; a crash half-way leaves rows twice, never none."""
        kept: dict[str, Row] = {}
        # now, since one that is found damaged on the way is forgotten
        paths = {number: self._path(number) for number in few}
        for digest in [d for n in few for d in self._rows.of(n)]:
            row = self.get(digest, grid=True)
            if row is not None:
                kept[digest] = row
        if kept:
            self._write(tuple(kept), list(kept.values()))
        for number in few:
            paths[number].unlink(missing_ok=True)
            self._drop(number)

    def _open(self, names: Sequence[str]) -> None:
        """Take up segments that are in the folder, by name."""
        # a set, since a folder that changes while it is listed may name a file twice
        for name in sorted(set(names)):
            path = self.folder / name
            try:
                digests = self._layout.header(path).digests
            except FileNotFoundError:
                continue  # merged away by another process since it was listed
            except _Damaged as e:
                self._delete(path, e)
                continue
            except OSError as e:
                raise self._unreadable(e) from e
            self._rows.add(name, digests)

    def _drop(self, number: int) -> None:
        self._rows.drop(number)
        for name in ("pooled", "grid"):
            self._mapped.pop((number, name), None)

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
