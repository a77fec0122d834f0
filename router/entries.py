"""A record as a row of the worklist: what people filter and sort by, without the whole record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from curbside.readings import CaseRecord, Reading, Status

__all__ = ["Entry", "columns_of_record", "flags_of"]

#: Reasons that every well-read case has; all other codes are flags.
_ROUTINE = frozenset(
    ("specialist", "rare", "no_specialist", "most_competent", "competence_unknown")
) | {"sure_enough", "escalated", "person"}


class Entry(NamedTuple):
    """One row of the worklist: a study's latest reading, without the whole record.

    Times are seconds since 1970, UTC.  ``flags`` are reason codes beyond the routine ones;
    ``truth`` is what a person answered, None where nobody has.
    """

    study: str
    key: str
    revision: int
    received_at: float
    finished_at: float
    urgency: int
    status: Status
    modality: str
    tier: str
    route: tuple[str, ...]
    task: str
    reader: str
    answer: str | None
    provisional: str | None
    confidence: float | None
    p_value: float | None
    answers: str
    flags: tuple[str, ...]
    truth: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Entry:
        """From a row of the table ``cases``."""
        values = {name: row[name] for name in cls._fields}
        values["status"] = Status(row["status"])
        values["route"] = tuple(row["route"].split("+")) if row["route"] else ()
        values["flags"] = tuple(row["flags"].split())
        return cls(**values)


def flags_of(record: CaseRecord) -> tuple[str, ...]:
    """What a person may want to look at a case for: its codes beyond the routine ones."""
    outcome = record.outcome
    found = [r.code for r in outcome.reasons if r.code not in _ROUTINE]
    if outcome.status in (Status.NOT_ANALYSED, Status.QUARANTINED):
        found.append(str(outcome.status))
    if outcome.provisional is not None:
        found.append("provisional")
    if outcome.dissent:
        found.append("disagreement")
    return tuple(dict.fromkeys(found))


def columns_of_record(record: CaseRecord, now: float) -> dict[str, Any]:
    """The worklist's columns, but for key and revision."""
    o = record.outcome
    marks = flags_of(record)
    said = "; ".join(
        f"{r.agent}: {r.answer} {r.confidence:.2f}"
        if isinstance(r, Reading)
        else f"{r.agent}: {r.type}"
        for r in record.responses
    )
    words = (record.case, record.modality, record.task, o.answer, o.provisional, said, *marks)
    return {
        "study": record.case,
        "received_at": _seconds(record.received_at, now),
        "finished_at": _seconds(record.decided_at, now),
        "urgency": _urgency(record, marks),
        "status": str(o.status),
        "modality": record.modality or "",
        "tier": str(record.tier or ""),
        "route": "+".join(o.route),
        "task": record.task or "",
        "reader": o.reader or "",
        "answer": o.answer,
        "provisional": o.provisional,
        "confidence": o.confidence,
        "p_value": record.familiarity.p_value if record.familiarity else None,
        "answers": said,
        "flags": " ".join(marks),
        "search": " ".join((*(w for w in words if w), *record.options)).lower(),
    }


def _urgency(record: CaseRecord, marks: Sequence[str]) -> int:
    """1: a person must read what nobody knows; … 6: a person has read it."""
    status = record.outcome.status
    if status is Status.NEEDS_REVIEW:
        return 1 if "novel" in marks or not record.responses else 2
    if status in (Status.NOT_ANALYSED, Status.QUARANTINED):
        return 3
    if any(r.code == "person" for r in record.outcome.reasons):
        return 6
    return 4 if marks else 5


def _seconds(moment: str, default: float) -> float:
    return datetime.fromisoformat(moment).timestamp() if moment else default
