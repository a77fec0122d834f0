"""Are the cases of this window still like those that the p-values were calibrated on?

Per recognised modality, three tests of one question:

- p-values: two-sample Kolmogorov-Smirnov of the novelty scores of window and calibration
  stratum: p-values are ranks among those scores, so this compares them with uniform ones,
  and counts how few calibration cases there are;
- a test martingale (Vovk, Nouretdinov & Gammerman 2003): each score is ranked among the
  calibration scores and the window's earlier ones, and a mixture of power bets is placed on
  small p-values; by Ville's inequality P(sup M ≥ 1/δ) ≤ δ, so 1/sup M is a p-value whenever
  one looks;
- a classifier two-sample test on embeddings (Lopez-Paz & Oquab 2017): logistic regression
  learns to tell half of window and calibration apart, and is judged on the other half.

Two questions about the window as a whole: has the mix of modalities changed (χ²), and do
more cases have p ≤ 5 % than was promised (a beta-binomial for each stratum, which counts that
its calibration set is itself a draw)?  The second sees cases of a source that is taken for
many modalities.  Bonferroni over the three, Holm over modalities and both.  Knows no image and
no ledger.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError

# scipy.stats takes half a second to load, and serving only looks at what was found before:
# the functions that test load it

__all__ = ["LEVEL", "MINIMUM", "DriftReport", "ModalityDrift", "Sample", "drift", "martingale"]

Verdict = Literal["stable", "drift", "insufficient"]

#: Fewest cases of a modality in the window, and in calibration, for a verdict.
MINIMUM = 20
LEVEL = 0.05
#: Powers of the mixture; small ones bet on very small p-values.
_POWERS = np.linspace(0.05, 0.95, 19)
#: Expected count below which a modality is pooled with others in the χ².
_EXPECTED = 5.0
#: Level of p at which the promise is checked.
_PROMISE = 0.05
_PENALTY = 0.1


@dataclass(frozen=True)
class Sample:
    """n cases in the order in which they came.

    Args:
        modality: (n,), recognised.
        score: float64 (n,), novelty; higher is stranger.
        vectors: float32 (n, d), embeddings; a row of NaN where there is none.
        p_value: float64 (n,), as served; None for calibration cases, which have none.
        stratum, stratum_n: (n,), calibration stratum that gave each p-value, and int (n,), its
            cases; None where ``p_value`` is.
    """

    modality: NDArray[np.str_]
    score: NDArray[np.float64]
    vectors: NDArray[np.float32]
    p_value: NDArray[np.float64] | None = None
    stratum: NDArray[np.str_] | None = None
    stratum_n: NDArray[np.integer[Any]] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def of(self, modality: str) -> Sample:
        """The cases of one modality, without p-values."""
        rows = self.modality == modality
        return Sample(self.modality[rows], self.score[rows], self.vectors[rows])


@dataclass(frozen=True)
class ModalityDrift:
    """One modality: cases in window and calibration, and three p-values (NaN: not tested).

    ``p`` is Bonferroni's over the three, ``adjusted`` Holm's over modalities and mix;
    ``auroc`` is how well the classifier tells window from calibration, ½ where it cannot.
    """

    modality: str
    window: int
    calibration: int
    ks: float
    martingale: float
    classifier: float
    auroc: float
    p: float
    adjusted: float
    verdict: Verdict


@dataclass(frozen=True)
class DriftReport:
    """All modalities of the window, and its mix.

    ``strange`` is the share of cases with p ≤ 5 %, ``strange_p`` the chance of as many.
    ``suspended`` names the calibration strata whose guarantee does not hold for now:
    modalities that drifted, and the pooled one where any did, the mix has changed, or more
    cases are strange than was promised.
    """

    window: int
    calibration: int
    mix_p: float
    mix_adjusted: float
    mix: Verdict
    strange: float
    strange_p: float
    strange_adjusted: float
    promise: Verdict
    modalities: tuple[ModalityDrift, ...]
    suspended: tuple[str, ...]
    level: float = LEVEL

    @property
    def verdict(self) -> Verdict:
        """Of the window as a whole."""
        verdicts = {self.mix, self.promise, *(m.verdict for m in self.modalities)}
        if "drift" in verdicts:
            return "drift"
        return "stable" if "stable" in verdicts else "insufficient"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"verdict": self.verdict}


def drift(
    window: Sample, calibration: Sample, *, level: float = LEVEL, seed: int = 0, pooled: str = "all"
) -> DriftReport:
    """Compare a window with the calibration cases of the index that scored it.

    Args:
        level: chance that a window without drift is said to have drifted, at most.
        seed: of the halves and of ties.
        pooled: name of the stratum of all modalities.

    Raises:
        InternalError: no calibration case.
    """
    if not len(calibration):
        raise InternalError("drift is measured against calibration cases, and there are none")
    rng = np.random.default_rng(seed)
    found = [
        _modality(modality, window.of(modality), calibration.of(modality), rng)
        for modality in sorted(set(window.modality.tolist()))
    ]
    mix_p = _mix(window.modality, calibration.modality)
    strange, strange_p = _strange(window)
    adjusted = _holm(np.array([mix_p, strange_p, *(m.p for m in found)]))
    mix = _verdict(mix_p, adjusted[0], level)
    promise = _verdict(strange_p, adjusted[1], level)
    judged = tuple(
        ModalityDrift(**asdict(m) | {"adjusted": a, "verdict": _verdict(m.p, a, level)})
        for m, a in zip(found, adjusted[2:].tolist(), strict=True)
    )
    drifted = [m.modality for m in judged if m.verdict == "drift"]
    whole = bool(drifted) or "drift" in (mix, promise)
    suspended = [*([pooled] if whole else []), *drifted]
    return DriftReport(
        len(window),
        len(calibration),
        mix_p,
        float(adjusted[0]),
        mix,
        strange,
        strange_p,
        float(adjusted[1]),
        promise,
        judged,
        tuple(suspended),
        level,
    )


def martingale(
    score: NDArray[np.float64], calibration: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The path of the bets, float64 (n,); starts at 1 before the first.

    Args:
        score: float64 (n,), in the order in which cases came.
        calibration: float64 (m,), m ≥ 1.
    """
    known = np.sort(calibration)
    wealth = np.zeros(len(_POWERS))
    path = np.empty(len(score))
    for i, s in enumerate(score):
        left = np.searchsorted(known, s, "left")
        right = np.searchsorted(known, s, "right")
        above, ties = len(known) - right, right - left
        p = (above + rng.random() * (ties + 1)) / (len(known) + 1)
        wealth += np.log(_POWERS) + (_POWERS - 1) * np.log(max(p, 1e-12))
        path[i] = np.exp(wealth).mean()
        known = np.insert(known, right, s)
    return path


