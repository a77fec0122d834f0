"""Features of perturbed copies of images: what a vector must not depend on.

Each image gives two views, drawn by its content so that they are always the same: ``frame``
(a trimmed or shifted frame) and ``signal`` (compression, resampling, noise, contrast).
They are kept on disk by content, one file an encoder.  Which cases are viewed and what for
is the caller's business.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from curbside.errors import ImageError
from curbside.indexes import perturbations as change
from curbside.indexes.encoder import ImageEncoder
from curbside.indexes.features import central_instance
from curbside.indexes.perturbations import Pixels
from curbside.progress import bar
from curbside.storage import write_bytes
from curbside.study import Study

__all__ = ["KINDS", "Views", "encode_images", "most_viewed", "perturbed", "views_of"]

KINDS = ("frame", "signal")
#: Raise when an image would give other views.
_VERSION = 1
_BATCH = 32
#: Images from which the work takes over two seconds and a bar is shown.
_SHOW_FROM = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """Views of some of n cases.

    Args:
        rows: intp (v,), the case that each is a view of; a case may have several.
        kinds: (v,), of :data:`KINDS`.
        pooled: float32 (v, d), raw features.
    """

    rows: NDArray[np.intp]
    kinds: NDArray[np.str_]
    pooled: NDArray[np.float32]

    def among(self, rows: NDArray[np.intp], kind: str | None = None) -> Views:
        """Those of some cases; ``rows`` of the result count positions in the rows given."""
        place = {int(r): i for i, r in enumerate(rows)}
        keep = np.array([int(r) in place for r in self.rows], bool)
        if kind is not None:
            keep &= self.kinds == kind
        at = np.array([place[int(r)] for r in self.rows[keep]], np.intp)
        return Views(at, self.kinds[keep], self.pooled[keep])


def perturbed(rgb: Pixels, digest: str, kind: str) -> Pixels:
    """One view of an image.

    Args:
        rgb: uint8 (h, w, 3).
        digest: hexadecimal, of the image's content; decides what is drawn.
        kind: one of :data:`KINDS`.
    """
    rng = np.random.default_rng([int(digest[:16], 16), KINDS.index(kind)])
    if kind == "frame":
        if rng.random() < 0.5:
            return change.crop(rng.uniform(0.02, 0.06))(rgb)
        # the shift is down and right: turned there and back it comes from any side
        turn, pixels = int(rng.integers(4)), int(rng.integers(4, 13))
        moved = change.shift(pixels)(np.ascontiguousarray(np.rot90(rgb, turn)))
        return np.ascontiguousarray(np.rot90(moved, -turn))
    first = rng.integers(3)
    if first == 0:
        rgb = change.jpeg(int(rng.integers(40, 81)))(rgb)
    elif first == 1:
        rgb = change.resize(rng.uniform(0.5, 0.9))(rgb)
    if first == 2 or rng.random() < 0.5:
        rgb = change.noise(rng.uniform(1, 5))(rgb)
    if rng.random() < 0.3:
        rgb = change.contrast(rng.uniform(-0.15, 0.15))(rgb)
    return rgb


def views_of(
    encoder: ImageEncoder,
    studies: Sequence[Study],
    digests: Sequence[str],
    rows: NDArray[np.intp],
    folder: Path | None = None,
) -> Views:
    """Both views of some studies; from disk where they were made before.

    Args:
        studies, digests: n of each; a study whose image failed has the digest ``""``.
        rows: which of them are viewed.
        folder: where views are kept; None keeps none.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = None if folder is None else folder / f"views-{_VERSION}-{encoder.fingerprint[:32]}"
    known = {} if path is None else _read(path, encoder.dimensions)
    todo = [int(r) for r in rows if digests[r] and digests[r] not in known]
    show = len(todo) >= _SHOW_FROM
    with bar("encoding perturbed views", len(todo)) if show else nullcontext(_no_bar) as advance:
        for start in range(0, len(todo), _BATCH):
            block = todo[start : start + _BATCH]
            known |= _encode(encoder, [studies[r] for r in block], [digests[r] for r in block])
            advance(len(block))
    if path is not None and todo:
        _write(path, known)
    viewed = [int(r) for r in rows if digests[r] in known]
    pooled = [known[digests[r]] for r in viewed] or [np.zeros((0, encoder.dimensions), np.float32)]
    return Views(
        np.repeat(np.array(viewed, np.intp), len(KINDS)),
        np.tile(np.array(KINDS), len(viewed)),
        np.concatenate(pooled),
    )


def most_viewed(digests: Sequence[str], rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most ``most`` of the rows, chosen by content: more cases change few of the choices."""
    order = sorted(rows.tolist(), key=lambda r: digests[r])
    return np.sort(np.array(order[:most], np.intp))


def encode_images(encoder: ImageEncoder, images: Sequence[Pixels]) -> NDArray[np.float32]:
    """Raw features of pixels that are in no file, float32 (n, d); nothing is cached."""
    return encoder.encode([encoder.prepare(image) for image in images]).pooled


def _encode(
    encoder: ImageEncoder, studies: Sequence[Study], digests: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    images: list[Pixels] = []
    named: list[str] = []
    for study, digest in zip(studies, digests, strict=True):
        try:
            rgb = central_instance(study).pixels()
        except ImageError:
            continue  # its features are there from an earlier run; without them it has no view
        images += [perturbed(rgb, digest, kind) for kind in KINDS]
        named.append(digest)
    if not images:
        return {}
    pooled = encode_images(encoder, images).reshape(len(named), len(KINDS), -1)
    return dict(zip(named, pooled, strict=True))


def _write(path: Path, views: dict[str, NDArray[np.float32]]) -> None:
    names = sorted(views)
    values = np.stack([views[n] for n in names])
    metadata = {"digests": json.dumps(names), "sha256": _checksum(names, values)}
    write_bytes(path, save({"pooled": values}, metadata))


def _read(path: Path, dimensions: int) -> dict[str, NDArray[np.float32]]:
    """What is kept; nothing where that is damaged, so that it is made again."""
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "numpy") as f:
            names: list[str] = json.loads(f.metadata()["digests"])
            values = np.asarray(f.get_tensor("pooled"))
            whole = _checksum(names, values) == f.metadata()["sha256"]
        if not whole or values.shape != (len(names), len(KINDS), dimensions):
            raise ValueError("its checksum differs")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        _log.warning("kept views are damaged (%s) and are made again", type(e).__name__)
        return {}
    return dict(zip(names, values, strict=True))


def _checksum(names: Sequence[str], values: NDArray[Any]) -> str:
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _no_bar(_: int) -> None:
    return None
