"""What the served index says of held-back cases: novelty found, and familiar cases flagged.

The flagged share of familiar cases is compared with what chance allows.  In a stratum of n
calibration cases with k = ⌊α(n + 1)⌋, the flagged share over calibration sets is
Beta(k, n + 1 − k), so the number flagged of m new cases is beta-binomial.  Cases of one
group are not independent: m counts groups, and k and n + 1 − k shrink by calibration groups
per calibration case.  Bands hold for all strata and levels at once (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from curbside.assessments import Assessments
from curbside.indexes.conformal import POOLED
from curbside.indexes.selection import auroc

__all__ = [
    "ALPHAS",
    "Band",
    "Novel",
    "bands",
    "familiarity_markdown",
    "novel_modalities",
]

ALPHAS = (0.01, 0.05, 0.10)
_LEVEL = 0.05


@dataclass(frozen=True)
class Band:
    """Familiar cases of one calibration stratum at one α.

    Args:
        stratum: modality, or ``"all"`` for those that backed off.
        cases, groups: evaluated; ``calibration``: cases that gave the p-values.
        flagged: share with p ≤ α, each group weighing the same.
        low, high: simultaneous band of that share.
    """

    stratum: str
    alpha: float
    cases: int
    groups: int
    calibration: int
    flagged: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Not above the band.  Below it fewer cases are referred than α allows, which
        calibrating with copies makes likely and nothing forbids."""
        return self.flagged <= self.high


@dataclass(frozen=True)
class Novel:
    """One modality that was never seen, against all known cases."""

    modality: str
    cases: int
    auroc: float
    fpr95: float
    flagged: Mapping[float, float]


def bands(
    assessments: Assessments,
    groups: NDArray[np.str_],
    *,
    alphas: Sequence[float] = ALPHAS,
    groups_per_case: Mapping[str, float] = MappingProxyType({}),
    level: float = _LEVEL,
) -> list[Band]:
    """Flagged shares of familiar cases by stratum, with their band.

    Args:
        assessments: of n cases of known modalities.
        groups: (n,), ``""`` stands for itself.
        groups_per_case: stratum → groups per calibration case in it, in (0, 1]; default 1.
        level: chance that any share leaves its band though all is exchangeable.
    """
    names = np.array(assessments.strata)[assessments.stratum]
    alone = np.char.add("\0", np.arange(len(groups)).astype(str))
    groups = np.where(groups == "", alone, groups)
    strata = [str(s) for s in np.unique(names)]
    tail = level / (2 * max(1, len(strata) * len(alphas)))
    out = []
    for stratum in sorted(strata, key=lambda s: (s == POOLED, s)):
        rows = np.flatnonzero(names == stratum)
        n = int(assessments.stratum_n[rows[0]])
        _, of = np.unique(groups[rows], return_inverse=True)
        size = np.bincount(of)
        for alpha in alphas:
            hit = assessments.p_value[rows] <= alpha
            share = float((np.bincount(of, weights=hit) / size).mean())
            low, high = _limits(alpha, n, groups_per_case.get(stratum, 1.0), len(size), tail)
            out.append(Band(stratum, alpha, len(rows), len(size), n, share, low, high))
    return out


def _limits(alpha: float, n: int, ratio: float, m: int, tail: float) -> tuple[float, float]:
    k = int(np.floor(round(alpha * (n + 1), 9)))
    if k == 0:
        return 0.0, 0.0  # no p-value gets there
    if k > n:
        return 0.0, 1.0
    flagged = stats.betabinom(m, k * ratio, (n + 1 - k) * ratio)
    return float(flagged.ppf(tail)) / m, float(flagged.ppf(1 - tail)) / m


def novel_modalities(
    assessments: Assessments,
    modalities: NDArray[np.str_],
    novel: NDArray[np.bool_],
    *,
    alphas: Sequence[float] = ALPHAS,
) -> list[Novel]:
    """Each novel modality against all known cases, then ``"all"`` of them together.

    Args:
        modalities: (n,), the truth.
        novel: bool (n,).
    """
    score = assessments.novelty
    out = []
    names = [str(m) for m in np.unique(modalities[novel])]
    for name in [*names, POOLED] if names and not novel.all() else []:
        rows = novel & ((modalities == name) | (name == POOLED))
        limit = np.quantile(score[rows], 0.05, method="lower")
        out.append(
            Novel(
                name,
                int(rows.sum()),
                auroc(score[~novel], score[rows]),
                float((score[~novel] >= limit).mean()),
                {a: float((assessments.p_value[rows] <= a).mean()) for a in alphas},
            )
        )
    return out


def familiarity_markdown(found: Sequence[Band], novel: Sequence[Novel]) -> str:
    """Both tables."""
    lines = []
    if novel:
        levels = list(novel[0].flagged)
        heads = " | ".join(f"flagged at {a:.0%}" for a in levels)
        lines += [
            f"| novel modality | cases | AUROC | FPR95 | {heads} |",
            "| --- " + "| ---: " * (3 + len(levels)) + "|",
        ]
        for x in novel:
            shares = " | ".join(f"{x.flagged[a]:.1%}" for a in levels)
            lines.append(f"| {x.modality} | {x.cases} | {x.auroc:.4f} | {x.fpr95:.3f} | {shares} |")
        each = [x for x in novel if x.modality != POOLED]
        macro, worst = np.mean([x.auroc for x in each]), min(x.auroc for x in each)
        lines += ["", f"Macro AUROC over novel modalities {macro:.4f}, worst {worst:.4f}.", ""]
    lines += [
        "| stratum | α | cases | groups | calibration | flagged | band | |",
        "| --- " + "| ---: " * 6 + "| --- |",
    ]
    lines += [
        f"| {b.stratum} | {b.alpha:.0%} | {b.cases} | {b.groups} | {b.calibration} "
        f"| {b.flagged:.1%} | {b.low:.1%} to {b.high:.1%} | {'' if b.inside else 'above'} |"
        for b in found
    ]
    return "\n".join(lines) + "\n"