def _modality(
    modality: str, window: Sample, calibration: Sample, rng: np.random.Generator
) -> ModalityDrift:
    n, m = len(window), len(calibration)
    nan = float("nan")
    if min(n, m) < MINIMUM:
        return ModalityDrift(modality, n, m, nan, nan, nan, nan, nan, nan, "insufficient")
    from scipy import stats

    ks = float(stats.ks_2samp(window.score, calibration.score).pvalue)
    highest = martingale(window.score, calibration.score, rng).max()
    bets = float(min(1.0, 1 / highest))
    classifier, auroc = _classifier(window.vectors, calibration.vectors, rng)
    tests = [p for p in (ks, bets, classifier) if np.isfinite(p)]
    p = min(1.0, len(tests) * min(tests))
    return ModalityDrift(modality, n, m, ks, bets, classifier, auroc, p, nan, "stable")


def _classifier(
    window: NDArray[np.float32], calibration: NDArray[np.float32], rng: np.random.Generator
) -> tuple[float, float]:
    """One-sided p-value and AUROC on the half that was not learned from; NaN if too few."""
    from sklearn.linear_model import LogisticRegression

    a, b = (x[np.isfinite(x).all(axis=1)] for x in (window, calibration))
    if min(len(a), len(b)) < MINIMUM:
        return float("nan"), float("nan")
    x = np.concatenate([a, b]).astype(np.float64)
    y = np.arange(len(x)) < len(a)
    half = np.zeros(len(x), bool)
    for side in (np.flatnonzero(y), np.flatnonzero(~y)):
        half[rng.permutation(side)[: len(side) // 2]] = True
    scale = x[half].std(axis=0) + 1e-9
    x = (x - x[half].mean(axis=0)) / scale
    model = LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000)
    model.fit(x[half], y[half])
    said = model.decision_function(x[~half])
    ours, theirs = said[y[~half]], said[~y[~half]]
    from scipy import stats

    found = stats.mannwhitneyu(ours, theirs, alternative="greater")
    return float(found.pvalue), float(found.statistic / (len(ours) * len(theirs)))


def _mix(window: NDArray[np.str_], calibration: NDArray[np.str_]) -> float:
    """χ² of modality counts, rare ones pooled; NaN where there is too little to compare."""
    names = sorted({*window.tolist(), *calibration.tolist()})
    table = np.array([[(s == n).sum() for n in names] for s in (window, calibration)], float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / max(table.sum(), 1)
    thin = expected.min(axis=0) < _EXPECTED
    kept = np.column_stack([table[:, ~thin], table[:, thin].sum(axis=1)])
    kept = kept[:, kept.sum(axis=0) > 0]
    if len(window) < MINIMUM or kept.shape[1] < 2:
        return float("nan")
    from scipy import stats

    return float(stats.chi2_contingency(kept).pvalue)


def _strange(window: Sample) -> tuple[float, float]:
    """Share with p ≤ 5 %, and P(as many or more) where window and calibration are alike.

    A stratum's count is beta-binomial, and that of the window the sum of them: a window of one
    small stratum may stray as far as its few calibration cases let it.
    """
    nan = float("nan")
    p, stratum, n = window.p_value, window.stratum, window.stratum_n
    if p is None or stratum is None or n is None or len(p) < MINIMUM:
        return nan, nan
    from scipy import stats

    chance = np.ones(1)  # of 0, 1, … cases
    for name in np.unique(stratum):
        rows = stratum == name
        ranks, cases = int(n[rows][0]) + 1, int(rows.sum())
        rank = int(_PROMISE * ranks)
        if rank >= 1:  # else no p-value of it gets to 5 %
            own = stats.betabinom(cases, rank, ranks - rank)
            chance = np.convolve(chance, own.pmf(np.arange(cases + 1)))
    if len(chance) == 1:
        return nan, nan
    count = int((p <= _PROMISE).sum())
    return count / len(p), float(min(1.0, chance[count:].sum()))


def _holm(ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down adjustment (1979) of those that were tested; NaN stays."""
    out = np.full(len(ps), np.nan)
    tested = np.flatnonzero(np.isfinite(ps))
    order = tested[np.argsort(ps[tested], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(ps[order] * steps))
    return out


def _verdict(p: float, adjusted: float, level: float) -> Verdict:
    if not np.isfinite(p):
        return "insufficient"
    return "drift" if adjusted <= level else "stable"
