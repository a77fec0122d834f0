"""Features of perturbed copies of images: what a vector must not depend on.

A perturbed copy is had by an encoder that changes each image before it looks at it
(:class:`PerturbedEncoder`), so copies are encoded, cached and resumed as images are.  Each
image gives one view of each kind, drawn by its pixels so that they are always the same.
Which cases are viewed and what for is the caller's business.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.indexes import perturbations as change
from curbside.indexes.encoder import Encoded, ImageEncoder
from curbside.indexes.features import FeatureSource
from curbside.indexes.perturbations import Pixels
from curbside.study import Study, content_hash

__all__ = ["KINDS", "PerturbedEncoder", "Views", "most_viewed", "perturbed", "views_of"]

#: A trimmed frame, a shifted one, a signal compressed, resampled or of another contrast, noise.
KINDS = ("crop", "shift", "signal", "noise")
#: Raise when an image would give other views.
_VERSION = 2


class PerturbedEncoder:
    """An encoder of images as they look after a change; without grids.

    Args:
        encoder: what looks at them.
        name: of the change; equal names must mean equal changes.
        change: uint8 (h, w, 3) to uint8 (h', w', 3).
    """

    def __init__(
        self, encoder: ImageEncoder, name: str, change: Callable[[Pixels], Pixels]
    ) -> None:
        self._encoder, self._change = encoder, change
        self.fingerprint = content_hash("perturbed", encoder.fingerprint, name)
        self.dimensions = encoder.dimensions
        self.grid_shape: tuple[int, int, int] | None = None

    def prepare(self, image: Pixels) -> Pixels:
        """The changed image as the encoder wants it."""
        return self._encoder.prepare(self._change(image))

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Features of *prepared* images, float32 (n, d)."""
        return Encoded(self._encoder.encode(images).pooled, None)


@dataclass(frozen=True)
class Views:
    """Views of some of n cases.

    Args:
        rows: intp (v,), the case that each is a view of; a case may have several.
        pooled: float32 (v, d), raw features.
    """

    rows: NDArray[np.intp]
    pooled: NDArray[np.float32]

    def among(self, rows: NDArray[np.intp]) -> Views:
        """Those of some cases; ``rows`` of the result count positions in the rows given."""
        place = {int(r): i for i, r in enumerate(rows)}
        keep = np.array([int(r) in place for r in self.rows], bool)
        at = np.array([place[int(r)] for r in self.rows[keep]], np.intp)
        return Views(at, self.pooled[keep])


def perturbed(rgb: Pixels, kind: str) -> Pixels:
    """One view of an image, uint8 (h, w, 3), drawn by its pixels; ``kind`` is in :data:`KINDS`."""
    rng = np.random.default_rng([zlib.crc32(rgb.tobytes()), KINDS.index(kind)])
    if kind == "crop":
        return change.crop(rng.uniform(0.02, 0.06))(rgb)
    if kind == "shift":
        # the shift is down and right: turned there and back it comes from any side
        turn, pixels = int(rng.integers(4)), int(rng.integers(4, 13))
        moved = change.shift(pixels)(np.ascontiguousarray(np.rot90(rgb, turn)))
        return np.ascontiguousarray(np.rot90(moved, -turn))
    if kind == "noise":
        return change.noise(rng.uniform(1, 5))(rgb)
    if rng.random() < 0.5:
        rgb = change.jpeg(int(rng.integers(40, 81)))(rgb)
    else:
        rgb = change.resize(rng.uniform(0.5, 0.9))(rgb)
    return change.contrast(rng.uniform(-0.15, 0.15))(rgb) if rng.random() < 0.3 else rgb


def views_of(
    encoder: ImageEncoder,
    studies: Sequence[Study],
    rows: NDArray[np.intp],
    folder: Path | None = None,
) -> Views:
    """A view of each kind of some studies; from disk where they were made before.

    Args:
        rows: which of the studies are viewed; one whose image fails has no view.
        folder: where features are kept; None keeps none.

    Raises:
        StorageError: the folder cannot be written.
    """
    chosen = [studies[r] for r in rows]
    at, pooled = [], []
    for kind in KINDS:
        name = f"view {_VERSION} {kind}"
        viewing = PerturbedEncoder(encoder, name, partial(perturbed, kind=kind))
        found = FeatureSource(viewing, folder=folder).of(chosen, label=f"encoding copies: {kind}")
        at.append(rows[found.usable])
        pooled.append(found.pooled[found.usable])
    return Views(np.concatenate(at), np.concatenate(pooled))


def most_viewed(digests: Sequence[str], rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most ``most`` of the rows, chosen by content: more cases change few of the choices."""
    order = sorted(rows.tolist(), key=lambda r: digests[r])
    return np.sort(np.array(order[:most], np.intp))
