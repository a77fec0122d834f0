"""Novelty scores: how unlike the training cases is this embedding?  Higher is stranger.

Two scores behind one protocol, chosen by ``config.index.novelty``:

- ``mahalanobis``: the least squared Mahalanobis distance to a class mean, with one shrunk
  covariance tied over classes (Lee et al. 2018, "A simple unified framework for detecting
  out-of-distribution samples", eq. 2), on unit vectors (Müller & Hein 2025,
  "Mahalanobis++", section 4: without unit length the score follows the feature norm).
- ``knn``: one minus the cosine of the k-th nearest training case (Sun et al. 2022,
  "Out-of-distribution detection with deep nearest neighbors", section 3).

Scores are not probabilities: :mod:`curbside.indexes.conformal` makes p-values of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from curbside.errors import InternalError

__all__ = ["SCORES", "KthNeighbour", "Mahalanobis", "Novelty", "fit_score", "load_score"]

_SHRINKAGE = 0.1
_KTH = 2


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


class Mahalanobis:
    """Least squared Mahalanobis distance to a class mean; see the module's docstring.

    Args:
        means: float64 (c, d), class means after whitening.
        whitener: float64 (d, d); ``x @ whitener`` has the tied covariance as identity.
    """

    def __init__(self, means: NDArray[np.float64], whitener: NDArray[np.float64]) -> None:
        if means.shape[1:] != whitener.shape[1:]:
            raise InternalError("class means and whitener differ in dimensions")
        self._means, self._whitener = means, whitener
        self._norms = (means**2).sum(axis=1)

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float32],
        classes: NDArray[np.str_],
        *,
        shrinkage: float = _SHRINKAGE,
    ) -> Self:
        """Class means and the tied covariance (1 − s)·S + s·tr(S)/d·I of training vectors.

        Args:
            vectors: float32 (n, d).
            classes: (n,), the class of each.
            shrinkage: s, in [0, 1].
        """
        x = vectors.astype(np.float64)
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), x.shape[1]))
        np.add.at(means, inverse, x)
        means /= counts[:, None]
        residual = x - means[inverse]
        covariance = residual.T @ residual / max(1, len(x) - len(counts))
        d = len(covariance)
        # a trace of zero (every class a single case) would leave nothing to divide by
        scale = max(float(np.trace(covariance)) / d, 1e-12)
        covariance = (1 - shrinkage) * covariance + (shrinkage * scale + 1e-9 * scale) * np.eye(d)
        root = linalg.cholesky(covariance, lower=True)
        whitener = linalg.solve_triangular(root, np.eye(d), lower=True).T
        return cls(means @ whitener, np.ascontiguousarray(whitener))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Squared distances, ≥ 0; ``similarity`` is not used."""
        return np.asarray(self.distances(vectors).min(axis=1))

    def distances(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squared distance to each class mean, float64 (n, c)."""
        white = vectors.astype(np.float64) @ self._whitener
        squared = (white**2).sum(axis=1)[:, None] + self._norms - 2 * white @ self._means.T
        return np.asarray(np.maximum(squared, 0.0))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``means`` and ``whitener``."""
        return {"means": self._means, "whitener": self._whitener}


class KthNeighbour:
    """One minus the cosine of the k-th nearest training case, in [0, 2].

    Args:
        k: counts from 1; 2 by default, so that one stray near-copy makes nothing familiar.
    """

    def __init__(self, k: int = _KTH) -> None:
        self.k = k

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """Nothing is learned: the index holds the vectors."""
        return cls(min(_KTH, len(vectors)))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Cosine distances; ``vectors`` is not used."""
        k = min(self.k, similarity.shape[1])
        return 1.0 - similarity[:, k - 1].astype(np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``k``."""
        return {"k": np.array([self.k], np.int64)}


def _load_mahalanobis(arrays: Mapping[str, NDArray[Any]]) -> Novelty:
    return Mahalanobis(arrays["means"], arrays["whitener"])


def _load_kth(arrays: Mapping[str, NDArray[Any]]) -> Novelty:
    return KthNeighbour(int(arrays["k"][0]))


_Fit = Callable[[NDArray[np.float32], NDArray[np.str_]], Novelty]
_Load = Callable[[Mapping[str, NDArray[Any]]], Novelty]

#: name in ``config.index.novelty`` → how it is fitted, how it is loaded
SCORES: dict[str, tuple[_Fit, _Load]] = {
    "mahalanobis": (Mahalanobis.fit, _load_mahalanobis),
    "knn": (KthNeighbour.fit, _load_kth),
}


def fit_score(name: str, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Novelty:
    """Fit the named score on training vectors (n, d) and their classes (n,)."""
    return _entry(name)[0](vectors, classes)


def load_score(name: str, arrays: Mapping[str, NDArray[Any]]) -> Novelty:
    """The named score from its stored arrays."""
    return _entry(name)[1](arrays)


def _entry(name: str) -> tuple[_Fit, _Load]:
    if name not in SCORES:
        raise InternalError(f"no novelty score {name!r}; there are {', '.join(SCORES)}")
    return SCORES[name]
