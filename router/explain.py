"""From numbers to a record that a person can argue with, and to the text they read.

Counterfactuals are found by running the very policy again on the changed facts, so they
are true by construction; where the change would ask an agent that was not asked, that is
what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from curbside.assessments import Assessments
from curbside.config import PolicyConfig, TierPolicy
from curbside.errors import UNSAFE
from curbside.indexes.assess import Assessor
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
    Tier,
)
from curbside.responses import ResponseStatus
from curbside.router.policies import is_novel, make_policy
from curbside.router.policy import Action, Policy, Responses, Step, codes, next_step

__all__ = [
    "Serving",
    "Verdict",
    "columns_of",
    "explain",
    "render",
    "reviewed",
    "settle",
    "tier_of",
    "without_image",
]

AnyResponse = Reading | Abstention | Failure
_NEIGHBOURS_SHOWN = 5


@dataclass(frozen=True)
class Serving:
    """What decisions are made with: the policy, its agents, and their costs."""

    config: PolicyConfig
    agents: tuple[str, ...]
    generalist: str
    costs: Mapping[str, float]

    def policy(self, config: PolicyConfig | None = None) -> Policy:
        """The policy, or one of another configuration over the same agents."""
        return make_policy(
            config or self.config, agents=self.agents, generalist=self.generalist, costs=self.costs
        )


@dataclass(frozen=True)
class Verdict:
    """How the policy ended a case, or (``asks``) whom it would ask and has not.

    ``reader`` has the most weight; ``mixture`` holds every reader's where there are several.
    """

    answered: bool
    reader: str | None
    reason: str
    asks: tuple[str, ...] = ()
    mixture: Mapping[str, float] = field(default_factory=dict)


def columns_of(agents: Sequence[str], responses: Mapping[str, AnyResponse]) -> Responses:
    """Responses of one case as the columns that a policy sees."""
    a = len(agents)
    status = np.zeros((1, a), np.int8)
    confidence = np.full((1, a), np.nan, np.float32)
    choice = np.full((1, a), -1, np.int16)
    for column, name in enumerate(agents):
        r = responses.get(name)
        if isinstance(r, Reading):
            status[0, column] = ResponseStatus.READ
            confidence[0, column] = r.confidence
            if r.probabilities:
                choice[0, column] = int(np.argmax(r.probabilities))
        elif isinstance(r, Abstention):
            status[0, column] = ResponseStatus.ABSTAINED
        elif isinstance(r, Failure):
            status[0, column] = ResponseStatus.FAILED
    return Responses(tuple(agents), status, confidence, choice)


def settle(
    policy: Policy,
    assessment: Assessments,
    agents: Sequence[str],
    responses: Mapping[str, AnyResponse],
) -> Verdict:
    """One step of the policy on one case with what has been said so far."""
    step: Step = next_step(policy, assessment, columns_of(agents, responses))
    reason = codes(policy)[int(step.reason[0])]
    if step.action[0] == Action.ASK:
        return Verdict(False, None, reason, tuple(np.array(agents)[step.ask[0]].tolist()))
    weights = step.weights[0]
    reader = agents[int(weights.argmax())] if weights.any() else None
    mixed = {agents[int(c)]: float(weights[c]) for c in np.flatnonzero(weights)}
    several = mixed if len(mixed) > 1 else {}
    return Verdict(bool(step.action[0] == Action.ANSWER), reader, reason, mixture=several)


def tier_of(assessment: Assessments, config: PolicyConfig) -> Tier:
    """Derived for people: novel by p-value, rare without support or specialist, else common."""
    if is_novel(assessment, config.alpha)[0]:
        return Tier.NOVEL
    minimum = getattr(config, "minimum_support", TierPolicy().minimum_support)
    thin = assessment.specialist[0] < 0 or assessment.support[0] < minimum
    return Tier.RARE if thin else Tier.COMMON


def explain(
    base: CaseRecord,
    assessment: Assessments,
    responses: Mapping[str, AnyResponse],
    verdict: Verdict,
    serving: Serving,
    assessor: Assessor,
    *,
    assumed_question: bool = False,
) -> CaseRecord:
    """The whole record of a case whose image could be assessed.

    Args:
        base: the record so far: ids, question, versions, times.
        verdict: how the policy ended it; with ``asks`` nobody has been asked yet.
    """
    config = serving.config
    column = int(assessment.modality[0])
    modality = assessment.modalities[column]
    stratum = assessment.strata[int(assessment.stratum[0])]
    familiarity = Familiarity(
        p_value=float(assessment.p_value[0]),
        score=float(assessment.novelty[0]),
        threshold=_finite(assessor.threshold(config.alpha, stratum)),
        alpha=config.alpha,
        stratum=stratum,
        stratum_n=int(assessment.stratum_n[0]),
    )
    own = int(assessment.specialist[0])
    specialist = assessment.agents[own] if own >= 0 else None
    reading = _reading(verdict, responses)
    answer = reading.answer if reading is not None else None
    confidence = reading.confidence if reading is not None else None
    reader = " + ".join(verdict.mixture) or verdict.reader
    reasons = [_sentence(verdict, familiarity, modality, int(assessment.support[0]), confidence)]
    if assumed_question:
        reasons.append(
            Reason(
                code="assumed_question",
                text=f"No question was asked; the task of the nearest {modality} cases was "
                f"assumed ({base.task}).",
            )
        )
    if bool(assessment.tag_disagreement[0]) and verdict.reason != "tag_disagreement":
        reasons.append(
            Reason(
                code="tag_disagreement",
                text=f"The tags name another modality than the pixels do ({modality}).",
            )
        )
    reasons += _incomplete(base)
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
    outcome = Outcome(
        status=Status.ANSWERED if verdict.answered else Status.NEEDS_REVIEW,
        route=verdict.asks or tuple(responses),
        answer=answer if verdict.answered else None,
        confidence=confidence,
        reader=reader,
        provisional=None if verdict.answered else answer,
        reasons=tuple(reasons),
        dissent=dissent,
        counterfactuals=_counterfactuals(assessment, responses, verdict, serving),
    )
    order = np.argsort(-assessment.posterior[0])
    return base.model_copy(
        update={
            "tier": tier_of(assessment, config),
            "modality": modality,
            "modality_probabilities": {
                assessment.modalities[int(j)]: round(float(assessment.posterior[0, j]), 6)
                for j in order
                if assessment.posterior[0, j] >= 5e-4
            },
            "familiarity": familiarity,
            "support": int(assessment.support[0]),
            "specialist": specialist,
            "tag_disagreement": bool(assessment.tag_disagreement[0]),
            "neighbours": _neighbours(assessment, assessor),
            "competence": _competence(assessment),
            "responses": tuple(responses.values()),
            "outcome": outcome,
        }
    )


def _reading(verdict: Verdict, responses: Mapping[str, AnyResponse]) -> Reading | None:
    """The reading that answers: one agent's, or the weighted mean of several."""
    own = responses.get(verdict.reader) if verdict.reader else None
    if not isinstance(own, Reading) or not verdict.mixture:
        return own if isinstance(own, Reading) else None
    mean = np.zeros(len(own.probabilities))
    for name, weight in verdict.mixture.items():
        part = responses[name]
        assert isinstance(part, Reading)
        mean += weight * np.asarray(part.probabilities)
    return own.model_copy(
        update={
            "agent": " + ".join(verdict.mixture),
            "probabilities": tuple(mean.tolist()),
            "confidence": float(mean.max()),
        }
    )


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


