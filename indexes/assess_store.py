"""An assessor as one folder of checked files, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from curbside.errors import IndexCorrupt, IndexMismatch, InternalError
from curbside.indexes.assess import Assessor
from curbside.indexes.conformal import Calibration
from curbside.indexes.exchange import Exchange
from curbside.indexes.novelty import load_score
from curbside.indexes.projection import Projection
from curbside.indexes.rows import Indexed
from curbside.indexes.store import Stored, read_store, tensor_bytes, write_store
from curbside.indexes.vectors import VectorIndex

__all__ = ["KIND", "load", "save"]

KIND = "index"


def save(assessor: Assessor, folder: Path) -> None:
    """See :meth:`~curbside.indexes.assess.Assessor.save`."""
    a, calibration = assessor, assessor.calibration
    if calibration is None:
        raise InternalError("the assessor has no calibration")
    cases = {
        "ids": a.ids.tolist(),
        "modalities": a.neighbour_modalities.tolist(),
        "labels": a.labels.tolist(),
    }
    files = {
        "projection.safetensors": tensor_bytes(a.projection.arrays()),
        "vectors.faiss": a.index.to_bytes(),
        "live.safetensors": tensor_bytes({"live": a.index.live.astype(np.uint8)}),
        "novelty.safetensors": tensor_bytes(a.score.arrays()),
        "calibration.safetensors": tensor_bytes(calibration.scores()),
        "cases.json": json.dumps(cases).encode(),
    }
    facts = {
        "encoder": a.encoder,
        "fingerprint": a.fingerprint,
        "index_digest": a.index_digest,
        "calibration_digest": a.calibration_digest,
        "novelty": a.score_name,
        "neighbours": a.neighbours,
        "kind": a.index.kind,
        "exchange": None if a.exchange is None else a.exchange.to_json(),
        "dimensions": a.index.dimensions,
        "cases": len(a),
        "cases_by_modality": dict(zip(a.modalities, a.counts.tolist(), strict=True)),
        "calibration": calibration.facts,
        "calibration_by_stratum": {s: len(v) for s, v in calibration.scores().items()},
    }
    write_store(folder, KIND, files, facts)


def load(folder: Path, *, encoder: str) -> Assessor:
    """See :meth:`~curbside.indexes.assess.Assessor.load`."""
    stored = read_store(folder, KIND, expect={"encoder": encoder})
    try:
        new = _assessor(stored, encoder)
    except (KeyError, TypeError, ValueError, InternalError) as e:
        raise IndexCorrupt(
            f"the index at {folder} is whole, but not what this version writes",
            hint="curbside build",
        ) from e
    for what in ("fingerprint", "index_digest", "calibration_digest"):
        if getattr(new, what) != stored.facts.get(what):
            raise IndexMismatch(
                f"the index at {folder} was made by another version of the code: {what} "
                f"expected {getattr(new, what)[:12]}, found {str(stored.facts.get(what))[:12]}",
                hint="curbside build",
            )
    return new


def _assessor(stored: Stored, encoder: str) -> Assessor:
    facts, rows = stored.facts, stored.json("cases.json")
    live = stored.tensors("live.safetensors")["live"].astype(bool)
    score = load_score(facts["novelty"], stored.tensors("novelty.safetensors"))
    new = Assessor(
        encoder,
        Projection.from_arrays(stored.tensors("projection.safetensors")),
        VectorIndex.from_bytes(stored.files["vectors.faiss"], live=live),
        Indexed(*(np.array(rows[k], np.str_) for k in ("ids", "modalities", "labels"))),
        (facts["novelty"], score),
        int(facts["neighbours"]),
    )
    scores = stored.tensors("calibration.safetensors")
    new = new.with_calibration(Calibration(scores, new.modalities, **facts["calibration"]))
    if facts["exchange"] is not None:
        new.exchange = Exchange(**facts["exchange"])
    return new
