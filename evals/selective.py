"""How good an arm's own confidence is: selective risk, calibration, by replicate.

All of it over known cases with a task, each weighed so that modalities count evenly
(``weights``, float32 (r, n), rows sum to 1; row 0 the sample).  Unanswered cases come last
and count as wrong.

- Risk at coverage c: share wrong among the surest share c (El-Yaniv & Wiener 2010).
- AURC: the mean of that risk over all coverages (Geifman & El-Yaniv 2017).
- AUGRC: the mean, over all coverages, of the share of *all* cases that are answered wrongly
  (Traub et al. 2024); unlike AURC it does not weigh the first few cases most.
- Brier: squared distance between probabilities and truth, 0 to 2 (Brier 1950).
- Adaptive ECE: mean gap between confidence and accuracy over bins of equal weight
  (Nixon et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.metrics import ratio
from curbside.evals.statistics import interval

__all__ = [
    "COVERAGES",
    "Bin",
    "Selective",
    "brier",
    "calibration_error",
    "reliability",
    "selective",
    "share_interval",
]

Float = NDArray[np.float32]

COVERAGES = (0.7, 0.8, 0.9)
_BINS = 15
_BINS_BY_MODALITY = 8


@dataclass(frozen=True)
class Selective:
    """Each float32 (r,); ``risk`` by coverage."""

    aurc: Float
    augrc: Float
    risk: dict[float, Float]


@dataclass(frozen=True)
class Bin:
    """Some cases of similar confidence: how sure, how often right (95 %), how many."""

    confidence: float
    accuracy: float
    n: int
    low: float
    high: float


def selective(confidence: Float, right: Float, weights: Float) -> Selective:
    """Selective risk of n cases in r weightings.

    Args:
        confidence, right: float32 (n,).
        weights: float32 (r, n), rows sum to 1.
    """
    order = np.lexsort((np.arange(len(confidence)), -confidence.astype(np.float64)))
    w = weights[:, order]
    covered = np.cumsum(w, axis=1)
    wrong = np.cumsum(w * (1 - right[order]), axis=1)
    risk = np.divide(wrong, covered, out=np.zeros_like(wrong), where=covered > 0)
    at = {}
    last = len(order) - 1
    for c in COVERAGES:
        position = np.minimum((covered < c - 1e-6).sum(axis=1), last)
        at[c] = risk[np.arange(len(w)), position]
    return Selective((w * risk).sum(axis=1), (w * wrong).sum(axis=1), at)


def brier(outcomes: Outcomes, truth: NDArray[np.int16], rows: NDArray[np.intp]) -> Float | None:
    """Of each of some cases, float32 (len(rows),); None for arms that draw.

    An unanswered case has no probabilities, which costs 1: as much as knowing nothing of two.
    """
    if outcomes.probabilities is None:
        return None
    p = outcomes.probabilities[rows]
    at = truth[rows].astype(np.intp)
    own = p[np.arange(len(rows)), at]
    return np.asarray((p**2).sum(axis=1) - 2 * own + 1, np.float32)


def calibration_error(confidence: Float, right: Float, weights: Float, bins: int = _BINS) -> Float:
    """Adaptive ECE in r weightings, float32 (r,); bins are those of the sample."""
    if not len(confidence):
        return np.full(len(weights), np.nan, np.float32)
    member = np.zeros((len(confidence), bins), np.float32)
    member[np.arange(len(confidence)), _bin_of(confidence, weights[0], bins)] = 1
    gap = weights @ (member * (confidence - right)[:, None])
    return np.asarray(np.abs(gap).sum(axis=1), np.float32)


def reliability(
    frame: Frame, outcomes: Outcomes, rows: NDArray[np.intp], counts: Float
) -> dict[str, list[Bin]]:
    """Modality → bins of equal size, least sure first; counts: float32 (r, g) of each group."""
    found = {}
    for m in sorted(set(frame.modality[rows].tolist())):
        at = rows[frame.modality[rows] == m]
        at = at[np.argsort(outcomes.confidence[at], kind="stable")]
        parts = np.array_split(at, min(_BINS_BY_MODALITY, max(len(at) // 10, 1)))
        found[m] = [
            Bin(
                float(outcomes.confidence[p].mean()),
                float(outcomes.right[p].mean()),
                len(p),
                *share_interval(counts[:, frame.group[p]], outcomes.right[p]),
            )
            for p in parts
        ]
    return found


def share_interval(weights: Float, right: Float) -> tuple[float, float]:
    """95 % of the weighted mean of n values over r weightings, float32 (r, n)."""
    _, low, high = interval(ratio(weights @ right, weights.sum(axis=1)))
    return low, high


def _bin_of(confidence: Float, weight: Float, bins: int) -> NDArray[np.intp]:
    order = np.argsort(confidence, kind="stable")
    share = np.cumsum(weight[order]) - weight[order] / 2
    of = np.empty(len(order), np.intp)
    of[order] = np.minimum((share * bins).astype(np.intp), bins - 1)
    return of
