"""Which reader earns its place: all as one weighted mean, then without each in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curbside.config import Config
from curbside.evals import arms as arm_
from curbside.evals.arms import Arm
from curbside.evals.detail_schema import PoolRow
from curbside.evals.gates import case_weights
from curbside.evals.looked import ROUTERLESS, Float, Looked, estimate
from curbside.evals.peers import FOLDS
from curbside.evals.pool import pool_weights, pooled, subsets
from curbside.evals.protocol import Trained, plain_arms
from curbside.evals.replay import right_of
from curbside.evals.statistics import over_models

__all__ = ["pool"]


def pool(x: Looked, known: Float, best: Float) -> list[PoolRow]:
    """Leave one reader out of the weighted mean of all; nothing where there is but one.

    Args:
        known: weights of known cases, float32 (r, rows).
        best: accuracy of the best arm alone in every replicate, float32 (r,).
    """
    on_tune = [plain_arms(t.tune, r, Config()) for t, r in zip(x.trained, x.rosters, strict=True)]
    # agents that no rule names stand beside those that the arms are made of
    others = [a for a, arm in on_tune[0].items() if arm.kind == "colleague"]
    readers = [*(a for a in ROUTERLESS if a != "E" and a in on_tune[0]), *others]
    if len(readers) < 2:
        return []
    found = []
    for left_out, names in subsets(readers):
        weights, cross, values = [], [], []
        for draw, t in enumerate(x.trained):
            arms = [on_tune[draw][n] for n in names]
            w, accuracy = _fitted_pool(t, arms)
            arm = pooled("pool", [x.by_draw[draw][n].arm for n in names], w)
            right = right_of(t.test.matrix, arm.weights)
            weights.append(w)
            cross.append(accuracy)
            values.append(np.asarray(known @ right[x.rows], np.float32))
        found.append(
            (left_out, names, weights, float(np.mean(cross)), over_models(values, x.models))
        )
    whole = found[0][-1]
    return [
        PoolRow(
            without=left_out,
            weights=dict(zip(names, (float(v) for v in np.mean(weights, axis=0)), strict=True)),
            tune_accuracy=cross_fitted,
            accuracy=estimate(values),
            gain=estimate(np.asarray(whole - (values if left_out else best), np.float32)),
        )
        for left_out, names, weights, cross_fitted, values in found
    ]


def _fitted_pool(t: Trained, arms: Sequence[Arm]) -> tuple[Float, float]:
    """Weights from all tune cases, and the macro accuracy of cross-fitted ones on them."""
    frame, matrix = t.tune.frame, t.tune.matrix
    rows = np.flatnonzero(frame.scored)
    outcomes = [arm_.outcomes(matrix, a).probabilities for a in arms]
    true = matrix.truth[rows].astype(np.intp)
    given = np.stack([o[rows, true] for o in outcomes if o is not None], axis=1)
    even = case_weights(frame, np.ones((1, frame.n_groups), np.float32), prevalence=0.0)[0, rows]
    fold = np.random.default_rng(0).permutation(frame.n_groups)[frame.group[rows]] % FOLDS
    right = np.zeros(len(rows), np.float32)
    for k in range(FOLDS):
        rest, own = fold != k, fold == k
        if own.any() and rest.any():
            arm = pooled("fold", arms, pool_weights(given[rest], even[rest]))
            right[own] = right_of(matrix, arm.weights)[rows][own]
    return pool_weights(given, even), float(even @ right)
