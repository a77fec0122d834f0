"""May this index serve instead of the exact one?  Only where their decisions agree.

A graph finds most of the nearest vectors, not all.  What matters is not recall but whether
a case would be decided otherwise: its modality, and whether it is novel at any of the usual
levels, each index with its own calibration.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.errors import InternalError

__all__ = ["LEVELS", "REQUIRED", "Exchange", "agreement"]

#: Share of cases that must be decided alike.
REQUIRED = 0.995
#: Levels of p at which "novel" is compared.
LEVELS = (0.01, 0.05, 0.10)


@dataclass(frozen=True)
class Exchange:
    """What the check found; kept with the index.

    Args:
        kind, width: the index that was compared with the exact one; see ``vectors.py``.
        cases: held-out cases that both decided.
        agree: share decided alike, in [0, 1].
    """

    kind: str
    width: int
    cases: int
    agree: float

    @property
    def passed(self) -> bool:
        """At least :data:`REQUIRED` of the cases are decided alike."""
        return self.agree >= REQUIRED

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def agreement(one: Assessments, other: Assessments) -> float:
    """Share of n ≥ 1 cases with the same modality, and novel at the same levels.

    Raises:
        InternalError: other modalities or another number of cases, or none.
    """
    if one.modalities != other.modalities or len(one) != len(other) or not len(one):
        raise InternalError("two assessments of the same cases are compared, n ≥ 1")
    alike: NDArray[np.bool_] = one.modality == other.modality
    for level in LEVELS:
        alike = alike & ((one.p_value <= level) == (other.p_value <= level))
    return float(alike.mean())
