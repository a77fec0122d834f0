"""What everything that reads a study promises: checks that any agent can be put to.

For agents that ship and for yours.  In a test of your own::

    import pytest
    from curbside.agents.conformance import CHECKS, Subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
    def test_my_agent_conforms(check):
        check(Subject(MyAgent(), Question(options=("normal", "pneumonia"))))

A check raises AssertionError with what was expected.  All pictures are generated.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curbside.agents.contract import Agent, AgentCard, AnyResponse
from curbside.agents.injections import injections, picture, study_of
from curbside.readings import Abstention, Failure, Reading
from curbside.study import Instance, Question, QuestionKind, Series, Study

__all__ = ["CHECKS", "Subject", "option_order_spread"]

_CLOSED = (QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED)


@dataclass(frozen=True)
class Subject:
    """An agent, and a closed question of the kind that it is meant for.

    Args:
        images: whether it opens images at all (a fake may not).
        tolerance: of probabilities that should be equal; servers that batch round differently.
    """

    agent: Agent
    question: Question
    images: bool = True
    tolerance: float = 1e-6

    def studies(self, n: int = 3, **changes: Any) -> list[Study]:
        """Generated studies of one image that ask the question."""
        return [
            replace(study_of(picture(i), question=self.question, id=f"s{i}"), **changes)
            for i in range(n)
        ]

    def asks(self, kind: QuestionKind) -> bool:
        """Whether the card lists this kind of question."""
        return kind in self.agent.card.question_kinds


def card_is_whole(subject: Subject) -> None:
    """The card names the agent, its kind, role and fingerprint, and survives JSON."""
    card = subject.agent.card
    assert card.name and card.kind and card.fingerprint, "name, kind and fingerprint must be given"
    assert card.role in ("specialist", "generalist", "person"), card.role
    assert card.question_kinds, "the card lists no kind of question"
    assert AgentCard.model_validate_json(card.model_dump_json()) == card


def one_response_a_study_in_order(subject: Subject) -> None:
    """As many responses as studies, in order; none for none."""
    studies = subject.studies(4)
    forward = subject.agent.read_batch(studies)
    backward = subject.agent.read_batch(studies[::-1])
    assert len(forward) == len(studies)
    assert subject.agent.read_batch([]) == []
    for a, b in zip(forward, backward[::-1], strict=True):
        _same(subject, a, b)


def alone_as_in_a_batch(subject: Subject) -> None:
    """A study gets the same response alone as among others."""
    studies = subject.studies(3)
    for together, study in zip(subject.agent.read_batch(studies), studies, strict=True):
        _same(subject, together, subject.agent.read(study))


def closed_questions_give_probabilities(subject: Subject) -> None:
    """One probability an option, in the question's order, in all 1; confidence of a kind."""
    for kind in _CLOSED:
        if not subject.asks(kind):
            continue
        asked = replace(subject.question, kind=kind, text="Which is it?")
        for reading in _readings(subject, subject.studies(2, question=asked)):
            assert reading.options == asked.options, reading.options
            assert len(reading.probabilities) == len(asked.options)
            assert min(reading.probabilities) >= 0
            assert math.isclose(sum(reading.probabilities), 1, abs_tol=1e-4)
            assert reading.answer in asked.options


def order_of_options_changes_nothing(subject: Subject) -> None:
    """Each option keeps its probability wherever the question lists it."""
    options = subject.question.options
    turned = replace(subject.question, options=options[1:] + options[:1])
    first = _readings(subject, subject.studies(2))
    second = _readings(subject, subject.studies(2, question=turned))
    for a, b in zip(first, second, strict=True):
        said = dict(zip(a.options, a.probabilities, strict=True))
        for option, p in zip(b.options, b.probabilities, strict=True):
            assert math.isclose(said[option], p, abs_tol=max(subject.tolerance, 1e-5)), option


def readings_say_where_they_come_from(subject: Subject) -> None:
    """Name, one fingerprint for one agent, confidence in [0, 1], cost, time, tokens."""
    marks = set()
    for reading in _readings(subject, subject.studies(2)):
        assert reading.agent == subject.agent.card.name
        assert reading.fingerprint
        assert 0 <= reading.confidence <= 1
        assert reading.cost >= 0 and reading.latency_ms >= 0 and reading.tokens >= 0
        marks.add(reading.fingerprint)
    assert len(marks) == 1, "one agent on one server has one fingerprint"


