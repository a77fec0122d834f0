"""Uploaded files on their way to the worker: written under names of our own, private.

What a file was called may name a patient, so only its folder structure's order is kept:
``00000``, ``00001`` and so on, with the ending where it is a known one.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from curbside.errors import StorageError

__all__ = ["Uploaded", "keep"]

_ENDINGS = frozenset((".dcm", ".zip", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))
_HOLDS = 64 * 2**10


class Uploaded(Protocol):
    """What Streamlit's uploader gives: a named stream."""

    name: str

    def read(self, size: int = -1, /) -> bytes: ...


def keep(files: Iterable[Uploaded], home: Path) -> tuple[str, int]:
    """Write uploads to a folder of their own below ``home/uploads``.

    Returns:
        The folder's name, and how many files it holds.

    Raises:
        StorageError: the disk is full or read-only; nothing of this upload is left.
    """
    name = uuid.uuid4().hex[:16]
    folder = home / "uploads" / name
    n = 0
    try:
        folder.mkdir(parents=True, mode=0o700)
        for n, file in enumerate(files, 1):
            ending = Path(file.name).suffix.lower()
            path = folder / f"{n - 1:05d}{ending if ending in _ENDINGS else ''}"
            with path.open("xb") as out:
                _copy(file, out)
    except OSError as e:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"the upload cannot be kept: {e.strerror}; nothing of it is left",
            hint="free some space under CURBSIDE_HOME, then upload it again",
        ) from None
    return name, n


def _copy(source: Uploaded, out: BinaryIO) -> None:
    while chunk := source.read(_HOLDS):
        out.write(chunk)
