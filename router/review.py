"""What a person may do with a case, and the record after it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from curbside.errors import UserError
from curbside.readings import CaseRecord, Reason, Status

__all__ = ["OVERRIDE_CODES", "Event", "Kind", "answer_of", "reviewed"]

#: Why a person overrides an answer.
OVERRIDE_CODES = (
    "wrong_finding",
    "wrong_modality",
    "wrong_question",
    "image_quality",
    "more_information",
    "other",
)


class Kind(StrEnum):
    """What a person did.  The first four change the record; the others only add to its story."""

    ANSWER = "answer"
    AGREE = "agree"
    OVERRIDE = "override"
    REROUTE = "reroute"
    ASK = "ask"
    NOTE = "note"
    BLIND = "blind"


@dataclass(frozen=True)
class Event:
    """One entry of a case's story.

    Args:
        revision: of the case after it.
        at: seconds since 1970, UTC.
        who: an opaque name of the person.
        answer: what they answered (also in a blind-first reading); code: of an override;
            text: note, question asked of an agent, or the agent that was routed to.
    """

    case: str
    revision: int
    at: float
    who: str
    kind: Kind
    answer: str | None = None
    code: str | None = None
    text: str = ""


def answer_of(record: CaseRecord, kind: Kind, answer: str | None, code: str | None) -> str:
    """The answer that a review gives, checked.

    Raises:
        UserError: there is nothing to agree with, the answer is none of the options, or an
            override has no code of :data:`OVERRIDE_CODES`.
    """
    if kind is Kind.AGREE:
        answer = record.outcome.answer or record.outcome.provisional
        if answer is None:
            raise UserError(
                f"case {record.case!r} has no reading to agree with",
                hint=f"curbside review answer {record.case} ANSWER",
            )
    if not answer:
        raise UserError(
            f"no answer was given to case {record.case!r}",
            hint=f"curbside review answer {record.case} ANSWER",
        )
    if record.options and answer not in record.options:
        raise UserError(
            f"{answer!r} is none of the options: {', '.join(record.options)}",
            hint=f"curbside review answer {record.case} ANSWER, with one of these",
        )
    if kind is Kind.OVERRIDE and code not in OVERRIDE_CODES:
        raise UserError(
            f"an override needs a reason, not {code!r}; valid: {', '.join(OVERRIDE_CODES)}",
            hint=f"curbside review answer {record.case} ANSWER --override CODE",
        )
    return answer


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
