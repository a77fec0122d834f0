"""An assessor from cases: fitted on ``train``, calibrated on ``calibration``, on a graph or not."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.config import Config
from curbside.errors import InternalError, UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.conformal import smallest_stratum
from curbside.indexes.exchange import Exchange, agreement
from curbside.indexes.features import Features
from curbside.indexes.leaks import near_duplicates, refuse_leaks
from curbside.indexes.novelty import fit_score
from curbside.indexes.projection import Projection, class_names
from curbside.indexes.rows import HeldOut, Indexed
from curbside.indexes.vectors import FLAT, HNSW, WIDTHS, VectorIndex, kind_for
from curbside.indexes.views import Views

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["fit", "without_note"]

_log = logging.getLogger(__name__)
#: Level that a stratum's p-values must be able to reach where a confidence is asked for.
_USUAL_ALPHA = 0.05


def fit(cases: Cases, features: Features, config: Config, views: Views | None = None) -> Assessor:
    """See :meth:`~curbside.indexes.assess.Assessor.fit`."""
    if len(features) != len(cases):
        raise InternalError(f"{len(features)} features for {len(cases)} cases")
    usable = features.usable
    train = np.flatnonzero(usable & (cases.roles == "train") & (cases.modalities != ""))
    if not len(train):
        raise UserError(
            "there is no usable case of role 'train' with a modality to index",
            hint="give some cases of the manifest role 'train'",
        )
    rows = _calibrating(cases, features, train)
    held_out = _held_out(features.pooled[rows], rows, config, views)
    exact = _indexed(cases, features, train, config, views).calibrated(held_out)
    if kind_for(len(train), config.index) == FLAT:
        return exact
    tune = features.pooled[usable & (cases.roles == "tune")]
    graph = _exchanged(exact, held_out, np.concatenate([held_out.pooled, tune]))
    if graph.index.kind == FLAT and graph.exchange is not None:
        found = (
            f"a graph over these {len(graph)} vectors decides only {graph.exchange.agree:.2%} of "
            f"{graph.exchange.cases} held-out cases as the exact index does"
        )
        if config.index.kind == HNSW:
            raise UserError(
                found, hint="set index.kind: flat (or auto) in curbside.yaml, then build again"
            )
        _log.warning("%s, so the exact one serves; it searches slower", found)
    return graph


@contextmanager
def without_note() -> Iterator[None]:
    """Without the note on copies among calibration cases, which each of many fits would repeat."""
    before = _log.level
    _log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _log.setLevel(before)


def _calibrating(cases: Cases, features: Features, train: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of the calibration cases that the index does not know already."""
    held_out = np.flatnonzero(features.usable & (cases.roles == "calibration"))
    refuse_leaks(cases, features, train, held_out)
    twice = near_duplicates(features.pooled[train], features.pooled[held_out])
    if twice.any():
        _log.warning(
            "%d of %d calibration cases look the same as an indexed one and do not calibrate",
            twice.sum(),
            len(held_out),
        )
        if twice.all():
            raise UserError(
                f"all {len(held_out)} calibration cases look the same as indexed ones, so "
                "there is nothing to calibrate on",
                hint="give cases of other patients the manifest role 'calibration'",
            )
    return held_out[~twice]


def _held_out(
    pooled: NDArray[np.float32], rows: NDArray[np.intp], config: Config, views: Views | None
) -> HeldOut:
    index, confidence = config.index, config.index.calibration_confidence
    minimum = index.stratum_minimum
    if confidence:
        minimum = max(minimum, smallest_stratum(_USUAL_ALPHA, confidence))
    copies = views.among(rows) if views is not None and index.calibration_copies else None
    return HeldOut(pooled, minimum, confidence, copies)


def _indexed(
    cases: Cases,
    features: Features,
    train: NDArray[np.intp],
    config: Config,
    views: Views | None,
) -> Assessor:
    """Projection, exact index and novelty score of the training cases; not calibrated."""
    pooled = features.pooled[train]
    modalities, labels = cases.modalities[train], cases.labels[train]
    copies = None
    if views is not None:
        mine = views.among(train)
        copies = (pooled[mine.rows], mine.pooled)
    projection = Projection.fit(pooled, modalities, labels, config.encoder.projection, copies)
    vectors = projection.apply(pooled)
    name = config.index.novelty
    return Assessor(
        features.fingerprint,
        projection,
        VectorIndex(vectors),
        Indexed(cases.ids[train], modalities, labels),
        (name, fit_score(name, vectors, class_names(modalities, labels))),
        config.index.neighbours,
    )


def _exchanged(exact: Assessor, held_out: HeldOut, check: NDArray[np.float32]) -> Assessor:
    """The same on a graph if that decides as the exact index does, else the exact one.

    Either way ``exchange`` says what the check found.

    Args:
        held_out: what either is calibrated on.
        check: float32 (n, d), raw features of cases, none of them indexed, to decide twice.
    """
    decided, graph = exact.assess(check), exact.index.as_kind(HNSW)
    tried = None
    for width in WIDTHS:
        new = exact.on(graph.widened(width), exact.indexed).calibrated(held_out)
        tried = Exchange(HNSW, width, len(check), agreement(decided, new.assess(check)))
        if tried.passed:
            new.exchange = tried
            return new
    stays = copy.copy(exact)
    stays.exchange = tried
    return stays
