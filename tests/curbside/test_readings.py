"""An answer, an abstention and a failure stay apart, also as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from curbside.readings import (
    Abstention,
    CaseRecord,
    Failure,
    Outcome,
    Reading,
    Reason,
    Response,
    Status,
    Versions,
)

ONE = Reading(
    agent="a", fingerprint="f", options=("x", "y"), probabilities=(0.3, 0.7), confidence=0.7
)
RESPONSES = [
    ONE,
    Abstention(agent="b", reason="knows no such option"),
    Failure(agent="c", kind="timeout", message="no answer in 30 s"),
]


@pytest.mark.parametrize("response", RESPONSES, ids=lambda r: r.type)
def test_each_comes_back_as_its_own_type(response: Reading | Abstention | Failure) -> None:
    adapter: TypeAdapter[Reading | Abstention | Failure] = TypeAdapter(Response)
    back = adapter.validate_json(adapter.dump_json(response))
    assert type(back) is type(response)
    assert back == response


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_answer_is_the_likeliest_option(weights: list[float]) -> None:
    options = tuple(f"o{i}" for i in range(len(weights)))
    reading = ONE.model_copy(update={"options": options, "probabilities": tuple(weights)})
    assert reading.answer == options[weights.index(max(weights))]


def test_an_open_answer_is_its_text() -> None:
    assert Reading(agent="a", fingerprint="f", text="left lung", confidence=1).answer == "left lung"


@pytest.mark.parametrize("confidence", [-0.01, 1.01, float("nan")])
def test_a_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValidationError):
        Reading(agent="a", fingerprint="f", confidence=confidence)


def test_a_failure_cannot_carry_a_probability() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Failure.model_validate(
            {"agent": "a", "kind": "image", "message": "", "probabilities": [1.0]}
        )


def test_responses_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ONE.__setattr__("confidence", 0.1)


def test_no_way_of_ending_can_be_read_as_normal() -> None:
    assert {s.value for s in Status} == {"answered", "needs_review", "not_analysed", "quarantined"}


def test_a_record_comes_back_whole() -> None:
    outcome = Outcome(status=Status.NEEDS_REVIEW, reasons=(Reason(code="novel", text="p = 0.01"),))
    versions = Versions(code="1", encoder="e", index="i", calibration="c", policy="p", fleet="f")
    record = CaseRecord(
        case="1", content="h", outcome=outcome, versions=versions, responses=tuple(RESPONSES)
    )
    plain = json.loads(json.dumps(record.to_json()))
    assert CaseRecord.model_validate(plain) == record
    assert plain["outcome"]["status"] == "needs_review"
    assert plain["outcome"]["answer"] is None
    assert "not a medical device" in plain["notice"]
