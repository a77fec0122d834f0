"""Candidates over all folds, and the one that is put forward by a stated rule.

Knows results of :mod:`curbside.indexes.selection`, no cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from curbside.config import ProjectionConfig
from curbside.errors import UserError
from curbside.indexes.selection import KINDS, PROJECTIONS, Result

__all__ = ["MARGIN", "Choice", "Standing", "choose", "standings"]

#: Means of AUROC closer than this are taken for equal.
MARGIN = 0.002
#: Least AUROC of any left-out modality: a mean may hide one that is not noticed.
WORST = 0.93


@dataclass(frozen=True)
class Standing:
    """One candidate over all folds of each kind; NaN where a kind has no fold.

    Args:
        far, far_worst, far_fpr95: left-out modalities: mean and least AUROC, mean FPR95.
        far_flagged: mean share of a left-out modality that is flagged.
        near, near_worst: left-out findings: mean and least AUROC.
        shift_flagged, shift_worst: left-out sources: mean and largest share flagged.
        shift_accuracy: mean share of a left-out source taken for its modality.
        unchanged: see :class:`Result`.
        served: it can be configured (pairs of scores are only measured).
    """

    projection: str
    score: str
    far: float
    far_worst: float
    far_fpr95: float
    far_flagged: float
    near: float
    near_worst: float
    shift_flagged: float
    shift_worst: float
    shift_accuracy: float
    unchanged: float
    served: bool


@dataclass(frozen=True)
class Choice:
    """The candidate put forward, and why."""

    projection: ProjectionConfig
    score: str
    standing: Standing
    why: str


def standings(results: Sequence[Result]) -> list[Standing]:
    """Every candidate's means and worst over folds, best far AUROC first."""
    by: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        by.setdefault((r.projection, r.score), []).append(r)
    out = []
    for (projection, score), mine in by.items():
        far, near, shift, copies = ([r for r in mine if r.fold.kind == k] for k in KINDS)
        out.append(
            Standing(
                projection,
                score,
                far=_mean([r.auroc for r in far]),
                far_worst=min((r.auroc for r in far), default=float("nan")),
                far_fpr95=_mean([r.fpr95 for r in far]),
                far_flagged=_mean([r.flagged for r in far]),
                near=_mean([r.auroc for r in near]),
                near_worst=min((r.auroc for r in near), default=float("nan")),
                shift_flagged=_mean([r.flagged for r in shift]),
                shift_worst=max((r.flagged for r in shift), default=float("nan")),
                shift_accuracy=_mean([r.modality_accuracy for r in shift]),
                unchanged=_mean([r.unchanged for r in copies]),
                served=" + " not in score,
            )
        )
    return sorted(out, key=lambda s: -s.far)


def choose(
    found: Sequence[Standing], projections: Mapping[str, ProjectionConfig] = PROJECTIONS
) -> Choice:
    """Far novelty first, then stability: of the candidates whose mean AUROC over left-out
    modalities is within 0.002 of the best and whose worst is 0.93 or more (where any is), the
    one whose decisions copies change least.

    Raises:
        UserError: nothing was measured.
    """
    served = [s for s in found if s.served and not np.isnan(s.far)]
    if not served:
        raise UserError("no candidate was measured on a left-out modality")
    top = max(s.far for s in served)
    near_top = [s for s in served if s.far >= top - MARGIN]
    even = [s for s in near_top if s.far_worst >= WORST]
    close = even or near_top
    best = max(close, key=lambda s: (-1.0 if np.isnan(s.unchanged) else s.unchanged, s.far))
    worst = f"at least {WORST:g}" if even else f"below {WORST:g}, as of all of them"
    why = (
        f"mean AUROC over left-out modalities {best.far:.4f}, within {MARGIN:g} of the best "
        f"({top:.4f}), worst {best.far_worst:.3f}, {worst}; of these {len(close)} candidates its "
        f"decisions change least under perturbed copies ({best.unchanged:.1%} unchanged)"
    )
    settings = projections[best.projection]
    return Choice(settings, best.score, best, why)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
