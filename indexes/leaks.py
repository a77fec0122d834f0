"""Which calibration cases may not calibrate: those that the index knows already.

A calibration case that is in the index is its own nearest neighbour; one of the same patient,
or a copy of an indexed picture, is nearly so.  They look familiar by construction, and every
new case would then look strange.  Knows features, groups and digests; no score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.errors import UserError
from curbside.indexes.features import Features

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["NEAR_DUPLICATE", "closest", "near_duplicates", "refuse_leaks"]

#: Cosine of raw features about the training mean from which two pictures are one: the
#: corpus's JPEG copies at quality 75 have 0.97 in the median, its nearest neighbours from
#: other groups 0.96 at the 99th percentile.
NEAR_DUPLICATE = 0.99
_BLOCK = 1024


def refuse_leaks(
    cases: Cases, features: Features, train: NDArray[np.intp], held_out: NDArray[np.intp]
) -> None:
    """Stop where calibration cases share an image or a group with indexed ones.

    Args:
        train, held_out: intp, rows of the indexed and of the calibration cases.

    Raises:
        UserError: how many do, and what they share.
    """
    digests = np.array(features.digests)
    for what, values in (("an image", digests), ("a group", cases.groups)):
        shared = np.isin(values[held_out], values[train]) & (values[held_out] != "")
        if shared.any():
            raise UserError(
                f"{int(shared.sum())} of {len(held_out)} calibration cases share {what} with "
                "cases that are indexed, so their p-values would be worthless",
                hint="give all cases of a group one role in the manifest",
            )


def near_duplicates(
    train: NDArray[np.float32], held_out: NDArray[np.float32], *, at: float = NEAR_DUPLICATE
) -> NDArray[np.bool_]:
    """bool (m,): which held-out cases are copies of a training picture, to the encoder.

    Args:
        train, held_out: float32 (n, d) and (m, d), raw features.
        at: cosine about the training mean from which a case counts as a copy.
    """
    return np.asarray(closest(train, held_out)[1] >= at)


def closest(
    known: NDArray[np.float32], others: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Of each other case the known one most like it: its row, intp (m,), and float32 (m,) cosines.

    Cosines are about the mean of the known: raw features are all positive, and so all alike.

    Args:
        known, others: float32 (n, d) and (m, d), raw features; n at least 1.
    """
    mean = known.mean(axis=0)
    a, b = _unit(others - mean), _unit(known - mean)
    rows, cosines = np.zeros(len(a), np.intp), np.zeros(len(a), np.float32)
    for start in range(0, len(a), _BLOCK):
        similar = a[start : start + _BLOCK] @ b.T
        rows[start : start + _BLOCK] = similar.argmax(axis=1)
        cosines[start : start + _BLOCK] = similar.max(axis=1)
    return rows, cosines


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1), np.float32)
