"""Routers of other groups, written from their papers, on the same cases as ours.

Each learns on ``tune`` a score for the two readers of the hybrids, from the embedding alone,
and is then run as the same ``competence`` policy: the reader with the higher score answers.

- ``similarity``: similarity-weighted ranking (Ong et al., *RouteLLM*, 2024, section 4.2.1).
  Every tune case is a comparison that the specialist wins, loses or ties; it counts with
  weight γ^(1 + cosine), γ = 10, in a Bradley–Terry model.  With two models its maximum has
  the closed form P(win) = Σ ω · outcome / Σ ω.
- ``mlp``: the MLP router of RouterBench (Hu et al., 2024, section 4.2): a network of two
  hidden layers of 100 predicts from the embedding how well each model will do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["FOLDS", "PEERS", "cross_fitted", "mlp_scores", "similarity_scores"]

Float = NDArray[np.float32]
#: (tune vectors, tune outcomes (n, 2), vectors) → scores of the two readers, (m, 2)
Scorer = Callable[[Float, Float, Float], Float]

GAMMA = 10.0
FOLDS = 5


def similarity_scores(known: Float, right: Float, vectors: Float) -> Float:
    """P(specialist wins) and its complement, from similarity-weighted comparisons.

    Args:
        known: float32 (n, d), unit vectors of the tune cases; vectors: (m, d), of others.
        right: float32 (n, 2), specialist and generalist right on them.
    """
    outcome = (1 + right[:, 0] - right[:, 1]) / 2  # 1 win, ½ tie, 0 loss
    weight = np.power(np.float32(GAMMA), 1 + vectors @ known.T)
    win = (weight @ outcome) / weight.sum(axis=1)
    return np.stack([win, 1 - win], axis=1).astype(np.float32)


def mlp_scores(known: Float, right: Float, vectors: Float) -> Float:
    """Predicted share right of both readers; arguments as for :func:`similarity_scores`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    model = MLPRegressor(hidden_layer_sizes=(100, 100), alpha=0.01, max_iter=200, random_state=0)
    with warnings.catch_warnings():
        # the paper trains for a fixed time too
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known, right)
    return np.asarray(model.predict(vectors), np.float32).reshape(len(vectors), 2)


PEERS: Mapping[str, Scorer] = MappingProxyType({"similarity": similarity_scores, "mlp": mlp_scores})


def cross_fitted(
    scorer: Scorer, vectors: Float, right: Float, group: NDArray[np.intp], folds: int = FOLDS
) -> Float:
    """Scores of the tune cases themselves, each learned without its own groups' fold."""
    fold = np.random.default_rng(0).permutation(int(group.max()) + 1)[group] % folds
    out = np.full((len(vectors), 2), 0.5, np.float32)
    for k in range(folds):
        rest, own = fold != k, fold == k
        if own.any() and rest.any():
            out[own] = scorer(vectors[rest], right[rest], vectors[own])
    return out
