"""A record as what the case page shows, in plain data: headline, readings, reasons, versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from curbside.readings import CaseRecord, Reading, Status
from curbside.router.review import Event, Kind
from curbside.ui.charts import Whisker

__all__ = [
    "Headline",
    "Said",
    "event_line",
    "headline",
    "moment",
    "posterior",
    "readings",
    "shortcuts",
    "version_lines",
    "whisker_rows",
]

#: Options from which buttons give way to a list.
MOST_BUTTONS = 9


@dataclass(frozen=True)
class Headline:
    """What the case ended with.

    Args:
        answer: what is shown large; ``""`` where there is nothing to show.
        kind: ``answer``, ``provisional`` (nobody's answer yet) or ``none``.
        by: who gave it, in words.
    """

    status: Status
    answer: str
    kind: Literal["answer", "provisional", "none"]
    by: str
    reasons: tuple[str, ...]
    dissent: tuple[str, ...]


def headline(record: CaseRecord) -> Headline:
    """The outcome first, then why."""
    o = record.outcome
    sure = "" if o.confidence is None else f", says {o.confidence:.2f}"
    kind: Literal["answer", "provisional", "none"]
    if o.answer is not None:
        # only a person answers without a confidence
        by = f"by {o.reader}{sure}"
        answer, kind = o.answer, "answer"
    elif o.provisional is not None:
        by = f"provisional, by {o.reader}{sure}: nobody's answer until a person settles it"
        answer, kind = o.provisional, "provisional"
    elif o.status in (Status.NOT_ANALYSED, Status.QUARANTINED):
        by, answer, kind = "this says nothing about the patient", "No result", "none"
    else:
        by, answer, kind = "no reading is attached", "No reading", "none"
    return Headline(
        o.status,
        answer,
        kind,
        by,
        tuple(r.text for r in o.reasons),
        o.dissent,
    )


@dataclass(frozen=True)
class Said:
    """What one agent said.

    Args:
        options: (option, probability), likeliest first; empty where it gave no reading.
        differs: its answer is another than the case's.
        why_not: why there is no reading.
    """

    agent: str
    answer: str
    options: tuple[tuple[str, float], ...]
    confidence: float | None
    differs: bool
    read_for_case: bool
    why_not: str
    fingerprint: str
    latency_ms: float = 0.0


def readings(record: CaseRecord) -> list[Said]:
    """Every agent that was asked, the case's own reader first."""
    o = record.outcome
    told = o.answer if o.answer is not None else o.provisional
    out = []
    for r in record.responses:
        if isinstance(r, Reading):
            pairs = zip(r.options, r.probabilities, strict=True) if r.probabilities else ()
            ranked = tuple(sorted(pairs, key=lambda x: -x[1]))
            out.append(
                Said(
                    r.agent,
                    r.answer,
                    ranked,
                    r.confidence,
                    told is not None and r.answer != told,
                    r.agent == o.reader,
                    "",
                    r.fingerprint,
                    r.latency_ms,
                )
            )
        else:
            why = r.reason if r.type == "abstention" else r.message
            word = "abstained" if r.type == "abstention" else f"failed ({r.kind})"
            out.append(Said(r.agent, word, (), None, False, False, why, r.fingerprint))
    return sorted(out, key=lambda s: not s.read_for_case)


def posterior(record: CaseRecord, n: int = 5) -> list[tuple[str, float]]:
    """The likeliest modalities."""
    return list(record.modality_probabilities.items())[:n]


def whisker_rows(record: CaseRecord) -> list[Whisker]:
    """Estimated P(correct) of the agents in question, highest first.

    Those that were asked, the modality's specialist, and the four best of the others.
    """
    asked = {r.agent for r in record.responses} | set(record.outcome.route)
    asked |= {record.specialist} if record.specialist else set()
    ranked = sorted(record.competence, key=lambda c: -c.estimate)
    others = [c for c in ranked if c.agent not in asked][: max(0, 6 - len(asked))]
    kept = {c.agent for c in others} | asked
    return [
        Whisker(c.agent, c.estimate, c.low, c.high, c.support, c.agent == record.outcome.reader)
        for c in ranked
        if c.agent in kept
    ]


def shortcuts(options: Sequence[str]) -> dict[str, str]:
    """Option → the digit that chooses it; empty where there are too many for digits."""
    if len(options) > MOST_BUTTONS:
        return {}
    return {o: str(i) for i, o in enumerate(options, 1)}


def version_lines(record: CaseRecord) -> list[tuple[str, str]]:
    """What the decision depended on."""
    v = record.versions
    return [
        ("code", v.code),
        *((n, getattr(v, n)[:16]) for n in ("policy", "fleet", "index", "calibration", "encoder")),
        ("content", record.content[:16]),
    ]


_DID = {
    Kind.ANSWER: "answered",
    Kind.AGREE: "agreed:",
    Kind.OVERRIDE: "overrode with",
    Kind.REROUTE: "re-routed to",
    Kind.ASK: "asked",
    Kind.NOTE: "noted",
    Kind.BLIND: "read blind:",
}


def moment(when: datetime) -> str:
    """A moment in this machine's time zone, as all lines of a story give it."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def event_line(event: Event) -> tuple[str, str, str]:
    """(when, who, what) of one entry of a case's story."""
    when = moment(datetime.fromtimestamp(event.at))
    parts = [_DID.get(event.kind, str(event.kind))]
    parts += [event.answer] if event.answer else []
    parts += [f"({event.code.replace('_', ' ')})"] if event.code else []
    parts += [event.text] if event.text else []
    return when, event.who, " ".join(parts)
