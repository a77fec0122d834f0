"""A folder of files that belong together, written whole and verified before it is parsed.

``manifest.json`` holds the SHA-256 of every other file, the fingerprint, counts, date and
code version.  Loading reads each file once, verifies those bytes, and only then parses
them: FAISS loads flipped bits without complaint.  Knows no score and no statistic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from curbside import __version__
from curbside.errors import IndexCorrupt, IndexMismatch, NotBuilt
from curbside.storage import new_folder

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Stored",
    "content_digest",
    "read_store",
    "tensor_bytes",
    "write_store",
]

#: Raise when the meaning of a stored file changes; older folders are then refused.
FORMAT = 1
MANIFEST = "manifest.json"
_REBUILD = "curbside build"


@dataclass(frozen=True)
class Stored:
    """What a folder held, verified.

    Args:
        files: name to verified bytes.
        facts: what the writer stated of the content (fingerprint, counts, …).
        digest: SHA-256 over kind, facts and file digests; the same content has the same
            digest on any day.
    """

    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    digest: str

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays of a safetensors file.  Raises IndexCorrupt when it is not one."""
        try:
            return dict(load_tensors(self.files[name]))
        except (KeyError, SafetensorError) as e:
            raise IndexCorrupt(f"{name} of the index cannot be read", hint=_REBUILD) from e

    def json(self, name: str) -> Any:
        """Content of a JSON file.  Raises IndexCorrupt when it is not one."""
        try:
            return json.loads(self.files[name])
        except (KeyError, ValueError) as e:
            raise IndexCorrupt(f"{name} of the index cannot be read", hint=_REBUILD) from e


def content_digest(kind: str, facts: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """SHA-256 of what a folder holds, leaving out when and by which version it was written."""
    body = json.dumps([FORMAT, kind, dict(facts), dict(files)], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def write_store(
    folder: Path, kind: str, files: Mapping[str, bytes], facts: Mapping[str, Any]
) -> str:
    """Write files and their manifest as one folder, whole or not at all; returns the digest.

    Raises:
        StorageError: the disk is full or read-only; an older folder there is untouched.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "code_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "facts": dict(facts),
        "files": digests,
        "digest": content_digest(kind, facts, digests),
    }
    with new_folder(folder) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        body = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (temporary / MANIFEST).write_text(body, encoding="utf-8")
    return str(manifest["digest"])


def read_store(folder: Path, kind: str, *, expect: Mapping[str, Any] | None = None) -> Stored:
    """Read and verify a folder written by :func:`write_store`.

    A crash between the writer's two renames leaves the older folder under ``.<name>.old``;
    that one is read then.

    Args:
        expect: facts that must hold, e.g. the encoder's fingerprint.

    Raises:
        NotBuilt: there is no such folder.
        IndexMismatch: it is whole but of another kind, format, or with other facts.
        IndexCorrupt: a file is missing, half-written, or its bytes were changed.
    """
    older = folder.parent / f".{folder.name}.old"
    where = older if not folder.exists() and older.exists() else folder
    if not where.exists():
        raise NotBuilt(f"there is no {kind} at {folder}", hint=_REBUILD)
    manifest = _manifest(where, kind)
    for what, found, wanted in (
        ("kind", manifest["kind"], kind),
        ("format", manifest["format"], FORMAT),
    ):
        if found != wanted:
            raise _mismatch(folder, kind, [(what, wanted, found)])
    files, broken = {}, []
    for name, digest in manifest["files"].items():
        try:
            data = (where / Path(name).name).read_bytes()
        except OSError:
            broken.append(f"{name} is missing or cannot be read")
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            broken.append(f"{name} has other bytes than were written ({len(data)} bytes)")
        files[name] = data
    stated = content_digest(kind, manifest["facts"], manifest["files"])
    if stated != manifest["digest"]:
        broken.append(f"{MANIFEST} was changed")
    if broken:
        raise IndexCorrupt(f"the {kind} at {folder} is damaged: {'; '.join(broken)}", hint=_REBUILD)
    facts = manifest["facts"]
    differs = [(k, v, facts.get(k)) for k, v in (expect or {}).items() if facts.get(k) != v]
    if differs:
        raise _mismatch(folder, kind, differs)
    return Stored(files, facts, stated)


def _manifest(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data["facts"], dict):
            raise ValueError("not a manifest")
        if not all(isinstance(data["files"][name], str) for name in data["files"]):
            raise ValueError("not a manifest")
        for key in ("kind", "format", "digest"):
            data[key]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise IndexCorrupt(
            f"the {kind} at {folder} is half-written or damaged: {MANIFEST} is missing or unusable",
            hint=_REBUILD,
        ) from e
    return data


def _mismatch(folder: Path, kind: str, differs: list[tuple[str, Any, Any]]) -> IndexMismatch:
    lines = "".join(f"\n  {what}: expected {w}, found {f}" for what, w, f in differs)
    return IndexMismatch(
        f"the {kind} at {folder} belongs to something else:{lines}",
        hint=f"{_REBUILD} (makes it anew for what is expected)",
    )


def tensor_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as safetensors; byte for byte the same for the same arrays."""
    return bytes(save_tensors({k: np.ascontiguousarray(arrays[k]) for k in sorted(arrays)}))
