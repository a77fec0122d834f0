"""How well is P(correct) estimated?  Five folds by group, on cases whose truth is known.

Each fold's competence and join are learned from the other folds alone.  Log-loss and Brier
are over all readings of all agents; the reading's own confidence and each agent's overall
rate stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Embeddings
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.join import brier, folds_of, log_loss
from curbside.indexes.outcomes import Outcomes

__all__ = ["CompetenceReport", "Row", "competence_report"]

_FOLDS = 5
#: What is compared, in the order of the table.
WAYS = ("overall rate", "confidence", "competence", "competence and confidence")


@dataclass(frozen=True)
class Row:
    """One agent, or all of them (``agent`` empty): readings, accuracy, then log-loss and Brier
    of each of :data:`WAYS`; ``known`` is the share of readings with an estimate at all."""

    agent: str
    readings: int
    accuracy: float
    known: float
    log_loss: tuple[float, ...]
    brier: tuple[float, ...]


@dataclass(frozen=True)
class CompetenceReport:
    """All agents together, then each; the parameters that all outcomes together choose."""

    rows: tuple[Row, ...]
    temperature: float
    by_task: float
    within: float
    between: float

    def to_json(self) -> dict[str, object]:
        """As plain JSON types."""
        return asdict(self)


def competence_report(
    assessor: Assessor,
    judged: Outcomes,
    *,
    also: Outcomes | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> CompetenceReport:
    """Judge estimates on ``judged``; ``also`` is learned from in every fold and not judged.

    Raises:
        UserError: fewer than five groups.
    """
    fold = folds_of(judged.groups, _FOLDS)
    if len(set(fold.tolist())) < _FOLDS:
        raise UserError(
            f"competence is judged on {_FOLDS} folds by group, and there are fewer groups",
            hint="give more cases role 'tune'",
        )
    shape = judged.correct.shape
    found = {way: np.full(shape, np.nan, np.float32) for way in WAYS}
    found["confidence"] = judged.confidence
    for k in range(_FOLDS):
        own = np.flatnonzero(fold == k)
        rest = _take(judged, np.flatnonzero(fold != k))
        learned = Competence.learn(assessor, rest if also is None else rest.joined(also))
        learned = learned.select(judged.agents)
        pooled = judged.pooled[own]
        embedded: Embeddings = assessor.embed(pooled)
        p, *_ = learned.estimate(embedded, assessor.modality_of(pooled))
        found["competence"][own] = p
        if learned.join is not None:
            both = learned.join(p, judged.confidence[own])
            found["competence and confidence"][own] = both
        rate = (rest.correct.sum(0) + 0.5) / (rest.read.sum(0) + 1)
        found["overall rate"][own] = rate
        advance(1)
    known = judged.read & np.isfinite(found["competence"])
    everyone = learned_from_all(assessor, judged, also)
    rows = [_row("", judged, found, known, slice(None))]
    rows += [_row(a, judged, found, known, slice(j, j + 1)) for j, a in enumerate(judged.agents)]
    return CompetenceReport(
        tuple(rows), everyone.temperature, everyone.by_task, everyone.within, everyone.between
    )


def learned_from_all(assessor: Assessor, judged: Outcomes, also: Outcomes | None) -> Competence:
    """The competence that would serve."""
    return Competence.learn(assessor, judged if also is None else judged.joined(also))


def _take(o: Outcomes, rows: NDArray[np.intp]) -> Outcomes:
    names = ("pooled", "groups", "tasks", "correct", "read", "confidence")
    return replace(o, **{n: getattr(o, n)[rows] for n in names})


def _row(
    agent: str,
    judged: Outcomes,
    found: dict[str, NDArray[np.float32]],
    known: NDArray[np.bool_],
    columns: slice,
) -> Row:
    mine, read = known[:, columns], judged.read[:, columns]
    right = judged.correct[:, columns][mine]
    if not len(right):
        nothing = tuple(float("nan") for _ in WAYS)
        return Row(agent, int(read.sum()), float("nan"), 0.0, nothing, nothing)
    given = [found[way][:, columns][mine] for way in WAYS]
    return Row(
        agent,
        int(read.sum()),
        float(judged.correct[:, columns][read].mean()),
        float(mine.sum() / read.sum()),
        tuple(log_loss(p, right) for p in given),
        tuple(brier(p, right) for p in given),
    )