def reviewed(record: CaseRecord, answer: str, reader: str) -> CaseRecord:
    """The record after a person has answered."""
    note = Reason(code="person", text=f"A person answered ({reader}).")
    outcome = record.outcome.model_copy(
        update={
            "status": Status.ANSWERED,
            "answer": answer,
            "reader": reader,
            "confidence": None,
            "reasons": (*record.outcome.reasons, note),
        }
    )
    return record.model_copy(update={"outcome": outcome})


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
        "tag_disagreement": f"The tags name another modality than the pixels do ({modality}): a "
        "person must read it; any reading attached is provisional.",
        "no_reading": "No agent gave a reading: a person must read it.",
        "most_competent": f"{reader} has the highest estimated chance of being right on cases "
        "like this.",
        "competence_unknown": f"Nothing is known of who reads this well; by tier, {reader} "
        f"reads it ({seen}).",
        "sure_enough": f"{reader} reads it and is sure enough{sure}.",
        "escalated": f"The first reader was unsure; {reader} agrees and is the surer{sure}.",
        "disagreement": f"The first reader was unsure and the second disagrees; {reader} is the "
        f"surer{sure}.",
        "averaged": f"Several readings as one, by weight{sure}: {' + '.join(verdict.mixture)}.",
    }
    return Reason(code=verdict.reason, text=texts.get(verdict.reason, verdict.reason))


def _why(response: Abstention | Failure) -> str:
    return response.reason if isinstance(response, Abstention) else response.message


def _neighbours(assessment: Assessments, assessor: Assessor) -> tuple[Neighbour, ...]:
    rows = assessment.neighbours[0][:_NEIGHBOURS_SHOWN]
    return tuple(
        Neighbour(
            case=str(assessor.ids[r]),
            modality=str(assessor.neighbour_modalities[r]),
            label=str(assessor.labels[r]),
            similarity=round(float(s), 4),
        )
        for r, s in zip(rows.tolist(), assessment.similarity[0], strict=False)
    )


def _competence(assessment: Assessments) -> tuple[AgentCompetence, ...]:
    return tuple(
        AgentCompetence(
            agent=name,
            estimate=float(assessment.competence[0, j]),
            low=float(assessment.competence_low[0, j]),
            high=float(assessment.competence_high[0, j]),
            support=float(assessment.competence_support[0, j]),
        )
        for j, name in enumerate(assessment.agents)
        if np.isfinite(assessment.competence[0, j])
    )


