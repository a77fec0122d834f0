"""Which projection and which novelty score?  Chosen on ``train`` and ``tune`` by leaving out.

Each fold takes something away from the training cases, fits projection and score on what is
left, and asks how strange the held-out cases look beside the ``tune`` cases:

- ``modality`` (far novelty): all cases of one modality are strangers;
- ``label`` (near novelty): all cases of one finding, beside others of its modality;
- ``source`` (covariate shift): all cases of one source of a modality that has others; these
  are *known*, and each flagged one is a false alarm;
- ``copies``: nothing is left out, and tune images are compared with perturbed copies.

Cases of role ``calibration`` or ``test`` are refused.  Knows no agent and no policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from curbside.config import ProjectionConfig
from curbside.errors import UserError
from curbside.indexes.features import Features
from curbside.indexes.novelty import SCORES, fit_score
from curbside.indexes.posterior import vote
from curbside.indexes.projection import Projection, class_names
from curbside.indexes.vectors import VectorIndex
from curbside.indexes.views import Views

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = [
    "PROJECTIONS",
    "Choice",
    "Fold",
    "Result",
    "Standing",
    "auroc",
    "choose",
    "folds_of",
    "leave_out",
    "standings",
]

#: Projections that are compared, the plainest first.
PROJECTIONS: dict[str, ProjectionConfig] = {
    "none": ProjectionConfig(kind="none"),
    "lda": ProjectionConfig(dimensions=128, invariance=0.0),
    "lda-invariant": ProjectionConfig(),
}
KINDS = ("modality", "label", "source", "copies")
#: Neighbours that vote and that ``knn`` sees.
_NEIGHBOURS = 10
#: Fewest held-out cases of a fold: fewer say nothing.
_FEWEST = 10
#: Findings of a modality that are left out, spread over their numbers of cases.
_LABELS = 2
#: False alarms among tune cases at which flags are counted.
ALPHA = 0.05
#: Means of AUROC closer than this are taken for equal.
MARGIN = 0.002


@dataclass(frozen=True)
class Fold:
    """What is left out: the cases of ``modality`` (and of ``name`` in it)."""

    kind: str
    modality: str = ""
    name: str = ""


@dataclass(frozen=True)
class Result:
    """One candidate on one fold.

    Args:
        n: held-out cases.
        auroc, fpr95: held-out cases against known ones (for a label: of its modality).
        flagged: share of held-out cases stranger than 95 % of the known tune cases.
        modality_accuracy: share of held-out cases taken for their modality; NaN where that
            is left out.
        unchanged: share flagged or not flagged alike, image and copy; NaN but for ``copies``.
    """

    fold: Fold
    projection: str
    score: str
    n: int
    auroc: float
    fpr95: float
    flagged: float
    modality_accuracy: float
    unchanged: float


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


def folds_of(cases: Cases, sources: NDArray[np.str_]) -> list[Fold]:
    """Every fold that the cases allow.

    Args:
        cases: of roles ``train`` and ``tune``.
        sources: (n,), where each case comes from; ``""`` where that is not known.

    Raises:
        UserError: cases of another role, or fewer than three modalities.
    """
    others = sorted(set(cases.roles.tolist()) - {"train", "tune"})
    if others:
        raise UserError(
            "a novelty score is chosen on roles 'train' and 'tune' only, but there are cases of "
            f"role {', '.join(repr(o) for o in others)}",
            hint="calibration and test cases must not choose what they judge",
        )
    train = cases.roles == "train"
    names = sorted(set(cases.modalities[train].tolist()) - {""})
    if len(names) < 3:
        raise UserError(
            f"leaving a modality out needs train cases of three or more, not {len(names)}",
            hint="add cases to the manifest",
        )
    out = [Fold("modality", m) for m in names if (cases.modalities == m).sum() >= _FEWEST]
    for m in names:
        mine = cases.modalities == m
        found, counts = np.unique(sources[mine], return_counts=True)
        trained = set(sources[mine & train].tolist()) - {""}
        out += [
            Fold("source", m, str(s))
            for s, n in zip(found, counts, strict=True)
            if s and n >= _FEWEST and trained - {str(s)}
        ]
        labels, counts = np.unique(cases.labels[mine & train], return_counts=True)
        enough = [(n, str(x)) for x, n in zip(labels, counts, strict=True) if x and n >= _FEWEST]
        if len(labels) > 2:
            enough.sort()
            picked = {enough[int(q * (len(enough) - 1))] for q in (0.25, 0.75) if enough}
            out += [Fold("label", m, x) for _, x in sorted(picked)[:_LABELS]]
    return [*out, Fold("copies")]


def leave_out(
    cases: Cases,
    features: Features,
    sources: NDArray[np.str_],
    views: Views | None,
    *,
    projections: dict[str, ProjectionConfig] | None = None,
    scores: Sequence[str] = tuple(SCORES),
    advance: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Every candidate on every fold.

    Args:
        cases, features, sources: n rows; see :func:`folds_of`.
        views: perturbed copies of some of these cases; None leaves ``copies`` out.
        projections: name → settings; default :data:`PROJECTIONS`.
        scores: names of novelty scores; each pair of them is measured too, ranks averaged.
        advance: called with the number of folds done.
    """
    usable = features.usable & (cases.modalities != "")
    results: list[Result] = []
    for fold in folds_of(cases, sources):
        held = usable & _held(fold, cases, sources)
        train = np.flatnonzero(usable & (cases.roles == "train") & ~held)
        known = np.flatnonzero(usable & (cases.roles == "tune") & ~held)
        copies = None if views is None else views.among(known)
        enough = held.any() if fold.kind != "copies" else copies is not None and len(copies.rows)
        if enough and len(known):
            for name, config in (projections or PROJECTIONS).items():
                world = _World.fit(cases, features, views, train, config)
                if fold.kind == "copies" and copies is not None:
                    strange, truth = copies.pooled, cases.modalities[known][copies.rows]
                else:
                    rows = np.flatnonzero(held)
                    strange, truth = features.pooled[rows], cases.modalities[rows]
                a, b = world.measured(features.pooled[known]), world.measured(strange)
                beside = np.ones(len(known), bool)
                if fold.kind == "label":
                    beside = cases.modalities[known] == fold.modality
                hit = float((b.predicted == truth).mean())
                pairs = None if fold.kind != "copies" or copies is None else copies.rows
                results += [
                    Result(fold, name, score, len(truth), *values, hit, same)
                    for score, values, same in _judged(world, a, b, beside, pairs, scores)
                ]
        advance(1)
    return results


