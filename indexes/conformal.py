"""Conformal p-values: how often would a known case look as strange as this one?

p = (1 + #{calibration scores ≥ s}) / (n + 1) (Vovk, Gammerman & Shafer 2005, ch. 2; as an
outlier test: Bates et al. 2023), within the stratum of the *predicted* modality (Mondrian),
backing off to all calibration cases where a stratum is small.  For a case exchangeable with
its stratum's calibration cases, P(p ≤ α) ≤ α, on average over calibration sets.

On request (``confidence`` = 1 − δ) the statement is about *this* calibration set: the value
k / (n + 1) is replaced by the 1 − δ quantile of Beta(k, n + 1 − k), which is how the share of
exchangeable cases at or below it is distributed over sets (Vovk 2012, "Conditional validity
of inductive conformal predictors"; Bates et al. 2023, section 3).  Then, for each α taken
alone, at least 1 − δ of calibration sets flag at most a share α.  Knows no vectors and no
index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError, UserError
from curbside.indexes.store import tensor_bytes
from curbside.study import content_hash

__all__ = ["POOLED", "Calibration", "PValues", "smallest_stratum"]

POOLED = "all"


def smallest_stratum(alpha: float, confidence: float = 0.0) -> int:
    """Fewest calibration cases with which any score can reach p ≤ alpha.

    19 at 5 %; 45 at 5 % with confidence 0.9.

    Args:
        alpha: in (0, 1).
        confidence: 1 − δ in [0, 1); 0 for the statement on average over calibration sets.
    """
    if confidence:
        # Beta(1, n) is at most α with probability 1 − (1 − α)^n
        return int(np.ceil(np.log(1 - confidence) / np.log(1 - alpha)))
    return int(np.ceil(round(1 / alpha, 9))) - 1


@dataclass(frozen=True)
class PValues:
    """p-values of m cases.

    Args:
        p_value: float64 (m,), in (0, 1].
        stratum: int16 (m,), index into the calibration's ``strata``.
        stratum_n: int32 (m,), calibration cases in that stratum.
    """

    p_value: NDArray[np.float64]
    stratum: NDArray[np.int16]
    stratum_n: NDArray[np.int32]


class Calibration:
    """Sorted calibration scores, pooled and by predicted modality.

    Args:
        scores: stratum to its scores; ``"all"`` must be there.  A stratum that is absent
            backs off to ``"all"``.
        modalities: names that predicted columns refer to.
        confidence: 1 − δ in [0, 1) of a statement about this calibration set; 0 for the
            statement on average over sets.
        data: hash of the calibration cases, kept with the scores.
    """

    def __init__(
        self,
        scores: Mapping[str, NDArray[np.float64]],
        modalities: tuple[str, ...],
        confidence: float = 0.0,
        data: str = "",
    ) -> None:
        if POOLED not in scores or not len(scores[POOLED]):
            raise InternalError("calibration needs pooled scores")
        own = [m for m in modalities if m in scores]
        self.strata: tuple[str, ...] = (POOLED, *own)
        self.modalities = modalities
        self.confidence, self.data = confidence, data
        self._scores = [np.sort(np.asarray(scores[s], np.float64)) for s in self.strata]
        self._n = np.array([len(s) for s in self._scores], np.int32)
        self._levels = [_levels(len(s), confidence) for s in self._scores]
        place = {s: i for i, s in enumerate(self.strata)}
        self._stratum_of = np.array([place.get(m, 0) for m in modalities], np.int16)

    @classmethod
    def fit(
        cls,
        scores: NDArray[np.float64],
        predicted: NDArray[np.intp],
        modalities: tuple[str, ...],
        *,
        minimum: int,
        confidence: float = 0.0,
        data: str = "",
    ) -> Calibration:
        """Calibrate on cases that are not in the index.

        Args:
            scores: float64 (n,), higher is stranger.
            predicted: intp (n,), column of the *predicted* modality of each case, by the
                same rule as when serving (with the true one the strata would not match).
            minimum: fewest cases for a stratum of its own.
            confidence, data: see the class.

        Raises:
            UserError: no calibration case, or a score that is not finite.
        """
        if not len(scores):
            raise UserError(
                "there is no calibration case, so no p-value can be had",
                hint="add cases of role 'calibration' to the manifest",
            )
        if not np.isfinite(scores).all():
            raise InternalError("calibration scores must be finite")
        by = {POOLED: scores}
        for j, name in enumerate(modalities):
            mine = scores[predicted == j]
            if len(mine) >= minimum:
                by[name] = mine
        return cls(by, modalities, confidence, data)

    def p_values(self, scores: NDArray[np.float64], predicted: NDArray[np.intp]) -> PValues:
        """p-values of m cases from their scores and predicted modality columns.

        A score that is NaN gets the smallest p-value there is: what cannot be compared is
        not familiar.
        """
        stratum = self._stratum_of[predicted]
        p = np.empty(len(scores))
        for s in np.unique(stratum):
            rows = stratum == s
            known = self._scores[s]
            # NaN sorts last, so none is counted as strange as it
            beyond = len(known) - np.searchsorted(known, scores[rows], side="left")
            p[rows] = self._levels[s][beyond]
        return PValues(p, stratum, self._n[stratum])

    def threshold(self, alpha: float, stratum: str) -> float:
        """The smallest score with p ≤ alpha; ``inf`` where no score can get there.

        Exact: ``p_values(s) <= alpha`` if and only if ``s >= threshold``.

        Raises:
            InternalError: no such stratum.
        """
        if stratum not in self.strata:
            raise InternalError(f"no stratum {stratum!r}; there are {', '.join(self.strata)}")
        at = self.strata.index(stratum)
        known = self._scores[at]
        n = len(known)
        allowed = int(np.searchsorted(self._levels[at], alpha, side="right")) - 1
        if allowed < 0:
            return float("inf")
        if allowed >= n:
            return float("-inf")
        # at most ``allowed`` scores may be as strange: strictly above the next one
        return float(np.nextafter(known[n - 1 - allowed], np.inf))

    def blind(self, alpha: float) -> tuple[str, ...]:
        """Strata too small for any score to reach p ≤ alpha: nothing in them is ever flagged."""
        return tuple(s for s in self.strata if self.threshold(alpha, s) == float("inf"))

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Sorted scores by stratum, to be stored."""
        return dict(zip(self.strata, self._scores, strict=True))

    @property
    def facts(self) -> dict[str, Any]:
        """What :meth:`scores` do not say, to be stored."""
        return {"confidence": self.confidence, "data": self.data}

    def digest(self, index: str) -> str:
        """Hash over scores, their cases, the confidence, and the index they were measured on."""
        body = (tensor_bytes(self.scores()), f"{self.confidence!r} {self.data}")
        return content_hash(index, *body)


def _levels(n: int, confidence: float) -> NDArray[np.float64]:
    """p-values by how many of n scores are as strange, float64 (n + 1,), ascending."""
    rank = 1 + np.arange(n + 1)
    if not confidence:
        return rank / (n + 1)
    # Beta(n + 1, 0) is the point 1
    # most of a cold start's half second, and only for this correction
    from scipy import stats

    corrected = stats.beta.ppf(confidence, rank[:-1], n + 1 - rank[:-1])
    return np.append(corrected, 1.0)
