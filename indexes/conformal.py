"""Conformal p-values: how often would a known case look as strange as this one?

p = (1 + #{calibration scores ≥ s}) / (n + 1) (Vovk, Gammerman & Shafer 2005, ch. 2; as an
outlier test: Bates et al. 2023), within the stratum of the *predicted* modality (Mondrian),
backing off to all calibration cases where a stratum is small.  For a case exchangeable with
its stratum's calibration cases, P(p ≤ α) ≤ α.  Knows no vectors and no index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError, UserError

__all__ = ["POOLED", "Calibration", "PValues"]

POOLED = "all"


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
    """

    def __init__(
        self, scores: Mapping[str, NDArray[np.float64]], modalities: tuple[str, ...]
    ) -> None:
        if POOLED not in scores or not len(scores[POOLED]):
            raise InternalError("calibration needs pooled scores")
        own = [m for m in modalities if m in scores]
        self.strata: tuple[str, ...] = (POOLED, *own)
        self.modalities = modalities
        self._scores = [np.sort(np.asarray(scores[s], np.float64)) for s in self.strata]
        self._n = np.array([len(s) for s in self._scores], np.int32)
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
    ) -> Calibration:
        """Calibrate on cases that are not in the index.

        Args:
            scores: float64 (n,), higher is stranger.
            predicted: intp (n,), column of the *predicted* modality of each case, by the
                same rule as when serving (with the true one the strata would not match).
            minimum: fewest cases for a stratum of its own.

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
        return cls(by, modalities)

    def p_values(self, scores: NDArray[np.float64], predicted: NDArray[np.intp]) -> PValues:
        """p-values of m cases from their scores and predicted modality columns.

        A score that is NaN gets the smallest p-value there is: what cannot be compared is
        not familiar.
        """
        stratum = self._stratum_of[predicted]
        n = self._n[stratum]
        beyond = np.empty(len(scores), np.int64)
        for s in np.unique(stratum):
            rows = stratum == s
            known = self._scores[s]
            # NaN sorts last, so none is counted as strange as it
            beyond[rows] = len(known) - np.searchsorted(known, scores[rows], side="left")
        return PValues((1 + beyond) / (n + 1), stratum, n)

    def threshold(self, alpha: float, stratum: str) -> float:
        """The smallest score with p ≤ alpha; ``inf`` where no score can get there.

        Exact: ``p_values(s) <= alpha`` if and only if ``s >= threshold``.

        Raises:
            InternalError: no such stratum.
        """
        if stratum not in self.strata:
            raise InternalError(f"no stratum {stratum!r}; there are {', '.join(self.strata)}")
        known = self._scores[self.strata.index(stratum)]
        n = len(known)
        reachable = (1 + np.arange(n + 1)) / (n + 1)
        allowed = int(np.searchsorted(reachable, alpha, side="right")) - 1
        if allowed < 0:
            return float("inf")
        if allowed >= n:
            return float("-inf")
        # at most ``allowed`` scores may be as strange: strictly above the next one
        return float(np.nextafter(known[n - 1 - allowed], np.inf))

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Sorted scores by stratum, to be stored."""
        return dict(zip(self.strata, self._scores, strict=True))
