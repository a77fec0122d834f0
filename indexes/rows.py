"""Rows: what is indexed, what calibrates, and blocks of cases that are assessed together.

Knows shapes alone; no score and no vector is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from curbside.indexes.views import Views

__all__ = ["HeldOut", "Indexed", "Measured", "in_blocks", "measured"]

#: Rows worked on at a time, and the fewest that are: matrix products of few rows take other
#: code paths, so one case alone is padded and gets what it would get in a batch.
_BLOCK, _FEWEST = 1024, 32


@dataclass(frozen=True)
class Indexed:
    """What is known of each indexed case, by index row; a label is ``""`` where there is none."""

    ids: NDArray[np.str_]
    modalities: NDArray[np.str_]
    labels: NDArray[np.str_]


@dataclass(frozen=True)
class HeldOut:
    """Calibration cases, none of them indexed, and how p-values are had from them.

    Args:
        pooled: float32 (n, d), raw features.
        minimum, confidence: see :class:`~curbside.indexes.conformal.Calibration`.
        copies: perturbed copies of some of their images: a case counts a part of the way
            towards the strangest, which can only make its score, and so every p-value, larger.
    """

    pooled: NDArray[np.float32]
    minimum: int
    confidence: float = 0.0
    copies: Views | None = None


@dataclass(frozen=True)
class Measured:
    """What rows give before p-values; columns as in :class:`~curbside.assessments.Assessments`."""

    posterior: NDArray[np.float32]
    novelty: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    similarity: NDArray[np.float32]
    competence: NDArray[np.float32]
    competence_low: NDArray[np.float32]
    competence_high: NDArray[np.float32]
    competence_support: NDArray[np.float32]


def measured(
    pooled: NDArray[np.float32], block: Callable[[NDArray[np.float32], int], Measured]
) -> Measured:
    """All rows, a block at a time.

    Args:
        pooled: float32 (n, d), raw features.
        block: gets padded rows and how many of them are real; gives the real ones.
    """
    parts = [block(x, n) for x, n in in_blocks(pooled)]
    if not parts:
        # the shapes of no rows are those of one, emptied
        parts = [block(np.zeros((_FEWEST, pooled.shape[1]), np.float32), 0)]
    return Measured(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Measured))
    )


def in_blocks(pooled: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], int]]:
    """Blocks of at least ``_FEWEST`` rows, padded with zeros, and how many rows are real."""
    out = []
    for start in range(0, len(pooled), _BLOCK):
        part = np.asarray(pooled[start : start + _BLOCK], np.float32)
        n = len(part)
        if n < _FEWEST:
            part = np.concatenate([part, np.zeros((_FEWEST - n, part.shape[1]), np.float32)])
        out.append((part, n))
    return out
