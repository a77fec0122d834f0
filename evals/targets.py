"""What the served index must hold, all at once: one row a target, with what was measured.

Each target is measured elsewhere (:mod:`curbside.evals.familiarity`,
:mod:`curbside.evals.stability`, :mod:`curbside.indexes.selection`); here they are only
compared with their limits, so that no change trades one for another unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curbside.evals.familiarity import Band, Novel
from curbside.evals.stability import FLOORS, Stability
from curbside.indexes.conformal import POOLED
from curbside.indexes.selection import Result

__all__ = ["Target", "targets"]

#: Points by which the share of known cases flagged may differ from α = 5 %.
_AROUND = 0.02


@dataclass(frozen=True)
class Target:
    """One requirement: ``low`` ≤ ``value`` ≤ ``high``."""

    name: str
    value: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Within its limits; what could not be measured does not hold."""
        return self.low <= self.value <= self.high

    @property
    def limit(self) -> str:
        """The limits, for people."""
        if self.low <= 0:
            return f"≤ {self.high:g}"
        return f"≥ {self.low:g}" if self.high >= 1 else f"{self.low:g} to {self.high:g}"


def targets(
    novel: Sequence[Novel],
    flagged: float,
    bands: Sequence[Band],
    stability: Sequence[Stability],
    left_out: Sequence[Result],
) -> list[Target]:
    """Every target.

    Args:
        novel: each novel modality against the known, and ``"all"`` of them, at α = 5 and 10 %.
        flagged: share of known cases with p ≤ 5 %.
        bands: of known cases by stratum and α.
        left_out: folds of kind ``modality`` of the served projection and score.
    """
    out = []
    each = [n.auroc for n in novel if n.modality != POOLED]
    for every in (n for n in novel if n.modality == POOLED):
        out += [
            Target("novel against known: AUROC", every.auroc, 0.99, 1),
            Target("… FPR95", every.fpr95, 0, 0.04),
            Target("… macro over novel modalities", float(np.mean(each)), 0.985, 1),
            Target("… worst of them", min(each), 0.97, 1),
            Target("… flagged at α = 5 %", every.flagged[0.05], 0.92, 1),
            Target("… flagged at α = 10 %", every.flagged[0.10], 0.97, 1),
        ]
    above = sum(not b.inside for b in bands)
    far = [r.auroc for r in left_out] or [float("nan")]
    out += [
        Target("a modality left out: mean AUROC", float(np.mean(far)), 0.985, 1),
        Target("… worst", min(far), 0.93, 1),
        Target("known flagged at α = 5 %", flagged, 0.05 - _AROUND, 0.05 + _AROUND),
        Target("… strata and levels above their band", float(above), 0, 0),
    ]
    return out + [Target(f"same route: {s.name}", s.same, FLOORS[s.size], 1) for s in stability]