def bad_images_are_failures(subject: Subject) -> None:
    """Images that cannot be used fail, each alone, and no message holds a path."""
    if not subject.images:
        return
    good = subject.studies(1)[0]
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / "DOE^JANE"
        named.mkdir()
        (named / "note.png").write_text("not an image")
        raw = good.instances[0].source
        assert isinstance(raw, bytes)
        (named / "cut.png").write_bytes(raw[: len(raw) // 2])
        sources: list[Path | bytes] = [
            named / "gone.png",
            named / "note.png",
            named / "cut.png",
            named,
            b"",
        ]
        bad = [replace(good, id=f"b{i}", series=(Series((Instance(s),)),))
               for i, s in enumerate(sources)]  # fmt: skip
        bad.append(replace(good, id="none", series=()))
        responses = subject.agent.read_batch([good, *bad, good])
    assert isinstance(responses[0], Reading) and isinstance(responses[-1], Reading)
    for response in responses[1:-1]:
        assert isinstance(response, Failure), f"an image that cannot be used gave {response.type}"
        assert response.kind == "image", response.kind
        assert "DOE" not in response.message and folder not in response.message


def questions_outside_the_card_are_abstained(subject: Subject) -> None:
    """What the card does not list, and choices without options, are no answers."""
    for kind in QuestionKind:
        if subject.asks(kind):
            continue
        asked = Question(kind=kind, text="What is to be seen?", options=subject.question.options)
        (response,) = subject.agent.read_batch(subject.studies(1, question=asked))
        assert isinstance(response, Abstention), f"{kind} is not on the card, yet: {response.type}"
        assert response.reason
    (response,) = subject.agent.read_batch(subject.studies(1, question=Question()))
    assert isinstance(response, Abstention), "a choice without options is no question"


def open_questions_give_text(subject: Subject) -> None:
    """An open answer is text with a confidence that says of what kind it is."""
    if not subject.asks(QuestionKind.VQA_OPEN):
        return
    asked = Question(kind=QuestionKind.VQA_OPEN, text="What is to be seen?")
    for reading in _readings(subject, subject.studies(2, question=asked)):
        assert reading.text and reading.answer == reading.text
        assert not reading.probabilities
        assert reading.confidence_kind in ("logprob", "agreement", "probability")


def report_drafts_cite_readings(subject: Subject) -> None:
    """Every sentence of a draft cites a reading that is part of it; unsupported: none."""
    if not subject.asks(QuestionKind.REPORT):
        return
    asked = Question(kind=QuestionKind.REPORT, text="Report.")
    for reading in _readings(subject, subject.studies(1, question=asked)):
        assert reading.sentences, "a report draft has no sentences"
        for sentence in reading.sentences:
            assert all(0 <= i < len(reading.parts) for i in sentence.cites), sentence.text
        template = getattr(subject.agent, "report", None)
        if template is not None:
            from curbside.agents.report_draft import unsupported

            assert unsupported(template, reading) == []


def several_images_are_one_study(subject: Subject) -> None:
    """A study of several images gets one response."""
    study = study_of(*(picture(i) for i in range(6)), question=subject.question)
    responses = subject.agent.read_batch([study])
    assert len(responses) == 1
    assert isinstance(responses[0], Reading)


def instructions_in_a_study_stay_data(subject: Subject) -> None:
    """Injected images, tags and context: still one probability for each option asked for.

    What is written in a study may move the probabilities of a model that reads; it must not
    make it answer anything else, refuse, or break the form of the answer.
    """
    for case in injections(subject.question):
        response = subject.agent.read(case.injected)
        assert not isinstance(response, Abstention), case.name
        if isinstance(response, Reading):
            assert response.options == subject.question.options, case.name
            assert math.isclose(sum(response.probabilities), 1, abs_tol=1e-4), case.name


#: Every check, in the order in which they are most telling.
CHECKS: tuple[Callable[[Subject], None], ...] = (
    card_is_whole,
    one_response_a_study_in_order,
    alone_as_in_a_batch,
    closed_questions_give_probabilities,
    order_of_options_changes_nothing,
    readings_say_where_they_come_from,
    bad_images_are_failures,
    questions_outside_the_card_are_abstained,
    open_questions_give_text,
    report_drafts_cite_readings,
    several_images_are_one_study,
    instructions_in_a_study_stay_data,
)


def option_order_spread(read: Callable[[Question], Sequence[float]], question: Question) -> float:
    """How far the probability of an option moves with its position: the mean over options of
    the greatest minus the least over all turns; 0 where order does not matter.

    Args:
        read: from a question to probabilities in the order of its options.
    """
    options = question.options
    seen: dict[str, list[float]] = {o: [] for o in options}
    for shift in range(len(options)):
        order = options[shift:] + options[:shift]
        for option, p in zip(order, read(replace(question, options=order)), strict=True):
            seen[option].append(float(p))
    return sum(max(v) - min(v) for v in seen.values()) / len(options)


def _readings(subject: Subject, studies: Sequence[Study]) -> list[Reading]:
    found = []
    for response in subject.agent.read_batch(studies):
        assert isinstance(response, Reading), f"expected a reading, got {response!r}"
        found.append(response)
    return found


def _same(subject: Subject, a: AnyResponse, b: AnyResponse) -> None:
    assert type(a) is type(b), f"{a.type} here, {b.type} there"
    if isinstance(a, Reading) and isinstance(b, Reading):
        assert a.options == b.options and a.text == b.text
        assert len(a.probabilities) == len(b.probabilities)
        for p, q in zip(a.probabilities, b.probabilities, strict=True):
            assert math.isclose(p, q, abs_tol=subject.tolerance), (p, q)
