"""What travels along the graph: ids and numbers as plain types, never pixels or paths.

An assessment becomes a dict of lists and comes back bit for bit, so that a checkpoint can be
read with any msgpack decoder and a resumed case decides exactly as it would have.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import numpy as np

from curbside.assessments import Assessments
from curbside.readings import Abstention, Failure, Reading
from curbside.study import Question, QuestionKind

__all__ = ["State", "pack", "pack_question", "packed_response", "unpack", "unpack_question"]

_NAMES = ("modalities", "agents", "strata")
_DTYPES: dict[str, type[np.generic]] = {
    "posterior": np.float32,
    "novelty": np.float64,
    "p_value": np.float64,
    "stratum": np.int16,
    "stratum_n": np.int32,
    "support": np.int32,
    "specialist": np.int16,
    "neighbours": np.int64,
    "similarity": np.float32,
    "tag_disagreement": np.bool_,
    "competence": np.float32,
    "competence_low": np.float32,
    "competence_high": np.float32,
    "competence_support": np.float32,
}


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Several agents may answer in one step; each adds its own."""
    return {**old, **new}


class State(TypedDict, total=False):
    """One case on its way.

    Args:
        case: id; content: SHA-256 of the image; key: of the outcome in the ledger;
            question: as :func:`pack_question`.
        problem: why the image cannot be used (``reason`` and ``message``), or None.
        assessment: as :func:`pack`; responses: agent → response as plain JSON types.
        asking: agents to ask next; verdict: how the policy ended the case.
        review: a person's answer; record: the case record as plain JSON types.
    """

    case: str
    content: str
    key: str
    received_at: str
    question: dict[str, Any]
    assumed_question: bool
    problem: dict[str, str] | None
    assessment: dict[str, Any] | None
    responses: Annotated[dict[str, dict[str, Any]], _merged]
    asking: list[str]
    verdict: dict[str, Any] | None
    review: dict[str, str] | None
    record: dict[str, Any] | None


def pack(assessments: Assessments) -> dict[str, Any]:
    """One row of assessments as plain lists."""
    packed: dict[str, Any] = {n: list(getattr(assessments, n)) for n in _NAMES}
    for name in _DTYPES:
        packed[name] = getattr(assessments, name)[0].tolist()
    return packed


def unpack(packed: dict[str, Any]) -> Assessments:
    """The reverse of :func:`pack`: one row."""
    columns: dict[str, Any] = {n: np.array([packed[n]], dtype) for n, dtype in _DTYPES.items()}
    columns |= {n: tuple(packed[n]) for n in _NAMES}
    return Assessments(**columns)


def pack_question(question: Question) -> dict[str, Any]:
    """A question as plain types."""
    return {
        "options": list(question.options),
        "text": question.text,
        "kind": str(question.kind),
        "task": question.task,
    }


def unpack_question(packed: dict[str, Any]) -> Question:
    """The reverse of :func:`pack_question`."""
    return Question(
        options=tuple(packed["options"]),
        text=packed["text"],
        kind=QuestionKind(packed["kind"]),
        task=packed["task"],
    )


def packed_response(packed: dict[str, Any]) -> Reading | Abstention | Failure:
    """A response from the plain types of ``model_dump(mode="json")``."""
    kinds: dict[str, type[Reading | Abstention | Failure]] = {
        "reading": Reading,
        "abstention": Abstention,
        "failure": Failure,
    }
    return kinds[packed["type"]].model_validate(packed)
