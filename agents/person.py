"""People as an agent: a card for policies and costs; they answer in the worklist, not at once."""

from __future__ import annotations

from collections.abc import Sequence

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.fleet_spec import PersonSpec
from curbside.readings import Abstention
from curbside.study import QuestionKind, Study, content_hash

__all__ = ["Person", "open_person"]


class Person:
    """Never answers by itself: a case that a person must read waits in ``Router.pending``."""

    def __init__(self, card: AgentCard) -> None:
        self.card = card

    def read(self, study: Study) -> AnyResponse:
        """Always an abstention, whatever the study."""
        return Abstention(
            agent=self.card.name,
            fingerprint=self.card.fingerprint,
            reason="a person answers in the worklist, not at once",
        )

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        """One abstention a study."""
        return [self.read(s) for s in studies]


def open_person(name: str, spec: PersonSpec) -> Person:
    """A person of a fleet file."""
    said = spec.card.model_dump(exclude={"questions"})
    mark = content_hash("person", name, spec.card.model_dump_json())
    card = AgentCard(
        name=name, kind="person", fingerprint=mark, question_kinds=tuple(QuestionKind), **said
    )
    return Person(card)
