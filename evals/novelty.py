"""Modality, novelty and safety: what the assessment alone is worth.

All of it from pixels, on all readable cases, with or without a task.  ``novel_answered`` is
the safety number: the share of novel cases that a gate lets through when exactly 5 % of the
common cases are (falsely) referred, macro over the novel modalities.  It is never traded
off against anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.evals.frame import Frame
from curbside.evals.metrics import mean_known, ratio, weighted_auroc

__all__ = ["FALSE_DEFERRAL", "NoveltyValues", "answered_at", "measure_novelty"]

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

#: Realised share of common cases referred at which ``novel_answered`` is read off.
FALSE_DEFERRAL = 0.05


@dataclass(frozen=True)
class NoveltyValues:
    """Each float32 (r,): the sample in row 0, then its replicates; NaN where not assessable."""

    accuracy_common: Float
    accuracy_rare: Float
    auroc_vs_common: Float
    auroc_vs_known: Float
    fpr95: Float
    false_deferral: Float
    novel_answered: Float
    modality_accuracy: dict[str, Float]
    false_deferral_of: dict[str, Float]
    novel_answered_of: dict[str, Float]


def measure_novelty(
    frame: Frame,
    novelty: NDArray[np.float64],
    p_value: NDArray[np.float64],
    familiar: NDArray[np.float64],
    counts: Float,
    alpha: float,
) -> NoveltyValues:
    """Everything about modality and novelty.

    Args:
        frame: all evaluated cases, n rows; unreadable ones are left out here.
        novelty, p_value: float64 (n,), of the assessment.
        familiar: float64 (n,), the order in which the novelty gate refers.
        counts: float32 (r, g).
        alpha: the p-value at or below which the configured policy calls a case novel.
    """
    ok = frame.usable & (frame.tier != "")
    weight = counts[:, frame.group] * ok
    novel, common = ok & frame.novel, ok & (frame.tier == "common")
    rare = ok & (frame.tier == "rare")
    known = common | rare
    hit = (frame.predicted == frame.modality).astype(np.float32)
    flagged = (p_value <= alpha).astype(np.float32)

    def rate(values: Float, rows: Flags) -> Float:
        return ratio(weight[:, rows] @ values[rows], weight[:, rows].sum(axis=1))

    def by_modality(values: Float, rows: Flags) -> dict[str, Float]:
        return {
            m: rate(values, rows & (frame.modality == m))
            for m in sorted(set(frame.modality[rows].tolist()))
        }

    passed = answered_at(familiar, frame, common, novel, weight)
    return NoveltyValues(
        accuracy_common=rate(hit, common),
        accuracy_rare=rate(hit, rare),
        auroc_vs_common=_auroc(novelty, novel, common, weight),
        auroc_vs_known=_auroc(novelty, novel, known, weight),
        fpr95=_fpr95(novelty, novel, known, weight),
        false_deferral=rate(flagged, common),
        novel_answered=_macro(passed, len(counts)),
        modality_accuracy=by_modality(hit, known),
        false_deferral_of=by_modality(flagged, known),
        novel_answered_of=passed,
    )


def answered_at(
    score: NDArray[np.float64] | Float,
    frame: Frame,
    common: Flags,
    novel: Flags,
    weight: Float,
    budget: float = FALSE_DEFERRAL,
) -> dict[str, Float]:
    """Novel modality → share let through when the share ``budget`` of common cases is referred.

    Args:
        score: (n,), lowest referred first; ties are referred together, each in part.
        weight: float32 (r, n).
    """
    if not novel.any() or not common.any():
        return {}
    values, level = np.unique(score, return_inverse=True)
    r = len(weight)
    by_level = np.zeros((r, len(values)), np.float32)
    rows = np.flatnonzero(common)
    order = rows[np.argsort(level[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(level[order]) > 0])
    by_level[:, level[order][starts]] = np.add.reduceat(weight[:, order], starts, axis=1)
    share = ratio(np.cumsum(by_level, axis=1), by_level.sum(axis=1, keepdims=True) + 0 * by_level)
    # the level at which the budget is reached, and how much of it is referred
    cut = np.minimum((share < budget).sum(axis=1), len(values) - 1)
    each = np.arange(r)
    before = np.where(cut > 0, share[each, np.maximum(cut - 1, 0)], 0)
    step = np.asarray(share[each, cut] - before, np.float32)
    missing = np.asarray(budget - before, np.float32)
    part = np.clip(np.nan_to_num(ratio(missing, step)), 0, 1)
    out = {}
    for m in sorted(set(frame.modality[novel].tolist())):
        at = np.flatnonzero(novel & (frame.modality == m))
        through = (level[at][None, :] > cut[:, None]).astype(np.float32)
        through += (level[at][None, :] == cut[:, None]) * (1 - part[:, None])
        out[m] = ratio((through * weight[:, at]).sum(axis=1), weight[:, at].sum(axis=1))
    return out


def _macro(by: dict[str, Float], replicates: int) -> Float:
    if not by:
        return np.full(replicates, np.nan, np.float32)
    return mean_known(np.stack(list(by.values())))


def _auroc(score: NDArray[np.float64], novel: Flags, others: Flags, weight: Float) -> Float:
    rows = np.flatnonzero(novel | others)
    # ranks keep ties and order, and fit float32 exactly
    rank = np.unique(score[rows], return_inverse=True)[1].astype(np.float32)
    return weighted_auroc(rank, novel[rows], weight[:, rows])


def _fpr95(score: NDArray[np.float64], novel: Flags, known: Flags, weight: Float) -> Float:
    """Share of known cases above the score that 95 % of the novel ones reach."""
    r = len(weight)
    if not novel.any() or not known.any():
        return np.full(r, np.nan, np.float32)
    at = np.flatnonzero(novel)
    at = at[np.argsort(score[at])]
    share = np.cumsum(weight[:, at], axis=1)
    total = share[:, -1:]
    # the highest score with at least 95 % of the novel weight at or above it
    missed = (share <= 0.05 * total + 1e-4).sum(axis=1)
    threshold = score[at][np.minimum(missed, len(at) - 1)]
    order = np.flatnonzero(known)
    order = order[np.argsort(score[order])]
    below = np.searchsorted(score[order], threshold, side="left")
    cumulative = np.concatenate(
        [np.zeros((r, 1), np.float32), np.cumsum(weight[:, order], axis=1)], axis=1
    )
    flagged = cumulative[:, -1] - cumulative[np.arange(r), below]
    out = ratio(flagged, cumulative[:, -1])
    out[total[:, 0] <= 0] = np.nan
    return out
