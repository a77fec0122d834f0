"""Names that tell cases apart and tell nobody who they are: keyed hashes.

The key is 32 random bytes in ``identity.key`` in the home folder, mode 0600, made once.  Who
has the key and a patient's id can find that patient's cases; without the key nobody can, and
two installations name the same patient differently.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from curbside.errors import StorageError
from curbside.home import home

__all__ = ["keyed"]

_NAME = "identity.key"
_BYTES = 32


def keyed(kind: str, value: str) -> str:
    """32 hex digits of HMAC-SHA256 over a value; ``kind`` keeps equal values of two kinds apart.

    Raises:
        StorageError: the key cannot be read or made, or is not 32 bytes long.
    """
    message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")
    return hmac.new(_key(home() / _NAME), message, hashlib.sha256).hexdigest()[:32]


@lru_cache(maxsize=8)
def _key(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as e:
        raise StorageError(
            f"the key of ids {path} cannot be read or made: {e.strerror or e}",
            hint="set CURBSIDE_HOME to a folder that can be written",
        ) from e
    if len(key) != _BYTES:
        raise StorageError(
            f"the key of ids {path} has {len(key)} bytes, not {_BYTES}",
            hint="restore it from a backup; a new key gives every study a new id",
        )
    return key


def _make(path: Path) -> None:
    """Written aside and linked, so that of two processes one wins and none reads half a key."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(secrets.token_bytes(_BYTES))
            f.flush()
            os.fsync(f.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