@dataclass(frozen=True)
class _Measured:
    vectors: NDArray[np.float32]
    similarity: NDArray[np.float32]
    predicted: NDArray[np.str_]


@dataclass(frozen=True)
class _World:
    """A projection and the training cases in it."""

    projection: Projection
    vectors: NDArray[np.float32]
    classes: NDArray[np.str_]
    modalities: NDArray[np.str_]

    @classmethod
    def fit(
        cls,
        cases: Cases,
        features: Features,
        views: Views | None,
        train: NDArray[np.intp],
        config: ProjectionConfig,
    ) -> _World:
        pooled, modalities = features.pooled[train], cases.modalities[train]
        copies = None
        if views is not None and config.invariance:
            mine = views.among(train)
            copies = (pooled[mine.rows], mine.pooled)
        labels = cases.labels[train]
        projection = Projection.fit(pooled, modalities, labels, config, copies)
        vectors = projection.apply(pooled)
        return cls(projection, vectors, class_names(modalities, labels), modalities)

    def measured(self, pooled: NDArray[np.float32]) -> _Measured:
        names, column, counts = np.unique(self.modalities, return_inverse=True, return_counts=True)
        vectors = self.projection.apply(pooled)
        rows, similarity = VectorIndex(self.vectors).search(vectors, _NEIGHBOURS)
        posterior = vote(similarity, column[rows], counts)
        return _Measured(vectors, similarity, names[posterior.argmax(axis=1)])


