"""One recorded case under another policy, from its record alone: no image, no model.

The policy meets what was known when the case was recorded, and hears an agent's response
only where it asks for it.  Whom nobody asked then, nobody can hear now: that is what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curbside.assessments import Assessments
from curbside.config import PolicyConfig
from curbside.errors import UserError
from curbside.readings import CaseRecord, Tier
from curbside.router.ledger import Ledger
from curbside.router.verdicts import (
    AnyResponse,
    Serving,
    Verdict,
    reading_of,
    settle,
    tiers_of,
)

__all__ = ["Replayed", "assessment_of", "replay"]


@dataclass(frozen=True)
class Replayed:
    """How a case ends under another policy.

    Args:
        answer: what would be answered, or attached as provisional; None where nothing is known.
        missing: agents that it would ask and nobody asked.
    """

    record: CaseRecord
    verdict: Verdict
    tier: Tier
    answer: str | None
    confidence: float | None
    missing: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the case ends otherwise than it was recorded (before any review), or may."""
        o = self.record.outcome
        before = (o.answer is not None, o.answer or o.provisional)
        return bool(self.missing) or before != (self.verdict.answered, self.answer)

    def lines(self) -> list[str]:
        """For people."""
        o, v = self.record.outcome, self.verdict
        was = f"answered {o.answer!r}" if o.answer is not None else "held for a person"
        if v.answered:
            now = f"answered {self.answer!r} ({self.confidence:.2f}) by {v.reader}"
        elif self.missing:
            now = f"unknown: it would ask {' and '.join(self.missing)}, whom nobody asked"
        else:
            now = "held for a person" + (f", provisional {self.answer!r}" if self.answer else "")
        return [
            f"case      {self.record.case}  ({self.record.modality})",
            f"recorded  {was} by {o.reader or 'nobody'} ({o.reasons[0].code}, {self.record.tier})",
            f"replayed  {now} ({v.reason}, {self.tier})",
            self._conclusion(),
        ]

    def _conclusion(self) -> str:
        if self.missing:
            return "its route changes; whether its answer does is not known"
        return "it changes" if self.changed else "it stays the same"


def replay(ledger: Ledger, case: str, policy: PolicyConfig) -> Replayed:
    """Run another policy on what the ledger holds of a case; a review of it is left out.

    Raises:
        UserError: no such case, or one whose image was never assessed.
    """
    record = _before_review(ledger, case)
    if record.familiarity is None:
        raise UserError(
            f"case {case!r} was never assessed: {record.outcome.reasons[0].text}",
            hint=f"curbside explain {case}",
        )
    facts = ledger.stamped("fleet", record.versions.fleet)
    if facts is None:
        raise UserError(
            f"the ledger does not say which agents served when case {case!r} was recorded",
            hint="read it again with this fleet: curbside batch CASES --out DIR",
        )
    serving = Serving.of_facts(facts, policy)
    assessment = assessment_of(record, serving.agents)
    rule, known = serving.policy(), {r.agent: r for r in record.responses}
    said: dict[str, AnyResponse] = {}
    while True:
        (verdict,) = settle(rule, assessment, serving.agents, [said])
        missing = tuple(a for a in verdict.asks if a not in known)
        if missing or not verdict.asks:
            break
        said |= {a: known[a] for a in verdict.asks}
    reading = reading_of(verdict, said)
    return Replayed(
        record,
        verdict,
        tiers_of(assessment, policy)[0],
        reading.answer if reading else None,
        reading.confidence if reading else None,
        missing,
    )


def assessment_of(record: CaseRecord, agents: Sequence[str]) -> Assessments:
    """What policies look at, from a record: one row.

    Neighbours are left out, and of the posterior what the record left out: no policy sees
    more of it than its largest.
    """
    f = record.familiarity
    assert f is not None
    modalities = tuple(record.modality_probabilities)
    known = {c.agent: c for c in record.competence}

    def column(name: str, absent: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        values = [getattr(known[a], name) if a in known else absent for a in agents]
        return np.array([values], np.float32)

    own = agents.index(record.specialist) if record.specialist in agents else -1
    return Assessments(
        modalities=modalities,
        agents=tuple(agents),
        strata=(f.stratum,),
        posterior=np.array([list(record.modality_probabilities.values())], np.float32),
        novelty=np.array([f.score]),
        p_value=np.array([f.p_value]),
        stratum=np.zeros(1, np.int16),
        stratum_n=np.array([f.stratum_n], np.int32),
        support=np.array([record.support or 0], np.int32),
        specialist=np.array([own], np.int16),
        neighbours=np.zeros((1, 0), np.int64),
        similarity=np.zeros((1, 0), np.float32),
        tag_disagreement=np.array([record.tag_disagreement]),
        competence=column("estimate", np.nan),
        competence_low=column("low", np.nan),
        competence_high=column("high", np.nan),
        competence_support=column("support", 0.0),
    )


def _before_review(ledger: Ledger, case: str) -> CaseRecord:
    """The latest record that no person has changed."""
    history = [r for _, r in ledger.history(case)]
    routed = [r for r in history if all(x.code != "person" for x in r.outcome.reasons)]
    return routed[-1] if routed else ledger.record(case)
