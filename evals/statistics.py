"""Paired bootstrap over groups, intervals, Holm, and the verdict.

Groups (patients, videos, papers) are drawn with replacement, as many as there are, within
each modality; every arm is scored on the same draw, so a contrast's noise is that of the
difference.  Where several few-shot draws and seeds were trained, those are drawn with
replacement too, within the same replicate (Efron & Tibshirani 1993, chapters 13 and 16;
Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEVEL",
    "Contrast",
    "Family",
    "Verdict",
    "contrasts",
    "draw_groups",
    "draw_models",
    "holm",
    "interval",
    "minimum_detectable",
    "over_models",
    "p_value",
    "verdict",
]

Float = NDArray[np.float32]

#: Two-sided level of intervals and of the family of the two comparisons.
LEVEL = 0.05
#: z(0.975) + z(0.80): a difference of this many standard errors is found 80 % of the time.
_POWER_80 = 1.959964 + 0.841621


def draw_groups(
    n_groups: int, replicates: int, seed: int, strata: NDArray[np.intp] | None = None
) -> Float:
    """How often each group is drawn, float32 (replicates + 1, g); row 0 is all ones.

    Args:
        strata: intp (g,), stratum of each group; each stratum is resampled by itself, so that
            every replicate holds as many groups of it as the sample does.
    """
    counts = np.ones((replicates + 1, n_groups), np.float32)
    rng = np.random.default_rng([seed, 1])
    named = np.zeros(n_groups, np.intp) if strata is None else strata
    for stratum in np.unique(named):
        at = np.flatnonzero(named == stratum)
        counts[1:, at] = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=replicates)
    return counts


def draw_models(n_models: int, replicates: int, seed: int) -> Float:
    """Weight of each trained draw, float32 (replicates + 1, m), rows sum to 1; row 0 even."""
    rng = np.random.default_rng([seed, 2])
    even = np.full(n_models, 1 / n_models)
    drawn = rng.multinomial(n_models, even, size=replicates) / n_models
    return np.concatenate([even[None], drawn]).astype(np.float32)


def over_models(values: Sequence[Float], weights: Float) -> Float:
    """Mean of one metric over trained draws, as drawn in each replicate, float32 (r,)."""
    if len(values) == 1:
        return values[0]
    stack = np.stack(values, axis=1)
    used = weights * ~np.isnan(stack)
    total = used.sum(axis=1)
    mean = (used * np.nan_to_num(stack)).sum(axis=1)
    out = np.full(len(stack), np.nan, np.float32)
    return np.asarray(np.divide(mean, total, out=out, where=total > 0), np.float32)


def interval(values: Float, level: float = LEVEL) -> tuple[float, float, float]:
    """(estimate, low, high): row 0 and the percentiles of the rest; NaN where unknown."""
    estimate, draws = float(values[0]), values[1:]
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(estimate):
        return estimate, float("nan"), float("nan")
    low, high = np.quantile(draws, [level / 2, 1 - level / 2])
    return estimate, float(low), float(high)


def intervals(values: Float, level: float = LEVEL) -> NDArray[np.float64]:
    """:func:`interval` of many rows at once: (m, r) to (m, 3)."""
    draws = np.sort(values[:, 1:], axis=1)  # NaN sorts last
    n = (~np.isnan(draws)).sum(axis=1)
    out = np.full((len(values), 3), np.nan)
    out[:, 0] = values[:, 0]
    rows = np.flatnonzero((n > 0) & ~np.isnan(values[:, 0]))
    for column, q in ((1, level / 2), (2, 1 - level / 2)):
        at = q * (n[rows] - 1)
        below = np.floor(at).astype(np.intp)
        above = np.minimum(below + 1, n[rows] - 1)
        a, b = draws[rows, below].astype(float), draws[rows, above].astype(float)
        out[rows, column] = a + (at - below) * (b - a)
    return out


def p_value(differences: Float) -> float:
    """Two-sided bootstrap p-value of "no difference"; never 0 (Davison & Hinkley 1997, 4.2)."""
    draws = differences[1:]
    draws = draws[~np.isnan(draws)]
    if not len(draws) or np.isnan(differences[0]):
        return float("nan")
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(draws) + 1))


def minimum_detectable(differences: Float) -> float:
    """The difference that this sample would have shown with 80 % power: about 2.8 SE."""
    draws = differences[1:]
    draws = draws[~np.isnan(draws)]
    return _POWER_80 * float(draws.std(ddof=1)) if len(draws) > 1 else float("nan")


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment; NaN stays NaN but still counts as a comparison."""
    out, largest = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda k: (np.isnan(p[k]), p[k]))):
        if np.isnan(p[name]):
            out[name] = float("nan")
            continue
        largest = max(largest, min(1.0, (len(p) - i) * p[name]))
        out[name] = largest
    return out


