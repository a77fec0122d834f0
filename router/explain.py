"""From numbers to records that a person can argue with.

Columnar: many cases of a batch and one case alone go through the same lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from curbside.assessments import Assessments
from curbside.errors import UNSAFE
from curbside.readings import (
    Abstention,
    AgentCompetence,
    CaseRecord,
    Counterfactual,
    Failure,
    Familiarity,
    Neighbour,
    Outcome,
    Reading,
    Reason,
    Status,
)
from curbside.router.verdicts import (
    AnyResponse,
    Serving,
    Verdict,
    counterfactuals,
    reading_of,
    tiers_of,
)

if TYPE_CHECKING:
    from curbside.indexes.assess import Assessor

__all__ = ["Told", "explain", "without_image"]

_NEIGHBOURS_SHOWN = 5
#: Probabilities below this are left out of a record.
_LEAST = 5e-4


@dataclass(frozen=True)
class Told:
    """What is known of one case beside its assessment.

    Args:
        base: the record so far: ids, question, versions, times.
        responses: agent → what it said.
        verdict: how the policy ended the case; with ``asks`` nobody has been asked yet.
        assumed_question: the question was taken from the nearest cases.
    """

    base: CaseRecord
    responses: Mapping[str, AnyResponse]
    verdict: Verdict
    assumed_question: bool = False


def explain(
    assessments: Assessments, told: Sequence[Told], serving: Serving, assessor: Assessor
) -> list[CaseRecord]:
    """The whole records of n cases whose images could be assessed, in order."""
    facts, config = assessments, serving.config
    changes = counterfactuals(
        facts, [t.responses for t in told], [t.verdict for t in told], serving
    )
    tiers = tiers_of(facts, config)
    modality = [facts.modalities[c] for c in facts.modality.tolist()]
    posterior = _posteriors(facts)
    neighbours = _neighbours(facts, assessor)
    competence = _competence(facts)
    strata = [facts.strata[c] for c in facts.stratum.tolist()]
    thresholds = {s: _finite(assessor.threshold(config.alpha, s)) for s in set(strata)}
    p_values, scores = facts.p_value.tolist(), facts.novelty.tolist()
    counts, support = facts.stratum_n.tolist(), facts.support.tolist()
    specialists = [facts.agents[c] if c >= 0 else None for c in facts.specialist.tolist()]
    disagree = facts.tag_disagreement.tolist()
    records = []
    for i, case in enumerate(told):
        familiarity = Familiarity(
            p_value=p_values[i],
            score=scores[i],
            threshold=thresholds[strata[i]],
            alpha=config.alpha,
            stratum=strata[i],
            stratum_n=counts[i],
        )
        outcome = _outcome(case, familiarity, modality[i], support[i], disagree[i], changes[i])
        if serving.suspended & {strata[i], "*"}:
            outcome = outcome.model_copy(
                update={"reasons": (*outcome.reasons, _suspended(strata[i]))}
            )
        records.append(
            case.base.model_copy(
                update={
                    "tier": tiers[i],
                    "modality": modality[i],
                    "modality_probabilities": posterior[i],
                    "familiarity": familiarity,
                    "support": support[i],
                    "specialist": specialists[i],
                    "tag_disagreement": disagree[i],
                    "neighbours": neighbours[i],
                    "competence": competence[i],
                    "responses": tuple(case.responses.values()),
                    "outcome": outcome,
                }
            )
        )
    return records


def without_image(base: CaseRecord, reason: str, message: str) -> CaseRecord:
    """The record of a case whose image cannot be used: not analysed, or quarantined."""
    said = Reason(code=f"image_{reason}", text=f"The image was not analysed: {message}.")
    status = Status.QUARANTINED if reason in UNSAFE else Status.NOT_ANALYSED
    reasons = (said, *_incomplete(base))
    return base.model_copy(update={"outcome": Outcome(status=status, reasons=reasons)})


def _incomplete(base: CaseRecord) -> tuple[Reason, ...]:
    if not base.incomplete:
        return ()
    lost = ", ".join(f"{n} {reason}" for reason, n in Counter(base.incomplete).most_common())
    text = f"The study is incomplete: objects of it cannot be used ({lost})."
    return (Reason(code="incomplete", text=text),)


def _outcome(
    case: Told,
    familiarity: Familiarity,
    modality: str,
    support: int,
    disagree: bool,
    changes: tuple[Counterfactual, ...],
) -> Outcome:
    verdict, responses = case.verdict, case.responses
    reading = reading_of(verdict, responses)
    answer = reading.answer if reading is not None else None
    confidence = reading.confidence if reading is not None else None
    reader = " + ".join(verdict.mixture) or verdict.reader
    reasons = [_sentence(verdict, familiarity, modality, support, confidence)]
    if case.assumed_question:
        reasons.append(
            Reason(
                code="assumed_question",
                text=f"No question was asked; the task of the nearest {modality} cases was "
                f"assumed ({case.base.task}).",
            )
        )
    if disagree and verdict.reason != "tag_disagreement":
        reasons.append(
            Reason(
                code="tag_disagreement",
                text=f"The tags name another modality than the pixels do ({modality}).",
            )
        )
    reasons += _incomplete(case.base)
    reasons += [
        Reason(code=f"{r.type}", text=f"{name} gave no reading: {_why(r)}.")
        for name, r in responses.items()
        if not isinstance(r, Reading)
    ]
    dissent = tuple(
        f"{name}: {r.answer} ({r.confidence:.2f})"
        for name, r in responses.items()
        if isinstance(r, Reading) and name != reader and r.answer != answer
    )
    return Outcome(
        status=Status.ANSWERED if verdict.answered else Status.NEEDS_REVIEW,
        route=verdict.asks or tuple(responses),
        answer=answer if verdict.answered else None,
        confidence=confidence,
        reader=reader,
        provisional=None if verdict.answered else answer,
        reasons=tuple(reasons),
        dissent=dissent,
        counterfactuals=changes,
    )


def _suspended(stratum: str) -> Reason:
    return Reason(
        code="drift",
        text=f"Recent cases differ from those that calibrated stratum {stratum}: what its p-value "
        "promises is suspended until curbside drift finds it stable.",
    )


def _sentence(
    verdict: Verdict,
    familiarity: Familiarity,
    modality: str,
    support: int,
    confidence: float | None,
) -> Reason:
    reader = verdict.reader or (verdict.asks[0] if verdict.asks else "nobody")
    p, alpha = familiarity.p_value, familiarity.alpha
    sure = "" if confidence is None else f" ({confidence:.2f})"
    seen = f"{support} labelled {modality} cases"
    texts = {
        "specialist": f"Familiar (p = {p:.3f}) with {seen}: {reader} reads it.",
        "rare": f"Familiar (p = {p:.3f}) but only {seen}: {reader} reads it.",
        "no_specialist": f"Familiar (p = {p:.3f}); no specialist for {modality} ({seen}): "
        f"{reader} reads it.",
        "fallback": f"The first choice gave no reading; {reader} reads it instead.",
        "novel": f"Unlike the calibration cases (p = {p:.3f} ≤ α = {alpha:g}): a person must "
        "read it; any reading attached is provisional.",
        "below_floor": f"The reading{sure} is below the floor: a person must read it.",
        "unproven": f"Nothing shows that {reader} reads such {modality} cases well: a person must "
        "read it; the reading attached is provisional.",
        "tag_disagreement": f"The tags name another modality than the pixels do ({modality}): a "
        "person must read it; any reading attached is provisional.",
        "no_reading": "No agent gave a reading: a person must read it.",
        "most_competent": f"{reader} has the highest estimated chance of being right on cases "
        "like this.",
        "competence_unknown": f"Nothing is known of who reads this well; by tier, {reader} "
        f"reads it ({seen}).",
        "sure_enough": f"{reader} reads it and is sure enough{sure}.",
        "escalated": f"One reader did not suffice; the two agree, and {reader} is the surer{sure}.",
        "disagreement": "One reader did not suffice and the second disagrees"
        + (
            f"; {reader} is the surer{sure}."
            if verdict.answered
            else ": a person must read it; the surer reading is attached, provisionally."
        ),
        "averaged": f"Several readings as one, by weight{sure}: {' + '.join(verdict.mixture)}.",
    }
    return Reason(code=verdict.reason, text=texts.get(verdict.reason, verdict.reason))


def _why(response: Abstention | Failure) -> str:
    return response.reason if isinstance(response, Abstention) else response.message


def _posteriors(facts: Assessments) -> list[dict[str, float]]:
    """Modality → probability of each case, the likeliest first."""
    order = np.argsort(-facts.posterior, axis=1, kind="stable")
    sizes = np.take_along_axis(facts.posterior, order, axis=1)
    shown = (sizes >= _LEAST).sum(axis=1).tolist()
    return [
        {
            facts.modalities[j]: round(value, 6)
            for j, value in zip(columns[:n], values[:n], strict=True)
        }
        for columns, values, n in zip(order.tolist(), sizes.tolist(), shown, strict=True)
    ]


def _neighbours(facts: Assessments, assessor: Assessor) -> list[tuple[Neighbour, ...]]:
    rows = facts.neighbours[:, :_NEIGHBOURS_SHOWN]
    similarity = facts.similarity[:, :_NEIGHBOURS_SHOWN].tolist()
    ids = assessor.ids[rows].tolist()
    modalities = assessor.neighbour_modalities[rows].tolist()
    labels = assessor.labels[rows].tolist()
    return [
        tuple(
            Neighbour(case=c, modality=m, label=name, similarity=round(s, 4))
            for c, m, name, s in zip(*case, strict=True)
        )
        for case in zip(ids, modalities, labels, similarity, strict=True)
    ]


def _competence(facts: Assessments) -> list[tuple[AgentCompetence, ...]]:
    known = np.isfinite(facts.competence).tolist()
    columns = (
        facts.competence.tolist(),
        facts.competence_low.tolist(),
        facts.competence_high.tolist(),
        facts.competence_support.tolist(),
    )
    return [
        tuple(
            AgentCompetence(agent=name, estimate=e, low=low, high=high, support=n)
            for name, there, e, low, high, n in zip(facts.agents, *case, strict=True)
            if there
        )
        for case in zip(known, *columns, strict=True)
    ]


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)
