"""The assessor: raw features in, everything the index knows about a case out.

One object holds projection, vectors, novelty score and calibration, fitted together and
stored together, so that a p-value can never come from another index than the one searched.
It sees features of pixels: no question, no options, no task, no path.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments, Embeddings
from curbside.config import Config
from curbside.errors import IndexCorrupt, IndexMismatch, InternalError, UserError
from curbside.indexes.conformal import Calibration, smallest_stratum
from curbside.indexes.exchange import Exchange, agreement
from curbside.indexes.features import Features
from curbside.indexes.leaks import near_duplicates, refuse_leaks
from curbside.indexes.novelty import Novelty, fit_score, load_score
from curbside.indexes.posterior import vote
from curbside.indexes.projection import Projection, class_names
from curbside.indexes.store import read_store, tensor_bytes, write_store
from curbside.indexes.tags import disagreement
from curbside.indexes.vectors import FLAT, HNSW, WIDTHS, VectorIndex, kind_for
from curbside.indexes.views import Views
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.competence import Competence

__all__ = ["KIND", "Assessor", "HeldOut", "Indexed"]

KIND = "index"
_log = logging.getLogger(__name__)
#: Rows worked on at a time, and the fewest that are: matrix products of few rows take other
#: code paths, so one case alone is padded and gets what it would get in a batch.
_BLOCK, _FEWEST = 1024, 32
#: How far a calibration case counts towards its strangest copy; chosen on tune (docs/rarity.md).
_TOWARDS_COPIES = 0.4
#: Level that a stratum's p-values must be able to reach where a confidence is asked for.
_USUAL_ALPHA = 0.05


@dataclass(frozen=True)
class Indexed:
    """What is known of each indexed case, by index row."""

    ids: NDArray[np.str_]
    modalities: NDArray[np.str_]
    labels: NDArray[np.str_]


@dataclass(frozen=True)
class HeldOut:
    """Calibration cases, none of them indexed, and how p-values are had from them.

    Args:
        pooled: float32 (n, d), raw features.
        minimum, confidence: see :class:`~curbside.indexes.conformal.Calibration`.
        copies: perturbed copies of some of their images: a case counts a part of the way
            towards the strangest, which can only make its score, and so every p-value, larger.
    """

    pooled: NDArray[np.float32]
    minimum: int
    confidence: float = 0.0
    copies: Views | None = None


@dataclass(frozen=True)
class _Block:
    """What one block of rows gives, before p-values."""

    posterior: NDArray[np.float32]
    novelty: NDArray[np.float64]
    neighbours: NDArray[np.int64]
    similarity: NDArray[np.float32]
    competence: NDArray[np.float32]
    competence_low: NDArray[np.float32]
    competence_high: NDArray[np.float32]
    competence_support: NDArray[np.float32]


class Assessor:
    """Assesses cases from their pooled features; made by :meth:`fit` or :meth:`load`.

    Attributes:
        modalities: columns of the posterior.
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
        self._encoder = encoder
        self._projection = projection
        self._index = index
        self._indexed = indexed
        self._score_name, self._score = novelty
        self._neighbours = neighbours
        self._k = min(neighbours, index.alive)
        live = index.live
        names = np.unique(indexed.modalities[live])
        self.modalities: tuple[str, ...] = tuple(str(m) for m in names)
        # a tombstone is never found, so the column of one whose modality is gone is of no account
        column = np.minimum(np.searchsorted(names, indexed.modalities), len(names) - 1)
        self._column = column.astype(np.intp)
        self._counts = np.bincount(column[live], minlength=len(names))
        labelled = live & (indexed.labels != "")
        self._support = np.bincount(column[labelled], minlength=len(names)).astype(np.int32)
        self.fingerprint = content_hash("embeddings", encoder, projection.digest)
        self.index_digest = content_hash(
            self.fingerprint,
            index.vectors().tobytes(),
            json.dumps([list(map(str, getattr(indexed, f.name))) for f in fields(indexed)]),
            f"{self._score_name} {self._k} {index.describe}",
            tensor_bytes(self._score.arrays()),
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
        if len(features) != len(cases):
            raise InternalError(f"{len(features)} features for {len(cases)} cases")
        usable = features.usable
        train = np.flatnonzero(usable & (cases.roles == "train") & (cases.modalities != ""))
        held_out = np.flatnonzero(usable & (cases.roles == "calibration"))
        if not len(train):
            raise UserError(
                "there is no usable case of role 'train' with a modality to index",
                hint="give some cases of the manifest role 'train'",
            )
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
        held_out = held_out[~twice]
        modalities, labels = cases.modalities[train], cases.labels[train]
        copies = None
        if views is not None:
            mine = views.among(train)
            copies = (features.pooled[train][mine.rows], mine.pooled)
        projection = Projection.fit(
            features.pooled[train], modalities, labels, config.encoder.projection, copies
        )
        vectors = projection.apply(features.pooled[train])
        name = config.index.novelty
        new = cls(
            features.fingerprint,
            projection,
            VectorIndex(vectors),
            Indexed(cases.ids[train], modalities, labels),
            (name, fit_score(name, vectors, class_names(modalities, labels))),
            config.index.neighbours,
        )
        confidence = config.index.calibration_confidence
        calibration = HeldOut(
            features.pooled[held_out],
            max(config.index.stratum_minimum, smallest_stratum(_USUAL_ALPHA, confidence))
            if confidence
            else config.index.stratum_minimum,
            confidence,
            None if views is None or not config.index.calibration_copies else views.among(held_out),
        )
        exact = new.calibrated(calibration)
        if kind_for(len(train), config.index) == FLAT:
            return exact
        tune = features.pooled[usable & (cases.roles == "tune")]
        graph = exact.exchanged(calibration, np.concatenate([calibration.pooled, tune]))
        if graph.index.kind == FLAT and config.index.kind == HNSW and graph.exchange is not None:
            raise UserError(
                f"a graph over these {len(graph)} vectors decides only "
                f"{graph.exchange.agree:.2%} of {graph.exchange.cases} held-out cases as the "
                "exact index does",
                hint="set index.kind: flat (or auto) in curbside.yaml, then build again",
            )
        return graph

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

    def exchanged(self, held_out: HeldOut, check: NDArray[np.float32]) -> Assessor:
        """The same on a graph if that decides as this exact index does, else this one.

        Either way ``exchange`` says what the check found.

        Args:
            held_out: what either is calibrated on.
            check: float32 (n, d), raw features of cases, none of them indexed, to decide twice.
        """
        exact, graph = self.assess(check), self._index.as_kind(HNSW)
        tried = None
        for width in WIDTHS:
            new = self.on(graph.widened(width), self._indexed)
            new = new.calibrated(held_out)
            tried = Exchange(HNSW, width, len(check), agreement(exact, new.assess(check)))
            if tried.passed:
                new.exchange = tried
                return new
        stays = copy.copy(self)
        stays.exchange = tried
        return stays

    def on(self, index: VectorIndex, indexed: Indexed, score: Novelty | None = None) -> Assessor:
        """The same projection over other vectors, not yet calibrated: see :meth:`calibrated`."""
        novelty = (self._score_name, score or self._score)
        return Assessor(self._encoder, self._projection, index, indexed, novelty, self._neighbours)

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
    def index(self) -> VectorIndex:
        """The vectors that are searched."""
        return self._index

    @property
    def indexed(self) -> Indexed:
        """What is known of each indexed case, by row; tombstones too."""
        return self._indexed

    @property
    def score_name(self) -> str:
        """``index.novelty`` under which the score was fitted."""
        return self._score_name

    @property
    def calibration(self) -> Calibration | None:
        """Scores that p-values come from; None before :meth:`calibrated`."""
        return self._calibration

    @property
    def ids(self) -> NDArray[np.str_]:
        """Ids of the indexed cases, (n,)."""
        return self._indexed.ids

    @property
    def labels(self) -> NDArray[np.str_]:
        """Labels of the indexed cases, (n,); ``""`` where there is none."""
        return self._indexed.labels

    @property
    def neighbour_modalities(self) -> NDArray[np.str_]:
        """Modalities of the indexed cases, (n,)."""
        return self._indexed.modalities

    def __len__(self) -> int:
        """Indexed cases that can be found."""
        return self._index.alive

    def embed(self, pooled: NDArray[np.float32]) -> Embeddings:
        """Unit vectors of raw features, float32 (n, d).  Raises InternalError on bad shapes."""
        blocks = [self._projection.apply(x)[:n] for x, n in _blocks(pooled)]
        width = self._index.dimensions
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

    def _measure(self, pooled: NDArray[np.float32]) -> _Block:
        parts = [self._block(x, n) for x, n in _blocks(pooled)]
        if not parts:
            # the shapes of no rows are those of one, emptied
            parts = [self._block(np.zeros((_FEWEST, pooled.shape[1]), np.float32), 0)]
        return _Block(
            *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Block))
        )

    def _block(self, pooled: NDArray[np.float32], n: int) -> _Block:
        vectors = self._projection.apply(pooled)
        rows, similarity = self._index.search(vectors, self._k, real=n)
        posterior = vote(similarity, self._column[rows], self._counts)
        novelty = self._score.score(vectors, similarity)
        if self._competence is None:
            empty = np.full((len(pooled), len(self._agents)), np.nan, np.float32)
            known = (empty, empty, empty, np.zeros_like(empty))
        else:
            known = self._competence.estimate(
                Embeddings(vectors, self.fingerprint), posterior.argmax(axis=1)
            )
        return _Block(
            posterior[:n], novelty[:n], rows[:n], similarity[:n], *(values[:n] for values in known)
        )

    # -- keeping ------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write everything as one folder, whole or not at all.

        Raises:
            StorageError: the disk is full or read-only; an older index there still works.
        """
        if self._calibration is None:
            raise InternalError("the assessor has no calibration")
        cases = {
            "ids": self.ids.tolist(),
            "modalities": self.neighbour_modalities.tolist(),
            "labels": self.labels.tolist(),
        }
        files = {
            "projection.safetensors": tensor_bytes(self._projection.arrays()),
            "vectors.faiss": self._index.to_bytes(),
            "live.safetensors": tensor_bytes({"live": self._index.live.astype(np.uint8)}),
            "novelty.safetensors": tensor_bytes(self._score.arrays()),
            "calibration.safetensors": tensor_bytes(self._calibration.scores()),
            "cases.json": json.dumps(cases).encode(),
        }
        counts = zip(self.modalities, self._counts.tolist(), strict=True)
        write_store(
            folder,
            KIND,
            files,
            {
                "encoder": self._encoder,
                "fingerprint": self.fingerprint,
                "index_digest": self.index_digest,
                "calibration_digest": self.calibration_digest,
                "novelty": self._score_name,
                "neighbours": self._neighbours,
                "kind": self._index.kind,
                "exchange": None if self.exchange is None else self.exchange.to_json(),
                "dimensions": self._index.dimensions,
                "cases": len(self),
                "cases_by_modality": dict(counts),
                "calibration": self._calibration.facts,
                "calibration_by_stratum": {
                    s: len(v) for s, v in self._calibration.scores().items()
                },
            },
        )

    @classmethod
    def load(cls, folder: Path, *, encoder: str) -> Assessor:
        """Read and verify what :meth:`save` wrote.

        Args:
            encoder: fingerprint of the encoder whose features will be assessed.

        Raises:
            NotBuilt, IndexMismatch, IndexCorrupt: see
                :func:`curbside.indexes.store.read_store`.
        """
        stored = read_store(folder, KIND, expect={"encoder": encoder})
        facts = stored.facts
        try:
            rows = stored.json("cases.json")
            new = cls(
                encoder,
                Projection.from_arrays(stored.tensors("projection.safetensors")),
                VectorIndex.from_bytes(
                    stored.files["vectors.faiss"],
                    live=stored.tensors("live.safetensors")["live"].astype(bool),
                ),
                Indexed(*(np.array(rows[k], np.str_) for k in ("ids", "modalities", "labels"))),
                (
                    facts["novelty"],
                    load_score(facts["novelty"], stored.tensors("novelty.safetensors")),
                ),
                int(facts["neighbours"]),
            )
            new = new.with_calibration(
                Calibration(
                    stored.tensors("calibration.safetensors"),
                    new.modalities,
                    **facts["calibration"],
                )
            )
            if facts["exchange"] is not None:
                new.exchange = Exchange(**facts["exchange"])
        except (KeyError, TypeError, ValueError, InternalError) as e:
            raise IndexCorrupt(
                f"the index at {folder} is whole, but not what this version writes",
                hint="curbside build",
            ) from e
        for what in ("fingerprint", "index_digest", "calibration_digest"):
            if getattr(new, what) != facts.get(what):
                raise IndexMismatch(
                    f"the index at {folder} was made by another version of the code: {what} "
                    f"expected {getattr(new, what)[:12]}, found {str(facts.get(what))[:12]}",
                    hint="curbside build",
                )
        return new


def _blocks(pooled: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], int]]:
    """Blocks of at least ``_FEWEST`` rows, padded with zeros, and how many rows are real."""
    out = []
    for start in range(0, len(pooled), _BLOCK):
        part = np.asarray(pooled[start : start + _BLOCK], np.float32)
        n = len(part)
        if n < _FEWEST:
            part = np.concatenate([part, np.zeros((_FEWEST - n, part.shape[1]), np.float32)])
        out.append((part, n))
    return out
