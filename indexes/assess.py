"""The assessor: raw features in, everything the index knows about a case out.

One object holds projection, vectors, novelty score and calibration, fitted together and
stored together, so that a p-value can never come from another index than the one searched.
It sees features of pixels: no question, no options, no task, no path.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments, Embeddings
from curbside.config import Config
from curbside.errors import IndexMismatch, InternalError
from curbside.indexes.conformal import Calibration
from curbside.indexes.exchange import Exchange
from curbside.indexes.features import Features
from curbside.indexes.novelty import Novelty
from curbside.indexes.posterior import vote
from curbside.indexes.projection import Projection
from curbside.indexes.rows import HeldOut, Indexed, Measured, in_blocks, measured
from curbside.indexes.store import tensor_bytes
from curbside.indexes.tags import disagreement
from curbside.indexes.vectors import VectorIndex
from curbside.indexes.views import Views
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.competence import Competence

__all__ = ["Assessor"]

#: How far a calibration case counts towards its strangest copy; chosen on tune (docs/rarity.md).
_TOWARDS_COPIES = 0.4


class Assessor:
    """Assesses cases from their pooled features; made by :meth:`fit` or :meth:`load`.

    Attributes:
        encoder: fingerprint of the encoder whose features are assessed.
        projection, index, score: features → vectors, the vectors searched, strangeness; the
            score goes by ``score_name`` in ``index.novelty``.
        indexed: what is known of each indexed case, by row; tombstones too.
        modalities, counts: columns of the posterior, and indexed cases of each.
        fingerprint: of the embeddings (encoder and projection).
        ids, labels, neighbour_modalities: of the indexed cases, by index row; a label is
            ``""`` where there is none.
    """

    def __init__(
        self,
        encoder: str,
        projection: Projection,
        index: VectorIndex,
        indexed: Indexed,
        novelty: tuple[str, Novelty],
        neighbours: int,
    ) -> None:
        if not len(index) == len(indexed.ids) == len(indexed.modalities) == len(indexed.labels):
            raise InternalError("index rows and their cases differ in number")
        self.encoder = encoder
        self.projection = projection
        self.index = index
        self.indexed = indexed
        self.score_name, self.score = novelty
        self.neighbours = neighbours
        self._k = min(neighbours, index.alive)
        live = index.live
        names = np.unique(indexed.modalities[live])
        self.modalities: tuple[str, ...] = tuple(str(m) for m in names)
        # a tombstone is never found, so the column of one whose modality is gone is of no account
        column = np.minimum(np.searchsorted(names, indexed.modalities), len(names) - 1)
        self._column = column.astype(np.intp)
        self.counts = np.bincount(column[live], minlength=len(names))
        labelled = live & (indexed.labels != "")
        self._support = np.bincount(column[labelled], minlength=len(names)).astype(np.int32)
        self.fingerprint = content_hash("embeddings", encoder, projection.digest)
        self.index_digest = content_hash(
            self.fingerprint,
            index.vectors().tobytes(),
            json.dumps([list(map(str, getattr(indexed, f.name))) for f in fields(indexed)]),
            f"{self.score_name} {self._k} {index.describe}",
            tensor_bytes(self.score.arrays()),
        )
        self.exchange: Exchange | None = None
        self._calibration: Calibration | None = None
        self.strata: tuple[str, ...] = ()
        self.calibration_digest = ""
        self._agents: tuple[str, ...] = ()
        self._specialist = np.full(len(names), -1, np.int16)
        self._competence: Competence | None = None

    # -- making -------------------------------------------------------------------------

    @classmethod
    def fit(
        cls, cases: Cases, features: Features, config: Config, views: Views | None = None
    ) -> Assessor:
        """Index the cases of role ``train``, calibrate on those of role ``calibration``.

        Cases of other roles, images that failed and training cases without a modality are
        left out.

        Args:
            features: one row a case.
            views: perturbed copies of some of the cases' images, which the projection is made
                not to depend on and calibration counts with; see ``config``.

        Raises:
            UserError: no usable case of a role, or calibration cases that are in the index
                or share a group with it.
        """
        from curbside.indexes import assess_fit

        return assess_fit.fit(cases, features, config, views)

    def calibrated(self, held_out: HeldOut) -> Assessor:
        """A copy whose p-values come from these cases, as this index sees them.

        Raises:
            UserError: no calibration case.
        """
        known = self._measure(held_out.pooled)
        scores, copies = known.novelty.copy(), held_out.copies
        data = [held_out.pooled.tobytes()]
        if copies is not None and len(copies.rows):
            # never below its own score, or p-values would no longer be conservative
            own, copied = scores[copies.rows], self._measure(copies.pooled).novelty
            np.maximum.at(scores, copies.rows, own + _TOWARDS_COPIES * (copied - own))
            data += [copies.rows.tobytes(), copies.pooled.tobytes()]
        return self.with_calibration(
            Calibration.fit(
                scores,
                known.posterior.argmax(axis=1),
                self.modalities,
                minimum=held_out.minimum,
                confidence=held_out.confidence,
                data=content_hash("calibration", *data),
            )
        )

    def on(self, index: VectorIndex, indexed: Indexed, score: Novelty | None = None) -> Assessor:
        """The same projection over other vectors, not yet calibrated: see :meth:`calibrated`."""
        novelty = (self.score_name, score or self.score)
        return Assessor(self.encoder, self.projection, index, indexed, novelty, self.neighbours)

    def with_calibration(self, calibration: Calibration) -> Assessor:
        """A copy with these calibration scores, measured on this very index."""
        new = copy.copy(self)
        new._calibration = calibration
        new.strata = calibration.strata
        new.calibration_digest = calibration.digest(self.index_digest)
        return new

    def bind(
        self,
        agents: tuple[str, ...],
        specialists: Mapping[str, str],
        competence: Competence | None = None,
    ) -> Assessor:
        """A copy that also fills what is known of agents.

        Args:
            agents: columns of the competence arrays.
            specialists: modality to the name of its specialist, which is one of ``agents``.
            competence: of these agents; one that it does not know is NaN everywhere.

        Raises:
            InternalError: a specialist that is no agent.
            IndexMismatch: the competence was learned on other embeddings.
        """
        if competence is not None and competence.fingerprint != self.fingerprint:
            raise IndexMismatch(
                "the learned competence belongs to other embeddings than the index: expected "
                f"{self.fingerprint[:12]}, found {competence.fingerprint[:12]}",
                hint="curbside build",
            )
        new = copy.copy(self)
        new._agents, new._specialist = agents, np.full(len(self.modalities), -1, np.int16)
        for modality, name in specialists.items():
            if name not in agents:
                raise InternalError(f"specialist {name!r} is none of {agents}")
            if modality in self.modalities:
                new._specialist[self.modalities.index(modality)] = agents.index(name)
        new._competence = None if competence is None else competence.select(agents)
        return new

    # -- using --------------------------------------------------------------------------

    @property
    def calibration(self) -> Calibration | None:
        """Scores that p-values come from; None before :meth:`calibrated`."""
        return self._calibration

    @property
    def ids(self) -> NDArray[np.str_]:
        """Ids of the indexed cases, (n,)."""
        return self.indexed.ids

    @property
    def labels(self) -> NDArray[np.str_]:
        """Labels of the indexed cases, (n,); ``""`` where there is none."""
        return self.indexed.labels

    @property
    def neighbour_modalities(self) -> NDArray[np.str_]:
        """Modalities of the indexed cases, (n,)."""
        return self.indexed.modalities

    def __len__(self) -> int:
        """Indexed cases that can be found."""
        return self.index.alive

    def embed(self, pooled: NDArray[np.float32]) -> Embeddings:
        """Unit vectors of raw features, float32 (n, d).  Raises InternalError on bad shapes."""
        blocks = [self.projection.apply(x)[:n] for x, n in in_blocks(pooled)]
        width = self.index.dimensions
        vectors = np.concatenate(blocks) if blocks else np.zeros((0, width), np.float32)
        return Embeddings(vectors, self.fingerprint)

    def assess(
        self,
        pooled: NDArray[np.float32],
        *,
        modality_tags: Sequence[str | None] | None = None,
    ) -> Assessments:
        """What the index knows about n cases; a case gets the same alone as in a batch.

        Rows of images that failed mean nothing: leave them out, or drop them after.

        Args:
            pooled: float32 (n, d), raw features.
            modality_tags: n DICOM codes or None; only compared with the pixels' verdict.
        """
        if self._calibration is None:
            raise InternalError("the assessor has no calibration")
        found = self._measure(pooled)
        predicted = found.posterior.argmax(axis=1)
        p = self._calibration.p_values(found.novelty, predicted)
        tags = [None] * len(pooled) if modality_tags is None else modality_tags
        if len(tags) != len(pooled):
            raise InternalError(f"{len(tags)} tags for {len(pooled)} cases")
        return Assessments(
            modalities=self.modalities,
            agents=self._agents,
            strata=self._calibration.strata,
            posterior=found.posterior,
            novelty=found.novelty,
            p_value=p.p_value,
            stratum=p.stratum,
            stratum_n=p.stratum_n,
            support=self._support[predicted],
            specialist=self._specialist[predicted],
            neighbours=found.neighbours,
            similarity=found.similarity,
            tag_disagreement=disagreement(tags, predicted, self.modalities),
            competence=found.competence,
            competence_low=found.competence_low,
            competence_high=found.competence_high,
            competence_support=found.competence_support,
        )

    def threshold(self, alpha: float, stratum: str) -> float:
        """The smallest novelty score with p ≤ alpha in a stratum; ``inf`` where none is."""
        if self._calibration is None:
            raise InternalError("the assessor has no calibration")
        return self._calibration.threshold(alpha, stratum)

    def modality_of(self, pooled: NDArray[np.float32]) -> NDArray[np.intp]:
        """Column of the most likely modality, intp (n,)."""
        return np.asarray(self._measure(pooled).posterior.argmax(axis=1), np.intp)

    def _measure(self, pooled: NDArray[np.float32]) -> Measured:
        return measured(pooled, self._block)

    def _block(self, pooled: NDArray[np.float32], n: int) -> Measured:
        vectors = self.projection.apply(pooled)
        rows, similarity = self.index.search(vectors, self._k, real=n)
        posterior = vote(similarity, self._column[rows], self.counts)
        novelty = self.score.score(vectors, similarity)
        if self._competence is None:
            empty = np.full((len(pooled), len(self._agents)), np.nan, np.float32)
            known = (empty, empty, empty, np.zeros_like(empty))
        else:
            known = self._competence.estimate(
                Embeddings(vectors, self.fingerprint), posterior.argmax(axis=1)
            )
        return Measured(
            posterior[:n], novelty[:n], rows[:n], similarity[:n], *(values[:n] for values in known)
        )

    # -- keeping ------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything as one folder, whole or not at all.

        Raises:
            StorageError: the disk is full or read-only; an older index there still works.
        """
        from curbside.indexes import assess_store

        assess_store.save(self, folder)

    @classmethod
    def load(cls, folder: Path, *, encoder: str) -> Assessor:
        """Read and verify what :meth:`save` wrote.

        Args:
            encoder: fingerprint of the encoder whose features will be assessed.

        Raises:
            NotBuilt, IndexMismatch, IndexCorrupt: see
                :func:`curbside.indexes.store.read_store`.
        """
        from curbside.indexes import assess_store

        return assess_store.load(folder, encoder=encoder)