def _counterfactuals(
    assessment: Assessments,
    responses: Mapping[str, AnyResponse],
    verdict: Verdict,
    serving: Serving,
) -> tuple[Counterfactual, ...]:
    """Single changes that end the case elsewhere, each checked by running the policy."""
    config, p = serving.config, float(assessment.p_value[0])
    changes: list[tuple[str, Assessments, PolicyConfig]] = []
    if is_novel(assessment, config.alpha)[0]:
        familiar = replace(assessment, p_value=np.array([1.0]))
        changes.append((f"had the p-value been above α = {config.alpha:g}", familiar, config))
    if assessment.tag_disagreement[0]:
        agreed = replace(assessment, tag_disagreement=np.array([False]))
        changes.append(("had the tags named what the pixels show", agreed, config))
    if not is_novel(assessment, config.alpha)[0] and p < 1:
        # rounded up, so that the α that is printed does hold the case back
        alpha = float(np.ceil(p * 1e4) / 1e4)
        if alpha < 1:
            other = config.model_copy(update={"alpha": alpha})
            changes.append((f"with α of {alpha:g} or more", assessment, other))
    minimum = getattr(config, "minimum_support", None)
    if minimum is not None and assessment.specialist[0] >= 0:
        support = int(assessment.support[0])
        if support < minimum:
            more = replace(assessment, support=np.array([minimum], np.int32))
            changes.append((f"with {minimum} labelled cases instead of {support}", more, config))
        else:
            fewer = config.model_copy(update={"minimum_support": support + 1})
            changes.append((f"with a minimum support above {support}", assessment, fewer))
    if verdict.answered and verdict.reader is not None:
        reading = _reading(verdict, responses)
        if reading is not None and config.kind != "competence":
            floor = float(np.floor(reading.confidence * 100 + 1) / 100)
            if floor <= 1:
                strict = config.model_copy(update={"floor": floor})
                changes.append((f"with a confidence floor of {floor:g}", assessment, strict))
    if verdict.reason == "below_floor":
        changes.append(("without a floor", assessment, config.model_copy(update={"floor": 0.0})))
    found = []
    for change, facts, policy in changes:
        then = settle(serving.policy(policy), facts, serving.agents, responses)
        same = (then.answered, then.reader, then.asks) == (
            verdict.answered,
            verdict.reader,
            verdict.asks,
        )
        if not same:
            found.append(Counterfactual(change=change, then=_then(then)))
    return tuple(found)


def _then(verdict: Verdict) -> str:
    if verdict.asks:
        return f"{' and '.join(verdict.asks)} would be asked"
    if verdict.answered:
        return f"it would be answered by {verdict.reader}"
    return "it would be held for a person"


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)


def render(record: CaseRecord) -> str:
    """The record as text for a person: the outcome first, then why, then what it rests on."""
    o = record.outcome
    head = {
        Status.ANSWERED: f"ANSWERED: {o.answer}",
        Status.NEEDS_REVIEW: "NEEDS REVIEW: a person must read this",
        Status.NOT_ANALYSED: "NOT ANALYSED: this says nothing about the patient",
        Status.QUARANTINED: "QUARANTINED: the file is unsafe to open; nothing was analysed",
    }[o.status]
    lines = [head]
    if o.status is Status.ANSWERED and o.confidence is not None:
        lines[0] += f"  (confidence {o.confidence:.2f}, by {o.reader})"
    if o.provisional is not None:
        lines.append(
            f"  provisional: {o.provisional} ({o.confidence:.2f}, by {o.reader}) — not an answer"
        )
    if o.status is Status.NEEDS_REVIEW and not record.responses and o.route:
        lines.append(f"  would ask: {', '.join(o.route)}")
    lines.append("")
    lines += [f"  why       {r.text}" for r in o.reasons]
    if record.modality is not None:
        shown = list(record.modality_probabilities.items())[:3]
        lines.append("  modality  " + ", ".join(f"{m} {p:.2f}" for m, p in shown))
    if record.tier is not None:
        lines.append(f"  tier      {record.tier} ({record.support} labelled training cases)")
    if record.familiarity is not None:
        f = record.familiarity
        lines.append(
            f"  seen?     p = {f.p_value:.3f}, novel at {f.alpha:g} or below "
            f"(calibrated on {f.stratum_n} cases of stratum '{f.stratum}')"
        )
    if record.options:
        lines.append(f"  asked     {' | '.join(record.options)}" + _task(record))
    lines += [
        f"  nearest   {n.modality}{': ' + n.label if n.label else ''} (cosine {n.similarity:.2f})"
        for n in record.neighbours[:3]
    ]
    for r in record.responses:
        if isinstance(r, Reading):
            said = ", ".join(
                f"{name} {p:.2f}"
                for name, p in sorted(
                    zip(r.options, r.probabilities, strict=True), key=lambda x: -x[1]
                )[:3]
            )
            lines.append(f"  reading   {r.agent}: {said}")
    lines += [f"  dissent   {d}" for d in o.dissent]
    lines += [f"  what if   {c.change}: {c.then}" for c in o.counterfactuals]
    lines.append(f"\n  case {record.case}.  {record.notice}")
    return "\n".join(lines)


def _task(record: CaseRecord) -> str:
    return f"  (task {record.task})" if record.task else ""
