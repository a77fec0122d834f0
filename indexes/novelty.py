"""Novelty scores: how unlike the training cases is this embedding?  Higher is stranger.

One protocol and the table of what ``config.index.novelty`` may name; the scores themselves
are in :mod:`curbside.indexes.scores`.  Which one serves was chosen by ``curbside index
select-novelty`` (docs/rarity.md).  Scores are not probabilities:
:mod:`curbside.indexes.conformal` makes p-values of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError
from curbside.indexes.scores.classifier import Energy, SoftmaxConfidence
from curbside.indexes.scores.distance import (
    KthNeighbour,
    LocalOutlier,
    Mahalanobis,
    RelativeMahalanobis,
)
from curbside.indexes.scores.subspace import Residual

__all__ = ["SCORES", "FakeNovelty", "Novelty", "fit_score", "load_score"]


class Novelty(Protocol):
    """A novelty score that has been fitted."""

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Scores, float64 (n,), from unit vectors (n, d) and cosines (n, k), nearest first."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the score needs to be had again, for storage."""
        ...


class FakeNovelty:
    """A score for tests: one minus the cosine to the mean of the training vectors."""

    def __init__(self, mean: NDArray[np.float32]) -> None:
        self._mean = mean

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """The mean direction of float32 (n, d)."""
        return cls(np.asarray(vectors.mean(axis=0), np.float32))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """In [0, 2]; ``similarity`` is not used."""
        return np.asarray(1.0 - vectors @ (self._mean / np.linalg.norm(self._mean)), np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``mean``."""
        return {"mean": self._mean}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["mean"])


class _Entry(NamedTuple):
    fit: Callable[[NDArray[np.float32], NDArray[np.str_]], Novelty]
    load: Callable[[Mapping[str, NDArray[Any]]], Novelty]


#: name in ``config.index.novelty`` → how it is fitted, how it is loaded
SCORES: Mapping[str, _Entry] = {
    "mahalanobis": _Entry(Mahalanobis.fit, Mahalanobis.load),
    "relative-mahalanobis": _Entry(RelativeMahalanobis.fit, RelativeMahalanobis.load),
    "knn": _Entry(KthNeighbour.fit, KthNeighbour.load),
    "lof": _Entry(LocalOutlier.fit, LocalOutlier.load),
    "residual": _Entry(Residual.fit, Residual.load),
    "msp": _Entry(SoftmaxConfidence.fit, SoftmaxConfidence.load),
    "energy": _Entry(Energy.fit, Energy.load),
}


def fit_score(name: str, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Novelty:
    """Fit the named score on training vectors (n, d) and their classes (n,)."""
    return _entry(name).fit(vectors, classes)


def load_score(name: str, arrays: Mapping[str, NDArray[Any]]) -> Novelty:
    """The named score from its stored arrays."""
    return _entry(name).load(arrays)


def _entry(name: str) -> _Entry:
    if name not in SCORES:
        raise InternalError(f"no novelty score {name!r}; there are {', '.join(SCORES)}")
    return SCORES[name]
