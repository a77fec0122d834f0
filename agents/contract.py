"""The one contract that everything that reads a study keeps: embedded, remote or a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from curbside.readings import Abstention, Explanation, Failure, Reading
from curbside.study import Question, QuestionKind, Study

__all__ = ["Agent", "AgentCard", "Explains", "FakeAgent"]

AnyResponse = Reading | Abstention | Failure


class AgentCard(BaseModel):
    """What an agent says of itself; a policy may rely on nothing else.

    ``modalities`` empty means any.  ``cost`` is per study and ``cost_per_token`` per token,
    in the fleet's unit.  ``runs_on`` says where it may run (``cpu``, ``gpu``, ``site``,
    ``cloud``); ``limits`` what is known that it cannot do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    role: str = Field(pattern="^(specialist|generalist|person)$")
    modalities: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    question_kinds: tuple[QuestionKind, ...] = (QuestionKind.DIAGNOSIS,)
    cost: float = Field(default=1.0, ge=0)
    cost_per_token: float = Field(default=0.0, ge=0)
    fingerprint: str
    limits: str = ""
    licence: str = ""
    intended_use: str = ""
    runs_on: tuple[str, ...] = ()
    base: str = ""
    adapter: str = ""


class Agent(Protocol):
    """Reads studies.

    ``read_batch`` returns one response a study, in order, and never raises for a bad
    study: an image that cannot be used is a :class:`Failure`, a question outside what
    the agent knows an :class:`Abstention`.
    """

    @property
    def card(self) -> AgentCard: ...

    def read(self, study: Study) -> AnyResponse: ...

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]: ...


@runtime_checkable
class Explains(Protocol):
    """An agent that can say what in the image speaks for an option of the study's question."""

    def explain(self, study: Study, option: str) -> Explanation: ...


class FakeAgent:
    """An agent for tests and examples: any function from a question to probabilities.

    Returning ``None`` abstains; raising becomes a :class:`Failure`, and so does an answer
    that is no distribution over the question's options.  Images are never opened.
    """

    def __init__(self, card: AgentCard, answer: FakeAnswer) -> None:
        self.card = card
        self._answer = answer

    def read(self, study: Study) -> AnyResponse:
        name, mark = self.card.name, self.card.fingerprint
        try:
            probabilities = self._answer(study.question)
        except Exception as e:
            return Failure(agent=name, fingerprint=mark, kind="internal", message=type(e).__name__)
        if probabilities is None:
            return Abstention(agent=name, fingerprint=mark, reason="told to")
        options = study.question.options
        if not options:
            reason = "the question has no options to choose from"
            return Abstention(agent=name, fingerprint=mark, reason=reason)
        right = len(probabilities) == len(options) and abs(sum(probabilities) - 1) < 1e-5
        if not right or min(probabilities) < 0:
            message = "not one probability an option, in all 1"
            return Failure(agent=name, fingerprint=mark, kind="invalid_answer", message=message)
        return Reading(
            agent=name,
            fingerprint=mark,
            options=options,
            probabilities=tuple(probabilities),
            confidence=min(max(probabilities), 1.0),
            cost=self.card.cost,
        )

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        return [self.read(s) for s in studies]


class FakeAnswer(Protocol):
    """What a :class:`FakeAgent` is made of."""

    def __call__(self, question: Question, /) -> Sequence[float] | None: ...
