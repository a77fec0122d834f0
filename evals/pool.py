"""Which agent earns its place?  All readers as one weighted mean, then without each in turn.

The weights are those under which the mean of the readings is likeliest on ``tune``: stacked
density estimation (Smyth & Wolpert 1999, *Linearly combining density estimators via
stacking*), found by EM, each modality counting evenly.  A reader earns its place if the pool
is better with it than without it, on cases that the weights were not fitted on.  Every
reader is called for every case, so this bounds what dearer ways of combining them can gain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Arm

__all__ = ["pool_weights", "pooled", "subsets"]

Float = NDArray[np.float32]
_STEPS = 500
_TINY = 1e-6


def pool_weights(probability: NDArray[np.floating], weight: NDArray[np.floating]) -> Float:
    """Mixture weights with the highest likelihood, float32 (a,), summing to 1.

    Args:
        probability: (n, a), what each reader gives the true option; 0 where it gave no reading.
        weight: (n,), of the cases.
    """
    p = np.maximum(np.asarray(probability, np.float64), _TINY)
    share = np.asarray(weight, np.float64) / np.sum(weight)
    w = np.full(p.shape[1], 1 / p.shape[1])
    for _ in range(_STEPS):
        part = w * p
        new = share @ (part / part.sum(axis=1, keepdims=True))
        if np.abs(new - w).max() < 1e-7:
            break
        w = new
    return np.asarray(w / w.sum(), np.float32)


def pooled(name: str, arms: Sequence[Arm], weights: Float) -> Arm:
    """The weighted mean of several arms, at the cost of all that have a weight."""
    mixed = sum((w * a.weights for w, a in zip(weights, arms, strict=True)), np.float32(0))
    asked = np.max(
        [a.asked for w, a in zip(weights, arms, strict=True) if w > 1e-3], axis=0, initial=0
    )
    return Arm(name, "ensemble", np.asarray(mixed, np.float32), np.asarray(asked, np.float32))


def subsets(names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """All, then without each: (who is left out, who is in)."""
    return [("", tuple(names))] + [(n, tuple(x for x in names if x != n)) for n in names]