def _held(fold: Fold, cases: Cases, sources: NDArray[np.str_]) -> NDArray[np.bool_]:
    if fold.kind == "copies":
        return np.zeros(len(cases), bool)
    mine = cases.modalities == fold.modality
    if fold.kind == "source":
        return np.asarray(mine & (sources == fold.name))
    return np.asarray(mine & (cases.labels == fold.name)) if fold.kind == "label" else mine


def _judged(
    world: _World,
    a: _Measured,
    b: _Measured,
    beside: NDArray[np.bool_],
    pairs: NDArray[np.intp] | None,
    names: Sequence[str],
) -> Iterator[tuple[str, tuple[float, float, float], float]]:
    """For each score and each pair of scores: (AUROC, FPR95, flagged), share unchanged."""
    ranked = {}
    for name in names:
        fitted = fit_score(name, world.vectors, world.classes)
        known, held = fitted.score(a.vectors, a.similarity), fitted.score(b.vectors, b.similarity)
        yield name, _values(known, held, beside), _unchanged(known, held, pairs)
        ranked[name] = rankdata(np.concatenate([known, held]))
    for one, two in combinations(names, 2):
        mean = ranked[one] + ranked[two]
        known, held = mean[: len(beside)], mean[len(beside) :]
        values = _values(known, held, beside)
        yield f"{one} + {two}", values, _unchanged(known, held, pairs)


def _values(
    known: NDArray[np.float64], held: NDArray[np.float64], beside: NDArray[np.bool_]
) -> tuple[float, float, float]:
    few = known[beside] if beside.any() else known
    return auroc(few, held), _fpr95(few, held), float((held >= _limit(known)).mean())


def _unchanged(
    known: NDArray[np.float64], copies: NDArray[np.float64], pairs: NDArray[np.intp] | None
) -> float:
    if pairs is None:
        return float("nan")
    limit = _limit(known)
    return float(((known[pairs] >= limit) == (copies >= limit)).mean())


def _limit(known: NDArray[np.float64]) -> float:
    """The least score that flags at most a share α of these."""
    allowed = int(ALPHA * len(known))
    return float(np.nextafter(np.sort(known)[len(known) - 1 - allowed], np.inf))


def auroc(known: NDArray[np.float64], held: NDArray[np.float64]) -> float:
    """P(a held-out case scores higher than a known one), ties counting half."""
    ranks = rankdata(np.concatenate([known, held]))[len(known) :]
    n, m = len(known), len(held)
    return float((ranks.sum() - m * (m + 1) / 2) / (n * m))


def _fpr95(known: NDArray[np.float64], held: NDArray[np.float64]) -> float:
    """Share of known cases at or above the score that 95 % of the held-out ones reach."""
    return float((known >= np.quantile(held, 0.05, method="lower")).mean())


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
    found: Sequence[Standing], projections: dict[str, ProjectionConfig] | None = None
) -> Choice:
    """Far novelty first, then stability: of the candidates whose mean AUROC over left-out
    modalities is within 0.002 of the best, the one whose decisions copies change least.

    Raises:
        UserError: nothing was measured.
    """
    served = [s for s in found if s.served and not np.isnan(s.far)]
    if not served:
        raise UserError("no candidate was measured on a left-out modality")
    top = max(s.far for s in served)
    close = [s for s in served if s.far >= top - MARGIN]
    best = max(close, key=lambda s: (-1.0 if np.isnan(s.unchanged) else s.unchanged, s.far))
    why = (
        f"mean AUROC over left-out modalities {best.far:.4f}, within {MARGIN:g} of the best "
        f"({top:.4f}); of these {len(close)} candidates its decisions change least under "
        f"perturbed copies ({best.unchanged:.1%} unchanged)"
    )
    settings = (projections or PROJECTIONS)[best.projection]
    return Choice(settings, best.score, replace(best), why)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
