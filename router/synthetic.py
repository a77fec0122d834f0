"""Made-up records, as many as asked: for measuring a ledger, and for trying a console on one.

They have the shape of real ones and mean nothing; studies are named ``synthetic-…``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from curbside import __version__
from curbside.readings import (
    AgentCompetence,
    CaseRecord,
    Counterfactual,
    Familiarity,
    Neighbour,
    Outcome,
    Reading,
    Reason,
    Status,
    Tier,
    Versions,
)
from curbside.router.ledger import Ledger, case_key
from curbside.study import Question

__all__ = ["fill", "synthetic_records"]

_MODALITIES = ("ct", "mri", "xray", "ultrasound", "fundus", "dermoscopy", "histology", "endoscopy")
_OPTIONS = ("normal", "mass", "effusion", "fracture")
_BLOCK = 1000
_WEEK = 7 * 86400.0
_VERSIONS = Versions(
    code=__version__,
    encoder="e" * 64,
    index="1" * 64,
    calibration="2" * 64,
    policy="3" * 64,
    fleet="4" * 64,
)


def synthetic_records(n: int, *, seed: int = 0, now: float | None = None) -> Iterator[CaseRecord]:
    """n records over the last week: 80 % common, 12 % rare, 6 % novel, 2 % not analysed."""
    rng = np.random.default_rng(seed)
    end = time.time() if now is None else now
    for i in range(n):
        yield _record(rng, f"synthetic-{seed}-{i:07d}", end - _WEEK * (1 - i / n))


def fill(ledger: Ledger, n: int, *, seed: int = 0) -> int:
    """Write n synthetic records; returns how many were new."""
    block: list[tuple[str, CaseRecord]] = []
    new = 0
    for record in synthetic_records(n, seed=seed):
        question = Question(options=record.options, task=record.task)
        key = case_key(record.case, record.content, question, record.versions)
        block.append((key, record))
        if len(block) == _BLOCK:
            new += ledger.write(block)
            block = []
    return new + ledger.write(block)


def _record(rng: np.random.Generator, name: str, at: float) -> CaseRecord:
    draw, modality = rng.random(), str(rng.choice(_MODALITIES))
    received = datetime.fromtimestamp(at, UTC).isoformat()
    decided = datetime.fromtimestamp(at + 1, UTC).isoformat()
    task = f"{modality}_findings"
    base = CaseRecord(
        case=name,
        content=rng.bytes(32).hex(),
        task=task,
        options=_OPTIONS,
        outcome=Outcome(status=Status.NOT_ANALYSED, reasons=()),
        versions=_VERSIONS,
        received_at=received,
        decided_at=decided,
    )
    if draw < 0.02:
        why = Reason(code="image_truncated", text="The image was not analysed: it is cut short.")
        outcome = Outcome(status=Status.NOT_ANALYSED, reasons=(why,))
        return base.model_copy(update={"outcome": outcome})
    tier = Tier.NOVEL if draw < 0.08 else Tier.RARE if draw < 0.2 else Tier.COMMON
    p = float(rng.uniform(0.001, 0.05) if tier is Tier.NOVEL else rng.uniform(0.05, 1))
    reader = f"specialist-{modality}" if tier is Tier.COMMON else "generalist"
    readers = (reader, "generalist") if tier is Tier.COMMON and rng.random() < 0.2 else (reader,)
    said = tuple(_reading(rng, r) for r in readers)
    answered = tier is not Tier.NOVEL
    code = {Tier.NOVEL: "novel", Tier.RARE: "rare", Tier.COMMON: "specialist"}[tier]
    reasons = [Reason(code=code, text=f"Synthetic: p = {p:.3f}; {reader} reads it.")]
    if rng.random() < 0.03:
        reasons.append(Reason(code="tag_disagreement", text="Synthetic: tags name another one."))
    differ = [r for r in said if r.answer != said[0].answer]
    outcome = Outcome(
        status=Status.ANSWERED if answered else Status.NEEDS_REVIEW,
        route=readers,
        answer=said[0].answer if answered else None,
        confidence=said[0].confidence,
        reader=reader,
        provisional=None if answered else said[0].answer,
        reasons=tuple(reasons),
        dissent=tuple(f"{r.agent}: {r.answer} ({r.confidence:.2f})" for r in differ),
        counterfactuals=(Counterfactual(change="with α of 0.9", then="it would be held"),),
    )
    familiarity = Familiarity(
        p_value=p, score=1.0, threshold=2.0, alpha=0.05, stratum=modality, stratum_n=60
    )
    near = Neighbour(case="synthetic-train", modality=modality, label="normal", similarity=0.9)
    known = AgentCompetence(agent=reader, estimate=0.8, low=0.7, high=0.9, support=30.0)
    return base.model_copy(
        update={
            "tier": tier,
            "modality": modality,
            "modality_probabilities": {modality: 1.0},
            "familiarity": familiarity,
            "support": 400 if tier is Tier.COMMON else 20,
            "specialist": reader if tier is Tier.COMMON else None,
            "tag_disagreement": len(reasons) > 1,
            "neighbours": (near,) * 5,
            "competence": (known,),
            "responses": said,
            "outcome": outcome,
        }
    )


def _reading(rng: np.random.Generator, agent: str) -> Reading:
    probabilities = rng.dirichlet(np.full(len(_OPTIONS), 0.3))
    return Reading(
        agent=agent,
        fingerprint="5" * 64,
        options=_OPTIONS,
        probabilities=tuple(float(p) for p in probabilities),
        confidence=float(probabilities.max()),
        cost=1.0,
    )