@dataclass(frozen=True)
class Contrast:
    """a − b on one metric.

    Args:
        low, high: 95 % percentile interval, not adjusted.
        holm_low: lower bound at the level that Holm leaves this family; NaN outside them.
        p, p_holm: two-sided; ``p_holm`` NaN where the contrast is in no family.
    """

    family: str
    a: str
    b: str
    metric: str
    delta: float
    low: float
    high: float
    holm_low: float
    p: float
    p_holm: float
    minimum_detectable: float

    @property
    def beats(self) -> bool:
        """a is better, also after Holm."""
        return self.delta > 0 and self.holm_low > 0 and self.p_holm <= LEVEL

    @property
    def verdict(self) -> str:
        """``a better`` | ``b better`` | ``no difference shown`` | ``not assessable``."""
        p = self.p if np.isnan(self.p_holm) else self.p_holm
        if np.isnan(self.delta) or np.isnan(p):
            return "not assessable"
        if p <= LEVEL and self.low > 0:
            return "a better"
        if p <= LEVEL and self.high < 0:
            return "b better"
        return "no difference shown"


@dataclass(frozen=True)
class Family:
    """One pre-registered comparison: the hybrid against each opponent on one metric.

    Args:
        values: arm → float32 (r,), the metric in the sample and its replicates.
    """

    name: str
    metric: str
    values: Mapping[str, Float]


def contrasts(hybrid: str, opponents: Sequence[str], families: Sequence[Family]) -> list[Contrast]:
    """The hybrid against every opponent on every family, with Holm over the families.

    A family is the claim "better than *all* opponents", so its p-value is the largest of its
    contrasts' (intersection–union, Berger 1982), and Holm runs over the families.
    """
    differences = {f.name: {b: f.values[hybrid] - f.values[b] for b in opponents} for f in families}
    p = {f: {b: p_value(d) for b, d in by.items()} for f, by in differences.items()}
    # no better than an opponent in the sample: the claim has p = 1, however small p is
    claim = {
        f: max(1.0 if differences[f][b][0] <= 0 else p[f][b] for b in opponents)
        if not any(np.isnan(p[f][b]) for b in opponents)
        else float("nan")
        for f in differences
    }
    adjusted = holm(claim)
    order = sorted(claim, key=lambda k: (np.isnan(claim[k]), claim[k]))
    out = []
    for family in families:
        place = order.index(family.name)
        factor = len(order) - place
        # a family may only be judged at its own level once those before it were shown
        before = max((adjusted[f] for f in order[:place]), default=0.0)
        if before > LEVEL or np.isnan(before):
            factor = len(order)
        for b in opponents:
            d = differences[family.name][b]
            estimate, low, high = interval(d)
            out.append(
                Contrast(
                    family=family.name,
                    a=hybrid,
                    b=b,
                    metric=family.metric,
                    delta=estimate,
                    low=low,
                    high=high,
                    holm_low=interval(d, LEVEL / factor)[1],
                    p=p[family.name][b],
                    p_holm=min(1.0, factor * p[family.name][b]),
                    minimum_detectable=minimum_detectable(d),
                )
            )
    return out


@dataclass(frozen=True)
class Verdict:
    """The answer, and what it rests on.

    Args:
        won: families on which the hybrid beat every opponent.
        not_beaten: family → opponents that the hybrid did not beat.
        dearer: the hybrid costs more than the ensemble, which rules a win out.
    """

    hybrid: str
    won: tuple[str, ...]
    not_beaten: Mapping[str, tuple[str, ...]]
    dearer: bool
    assessable: bool

    @property
    def text(self) -> str:
        """As printed."""
        if not self.assessable:
            return "not assessable: no case of a known modality has a task and a truth"
        if self.won and not self.dearer:
            return "the hybrid beats each alone"
        if self.dearer and self.won:
            return f"routing does not pay here: {self.hybrid} costs more than E"
        parts = [f"{', '.join(b)} on {f}" for f, b in self.not_beaten.items() if b]
        return f"routing does not pay here: {self.hybrid} did not beat " + "; ".join(parts)


def verdict(
    hybrid: str, found: Sequence[Contrast], *, cost: float, ensemble_cost: float
) -> Verdict:
    """Reach the verdict by intersection–union over the contrasts of the families."""
    families = list(dict.fromkeys(c.family for c in found))
    open_ = {f: tuple(c.b for c in found if c.family == f and not c.beats) for f in families}
    return Verdict(
        hybrid=hybrid,
        won=tuple(f for f in families if not open_[f]),
        not_beaten={f: b for f, b in open_.items() if b},
        dearer=cost > ensemble_cost * (1 + 1e-6),
        assessable=any(not np.isnan(c.delta) for c in found),
    )
