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

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.stats import rankdata

from curbside.config import ProjectionConfig
from curbside.errors import UserError
from curbside.indexes.features import Features
from curbside.indexes.novelty import SCORES, fit_score
from curbside.indexes.posterior import vote
from curbside.indexes.projection import Projection, class_names
from curbside.indexes.vectors import VectorIndex
from curbside.indexes.views import Views
from curbside.storage import write_text
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = [
    "KINDS",
    "PROJECTIONS",
    "Fold",
    "Result",
    "auroc",
    "folds_of",
    "leave_out",
]

#: Projections that are compared, the plainest first.
PROJECTIONS: Mapping[str, ProjectionConfig] = MappingProxyType(
    {
        "none": ProjectionConfig(kind="none"),
        "lda-128": ProjectionConfig(dimensions=128, invariance=0.0),
        "lda-64": ProjectionConfig(dimensions=64, invariance=0.0),
        "lda-128-invariant": ProjectionConfig(dimensions=128, invariance=6.0),
        "lda-64-invariant": ProjectionConfig(dimensions=64, invariance=6.0),
    }
)
KINDS = ("modality", "label", "source", "copies")
#: Neighbours that vote and that ``knn`` sees.
_NEIGHBOURS = 10
#: Most axes that scores see: of wider vectors the principal ones, or the covariances and the
#: local outlier factor of a hundred folds would take an hour.
_WIDEST = 256
#: Raise when a kept fold would come out otherwise.
_VERSION = 1
#: Fewest held-out cases of a fold: fewer say nothing.
_FEWEST = 10
#: Findings of a modality that are left out, spread over their numbers of cases.
_LABELS = 2
#: False alarms among tune cases at which flags are counted.
ALPHA = 0.05


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
    projections: Mapping[str, ProjectionConfig] = PROJECTIONS,
    scores: Sequence[str] = tuple(SCORES),
    kinds: Sequence[str] = KINDS,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Result]:
    """Every candidate on every fold.

    Args:
        cases, features, sources: n rows; see :func:`folds_of`.
        views: perturbed copies of some of these cases; None leaves ``copies`` out.
        projections: name → settings.
        scores: names of novelty scores; each pair of them is measured too, ranks averaged.
        kinds: of folds.
        folder: where each fold is kept as it ends, so that a run that is killed goes on.
        advance: called with the number of folds done.

    Raises:
        StorageError: the folder cannot be written.
    """
    settings = {n: c.model_dump(mode="json") for n, c in projections.items()}
    seen = content_hash(
        f"selection {_VERSION}",
        features.fingerprint,
        features.pooled.tobytes(),
        json.dumps([settings, list(scores)]),
        json.dumps([x.tolist() for x in (cases.roles, cases.modalities, cases.labels, sources)]),
        b"" if views is None else views.rows.tobytes() + views.pooled.tobytes(),
    )
    usable = features.usable & (cases.modalities != "")
    results: list[Result] = []
    for fold in folds_of(cases, sources):
        if fold.kind not in kinds:
            continue
        path = None if folder is None else folder / f"{content_hash(seen, *astuple(fold))}.json"
        if path is not None and path.is_file():
            results += _read(path)
        else:
            found = list(_fold(fold, cases, features, sources, views, projections, scores, usable))
            if path is not None:
                write_text(path, json.dumps([asdict(r) for r in found]))
            results += found
        advance(1)
    return results


def _read(path: Path) -> list[Result]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Result(**{**row, "fold": Fold(**row["fold"])}) for row in rows]


def _fold(
    fold: Fold,
    cases: Cases,
    features: Features,
    sources: NDArray[np.str_],
    views: Views | None,
    projections: Mapping[str, ProjectionConfig],
    scores: Sequence[str],
    usable: NDArray[np.bool_],
) -> Iterator[Result]:
    """Every candidate on one fold; nothing where nothing is held out."""
    held = usable & _held(fold, cases, sources)
    train = np.flatnonzero(usable & (cases.roles == "train") & ~held)
    known = np.flatnonzero(usable & (cases.roles == "tune") & ~held)
    pairs = None
    if fold.kind != "copies":
        rows = np.flatnonzero(held)
        strange, truth = features.pooled[rows], cases.modalities[rows]
    elif views is not None:
        copies = views.among(known)
        pairs = copies.rows
        strange, truth = copies.pooled, cases.modalities[known][pairs]
    else:
        return
    if not len(strange) or not len(known):
        return
    beside = np.ones(len(known), bool)
    if fold.kind == "label":
        beside = cases.modalities[known] == fold.modality
    for name, config in projections.items():
        world = _World.fit(cases, features, views, train, config)
        a, b = world.measured(features.pooled[known]), world.measured(strange)
        hit = float((b.predicted == truth).mean())
        for score, values, same in _judged(world, a, b, beside, pairs, scores):
            yield Result(fold, name, score, len(truth), *values, hit, same)


@dataclass(frozen=True)
class _Measured:
    vectors: NDArray[np.float32]
    similarity: NDArray[np.float32]
    predicted: NDArray[np.str_]


@dataclass(frozen=True)
class _World:
    """A projection and the training cases in it; ``principal`` narrows wide vectors."""

    projection: Projection
    principal: NDArray[np.float32] | None
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
        vectors, principal = projection.apply(pooled), None
        if vectors.shape[1] > _WIDEST:
            last = vectors.shape[1] - 1
            gram = (vectors.T @ vectors).astype(np.float64)
            _, axes = linalg.eigh(gram, subset_by_index=[last - _WIDEST + 1, last])
            principal = axes.astype(np.float32)
            vectors = _narrowed(vectors, principal)
        return cls(projection, principal, vectors, class_names(modalities, labels), modalities)

    def measured(self, pooled: NDArray[np.float32]) -> _Measured:
        names, column, counts = np.unique(self.modalities, return_inverse=True, return_counts=True)
        vectors = _narrowed(self.projection.apply(pooled), self.principal)
        rows, similarity = VectorIndex(self.vectors).search(vectors, _NEIGHBOURS)
        posterior = vote(similarity, column[rows], counts)
        return _Measured(vectors, similarity, names[posterior.argmax(axis=1)])


def _narrowed(
    vectors: NDArray[np.float32], principal: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Unit vectors on the principal axes, of unit length again; as they are where None."""
    if principal is None:
        return vectors
    z = vectors @ principal
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12), np.float32)


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
