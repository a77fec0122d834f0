"""Scores from distances: to class means, to the background, to the nearest cases.

- :class:`Mahalanobis`: the least squared Mahalanobis distance to a class mean, with one
  shrunk covariance tied over classes (Lee et al. 2018, "A simple unified framework for
  detecting out-of-distribution samples", eq. 2), on unit vectors (Müller & Hein 2025,
  "Mahalanobis++", section 4: without unit length the score follows the feature norm).
- :class:`RelativeMahalanobis`: the same minus the distance to one Gaussian for all cases
  (Ren et al. 2021, "A simple fix to Mahalanobis distance", eq. 4).
- :class:`KthNeighbour`: one minus the cosine of the k-th nearest training case (Sun et al.
  2022, "Out-of-distribution detection with deep nearest neighbors", section 3).
- :class:`LocalOutlier`: the local outlier factor (Breunig et al. 2000), by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from curbside.errors import InternalError

__all__ = ["KthNeighbour", "LocalOutlier", "Mahalanobis", "RelativeMahalanobis"]

_SHRINKAGE = 0.1
_KTH = 2
_LOCAL = 20


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

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["means"], arrays["whitener"])


class RelativeMahalanobis:
    """Least squared distance to a class mean minus that to the mean of all cases.

    Args:
        classes: with one mean a class.
        background: with a single mean and the covariance about it.
    """

    def __init__(self, classes: Mahalanobis, background: Mahalanobis) -> None:
        self._classes, self._background = classes, background

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """Both Gaussians, from float32 (n, d) and the class of each (n,)."""
        every = np.full(len(vectors), "all")
        return cls(Mahalanobis.fit(vectors, classes), Mahalanobis.fit(vectors, every))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Differences of squared distances; ``similarity`` is not used."""
        near = self._classes.score(vectors, similarity)
        return np.asarray(near - self._background.score(vectors, similarity))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Means and whitener of both."""
        background = {f"background_{k}": v for k, v in self._background.arrays().items()}
        return {**self._classes.arrays(), **background}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        background = {k: arrays[f"background_{k}"] for k in ("means", "whitener")}
        return cls(Mahalanobis.load(arrays), Mahalanobis.load(background))


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

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(int(arrays["k"][0]))


class LocalOutlier:
    """The local outlier factor of a case among the training cases; about 1 inside them.

    scikit-learn's fitted object is not stored: it is fitted again from the vectors, which
    gives the same numbers.

    Args:
        vectors: float32 (n, d), n ≥ 2.
        k: neighbours, at most n − 1.
    """

    def __init__(self, vectors: NDArray[np.float32], k: int = _LOCAL) -> None:
        from sklearn.neighbors import LocalOutlierFactor

        if len(vectors) < 2:
            raise InternalError("the local outlier factor needs two training cases or more")
        self._vectors = vectors
        self._model = LocalOutlierFactor(n_neighbors=min(k, len(vectors) - 1), novelty=True)
        self._model.fit(vectors)

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """From the vectors alone."""
        return cls(vectors)

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Factors, > 0; ``similarity`` is not used."""
        if not len(vectors):
            return np.zeros(0)
        return -np.asarray(self._model.score_samples(vectors), np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``vectors`` and ``k``."""
        k = np.array([self._model.n_neighbors], np.int64)
        return {"vectors": self._vectors, "k": k}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["vectors"], int(arrays["k"][0]))
