"""Columnar facts about many cases: what was seen, and what is known about the like.

Struct of arrays, n rows; the same arrays feed the graph (n = 1), the batch and a
million replayed decisions, so they cannot disagree.  Nothing here knows a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError

__all__ = ["Assessments", "Embeddings"]

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors after the learned projection.

    Args:
        vectors: float32 (n, d), rows of length 1 within 1e-3.
        fingerprint: one hash over weights, preprocessing and projection.
    """

    vectors: Float
    fingerprint: str

    def __post_init__(self) -> None:
        v = self.vectors
        if v.ndim != 2 or v.dtype != np.float32:
            raise InternalError(f"embeddings must be float32 (n, d), not {v.dtype} {v.shape}")
        if len(v) and not np.allclose(np.linalg.norm(v, axis=1), 1.0, atol=1e-3):
            raise InternalError("embeddings must be unit vectors")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Assessments:
    """What the index knows about n cases, from their pixels alone.

    Args:
        modalities: names of the m columns of ``posterior``.
        agents: names of the a columns of the competence arrays (may be empty).
        posterior: float32 (n, m), rows sum to 1.
        novelty: float64 (n,), higher is stranger.
        p_value: float64 (n,), conformal, in (0, 1].
        stratum: int16 (n,), index into ``strata`` of the calibration stratum that gave ``p_value``.
        stratum_n: int32 (n,), calibration cases in that stratum.
        strata: names that ``stratum`` points into; ``"all"`` is the pooled one.
        support: int32 (n,), labelled training cases of the predicted modality.
        specialist: int16 (n,), column of ``agents`` of the predicted modality's specialist, or -1.
        neighbours: int64 (n, k), rows of the index, nearest first.
        similarity: float32 (n, k), cosine.
        tag_disagreement: bool (n,), tags name another modality than the pixels do.
        competence, competence_low, competence_high: float32 (n, a), P(correct), NaN where unknown.
        competence_support: float32 (n, a), effective number of outcomes behind each estimate.
    """

    modalities: tuple[str, ...]
    agents: tuple[str, ...]
    strata: tuple[str, ...]
    posterior: Float
    novelty: NDArray[np.float64]
    p_value: NDArray[np.float64]
    stratum: NDArray[np.int16]
    stratum_n: NDArray[np.int32]
    support: NDArray[np.int32]
    specialist: NDArray[np.int16]
    neighbours: NDArray[np.int64]
    similarity: Float
    tag_disagreement: NDArray[np.bool_]
    competence: Float
    competence_low: Float
    competence_high: Float
    competence_support: Float

    def __len__(self) -> int:
        return len(self.p_value)

    @property
    def modality(self) -> NDArray[np.intp]:
        """intp (n,): column of the most likely modality."""
        best: NDArray[np.intp] = self.posterior.argmax(axis=1)
        return best

    def take(self, rows: NDArray[np.intp] | slice) -> Self:
        """The same facts for some rows (column names are kept)."""
        named = {"modalities", "agents", "strata"}
        picked = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in named}
        return replace(self, **picked)
