"""The score of what the training cases do not span.

The length of a vector's part outside their principal subspace (Ndiour, Ahuja & Tickoo 2020;
the residual of Wang et al. 2022, "ViM", eq. 4, with their mean as origin).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Residual"]

#: Share of the axes, those of largest variance, that count as spanned.
_SPANNED = 1 / 3


class Residual:
    """Length outside the principal subspace.

    Args:
        mean: float64 (d,).
        null: float64 (d, r), orthonormal axes outside the subspace.
    """

    def __init__(self, mean: NDArray[np.float64], null: NDArray[np.float64]) -> None:
        self._mean, self._null = mean, null

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], classes: NDArray[np.str_]) -> Self:
        """From training vectors, float32 (n, d); classes are not used."""
        x = vectors.astype(np.float64)
        mean = x.mean(axis=0)
        _, axes = np.linalg.eigh((x - mean).T @ (x - mean))
        # eigenvalues ascend, so the first axes are those that vary least
        outside = max(1, x.shape[1] - int(np.ceil(_SPANNED * x.shape[1])))
        return cls(mean, np.ascontiguousarray(axes[:, :outside]))

    def score(
        self, vectors: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Lengths, ≥ 0; ``similarity`` is not used."""
        outside = (vectors.astype(np.float64) - self._mean) @ self._null
        return np.asarray(np.linalg.norm(outside, axis=1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``mean`` and ``null``."""
        return {"mean": self._mean, "null": self._null}

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """From :meth:`arrays`."""
        return cls(arrays["mean"], arrays["null"])
