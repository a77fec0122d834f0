"""An index with cases more or fewer, in the projection it has: no refit, at any size.

Each function gives a new assessor and leaves the old one as it is.  What comes back has no
calibration yet where anything that a p-value depends on has changed: call
:meth:`~curbside.indexes.assess.Assessor.calibrated` before it may serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.novelty import fit_score
from curbside.indexes.projection import class_names
from curbside.indexes.rows import Indexed
from curbside.indexes.vectors import FLAT, VectorIndex

__all__ = ["compacted", "extended", "without"]


def extended(
    assessor: Assessor,
    ids: Sequence[str],
    modalities: Sequence[str],
    labels: Sequence[str],
    pooled: NDArray[np.float32],
) -> Assessor:
    """With n cases more; the novelty score is fitted again.  Uncalibrated.

    Args:
        ids, modalities, labels: of the new cases; a label is ``""`` where there is none.
        pooled: float32 (n, d), raw features.

    Raises:
        UserError: a case that is indexed already.
    """
    twice = np.isin(np.array(ids, np.str_), assessor.ids[assessor.index.live])
    if twice.any():
        raise UserError(f"{int(twice.sum())} of {len(ids)} cases are indexed already")
    old = assessor.indexed
    indexed = Indexed(
        np.concatenate([old.ids, np.array(ids, np.str_)]),
        np.concatenate([old.modalities, np.array(modalities, np.str_)]),
        np.concatenate([old.labels, np.array(labels, np.str_)]),
    )
    return _rescored(assessor, assessor.index.added(assessor.embed(pooled).vectors), indexed)


def without(assessor: Assessor, ids: Sequence[str]) -> Assessor:
    """With tombstones for these cases; the novelty score is fitted again.  Uncalibrated.

    Raises:
        UserError: a case that is not indexed.
    """
    rows = np.flatnonzero(np.isin(assessor.ids, list(ids)) & assessor.index.live)
    missing = len(set(ids) - set(assessor.ids[rows].tolist()))
    if missing:
        raise UserError(f"{missing} of {len(ids)} cases are not indexed")
    return _rescored(assessor, assessor.index.without(rows), assessor.indexed)


def compacted(assessor: Assessor) -> Assessor:
    """Without tombstones.

    An exact index finds the same as before, so it is calibrated as before; a graph is built
    anew and is not.
    """
    index, rows = assessor.index.compacted()
    old = assessor.indexed
    new = assessor.on(index, Indexed(*(getattr(old, f.name)[rows] for f in fields(Indexed))))
    if index.kind == FLAT and assessor.calibration is not None:
        return new.with_calibration(assessor.calibration)
    return new


def _rescored(assessor: Assessor, index: VectorIndex, indexed: Indexed) -> Assessor:
    live = index.live
    classes = class_names(indexed.modalities[live], indexed.labels[live])
    score = fit_score(assessor.score_name, index.vectors()[live], classes)
    return assessor.on(index, indexed, score)
