"""Which modality is this?  A class-balanced vote of the nearest training cases.

P(m | x) ∝ Σ over neighbours i of modality m of exp((cos_i − cos_1) / τ) / n_m, with n_m the
training cases of m: dividing by n_m is the k-nearest-neighbour estimate under equal priors
(Fukunaga & Hostetler 1975), so that a modality with sixteen cases is not outvoted by one
with six hundred.  τ and the vote were chosen on ``train`` and ``tune`` against a Gaussian
posterior and balanced logistic regression (docs/rarity.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["vote"]

_TEMPERATURE = 0.025
#: Probability shared by all modalities, so that none is ever stated to be impossible.
_SMOOTHING = 1e-3


def vote(
    similarity: NDArray[np.float32],
    modality: NDArray[np.intp],
    counts: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Posterior over m modalities, float32 (n, m); rows sum to 1.

    Args:
        similarity: float32 (n, k), cosines, nearest first.
        modality: intp (n, k), column of each neighbour's modality.
        counts: int (m,), training cases of each modality, ≥ 1.
    """
    n, m = len(similarity), len(counts)
    closeness = np.exp((similarity - similarity[:, :1]).astype(np.float64) / _TEMPERATURE)
    weight = closeness / counts[modality]
    votes = np.zeros((n, m))
    np.add.at(votes, (np.arange(n)[:, None], modality), weight)
    votes /= votes.sum(axis=1, keepdims=True)
    return ((1 - _SMOOTHING) * votes + _SMOOTHING / m).astype(np.float32)
