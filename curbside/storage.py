"""Writing so that what was stored before survives: temporary name, flush, rename.

A full or read-only disk becomes a :class:`~curbside.errors.StorageError` that names
the path; the half-written temporary file is removed and the old one is untouched.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from curbside.errors import StorageError

__all__ = [
    "file_digest",
    "new_file",
    "new_folder",
    "one_process",
    "tree_digest",
    "write_bytes",
    "write_text",
]

#: How long :func:`one_process` waits for another.
_WAIT_S = 60.0
#: What room would not help against → what does.
_NOT_OURS = "give a folder that this account may write to"
_NO_FOLDER = "give a folder, or a path where one can be made"
_NEXT = {
    errno.EACCES: _NOT_OURS,
    errno.EPERM: _NOT_OURS,
    errno.EROFS: _NOT_OURS,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOENT: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EISDIR: "give the path of a file, not of a folder",
}


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise StorageError(
            f"cannot write {path}: {e.strerror or e}; what was there before is unchanged",
            hint=_NEXT.get(e.errno or 0)
            or "free some space or set CURBSIDE_HOME to a folder with room, then run it again",
        ) from e


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path`` atomically.

    Raises:
        StorageError: on any OSError inside the block or in the rename.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it replaces ``path``.

    A crash leaves either the old folder or the new one under ``path``, or, within the
    two renames, the old one under ``.<name>.old``; readers see no half-written folder.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        old = path.parent / f".{path.name}.old"
        try:
            yield temporary
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def one_process(
    path: Path,
    wait_s: float = _WAIT_S,
    *,
    hint: str = "wait until it has ended, then run it again",
) -> Iterator[None]:
    """Within the block no other process is in a block of the same lock file.

    A process that is killed lets go.  Not for a block within a block.

    Args:
        path: the lock file, made where it is missing; it stays.
        wait_s: seconds to wait for whoever is in it.
        hint: what to do where another is.

    Raises:
        StorageError: the file cannot be written, or another was in it for so long.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            since = f"has been using {path.parent} for {wait_s:g} s" if wait_s else None
            raise StorageError(
                f"another process {since or f'is at work in {path.parent}'}", hint=hint
            ) from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.  Raises StorageError."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.  Raises StorageError."""
    write_bytes(path, text.encode())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tree_digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by POSIX relative path, sorted."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
