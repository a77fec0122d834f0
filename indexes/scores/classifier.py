"""Baselines that ask a classifier of the modality how sure it is.

The classifier is linear discriminant analysis with equal priors on the unit vectors: its
logits are x·Σ⁻¹μ − ½ μ·Σ⁻¹μ for each class, and a modality's probability is the mean of its
classes' (each modality weighs the same).

- :class:`SoftmaxConfidence`: the probability of the likeliest modality, MSP (Hendrycks &
  Gimpel 2017), as log-odds against it: the same order, without rounding to 1.
- :class:`Energy`: minus the log of the summed exponential logits (Liu et al. 2020, eq. 4, T = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from curbside.indexes.scores.distance import Mahalanobis

__all__ = ["Energy", "SoftmaxConfidence"]


class Energy:
    """Minus the log-sum-exp of the class logits.

    Args:
        weights: float64 (d, c).
        bias: float64 (c,).
    """

    def __init__(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        self._weights, self._bias = weights, bias

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """The classifier, from float32 (n, d) and the class of each (n,)."""
        return cls(*_classifier(vectors, classes))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Energies; ``similarity`` is not used."""
        logits = vectors.astype(np.float64) @ self._weights + self._bias
        return -np.asarray(logsumexp(logits, axis=1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``weights`` and ``bias``."""
        return {"weights": self._weights, "bias": self._bias}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["weights"], arrays["bias"])


class SoftmaxConfidence:
    """Log-odds against the likeliest modality.

    Args:
        weights, bias: as in :class:`Energy`; ``bias`` holds each class's prior.
        modality: int64 (c,), column of each class's modality, 0 … m − 1.
    """

    def __init__(
        self,
        weights: NDArray[np.float64],
        bias: NDArray[np.float64],
        modality: NDArray[np.int64],
    ) -> None:
        self._weights, self._bias, self._modality = weights, bias, modality

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """From float32 (n, d) and classes (n,), named ``modality`` or ``modality|label``."""
        weights, bias = _classifier(vectors, classes)
        of = [str(name).split("|", 1)[0] for name in np.unique(classes)]
        _, modality, counts = np.unique(of, return_inverse=True, return_counts=True)
        return cls(weights, bias - np.log(counts[modality]), modality.astype(np.int64))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """log((1 − p) / p) of the largest probability p; ``similarity`` is not used."""
        logits = vectors.astype(np.float64) @ self._weights + self._bias
        columns = range(int(self._modality.max()) + 1)
        by = np.stack([logsumexp(logits[:, self._modality == j], axis=1) for j in columns], axis=1)
        if by.shape[1] == 1:
            return np.zeros(len(by))
        ordered = np.sort(by, axis=1)
        return np.asarray(logsumexp(ordered[:, :-1], axis=1) - ordered[:, -1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``weights``, ``bias`` and ``modality``."""
        return {"weights": self._weights, "bias": self._bias, "modality": self._modality}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["weights"], arrays["bias"], arrays["modality"])


def _classifier(
    vectors: NDArray[np.float32], classes: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (d, c) and biases (c,) of linear discriminant analysis, equal priors."""
    fitted = Mahalanobis.fit(vectors, classes).arrays()
    means, whitener = fitted["means"], fitted["whitener"]
    return whitener @ means.T, -0.5 * (means**2).sum(axis=1)
