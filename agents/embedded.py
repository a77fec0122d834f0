"""An agent on the embedded trunk: a card, a reader, and what keeps the contract."""

from __future__ import annotations

import time
from collections.abc import Sequence

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.readers import Reader, read
from curbside.agents.trunk import Trunk
from curbside.readings import Abstention, Explanation, Failure, Reading
from curbside.study import Study

__all__ = ["EmbeddedAgent"]


class EmbeddedAgent:
    """Reads closed questions about one image; see :class:`curbside.agents.contract.Agent`."""

    def __init__(self, card: AgentCard, reader: Reader, trunk: Trunk) -> None:
        self.card = card
        self.reader = reader
        self._trunk = trunk

    def with_card(self, card: AgentCard) -> EmbeddedAgent:
        """The same agent under another card."""
        return EmbeddedAgent(card, self.reader, self._trunk)

    def read(self, study: Study) -> AnyResponse:
        """One response; never raises for a bad study."""
        return self.read_batch([study])[0]

    def explain(self, study: Study, option: str) -> Explanation:
        """What in the image speaks for one of the question's options, place by place."""
        # importing it here keeps reading free of what only explaining needs
        from curbside.agents.activation import activation

        inputs, failures = self._trunk.of([study])
        if failures or option not in study.question.options:
            return Explanation(kind="none", option=option, note="no explanation available")
        return activation(self.reader, inputs, study.question, option)

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        """One response a study, in order; a study gets the same alone as in a batch."""
        started = time.perf_counter()
        inputs, failures = self._trunk.of(studies)
        answers = read(self.reader, inputs, [s.question for s in studies])
        each = 1000 * (time.perf_counter() - started) / max(len(studies), 1)
        name, mark = self.card.name, self.card.fingerprint
        out: list[AnyResponse] = []
        for i, (study, answer) in enumerate(zip(studies, answers, strict=True)):
            question = study.question
            if i in failures:
                why = f"{failures[i].reason}: {failures[i].message}"
                out.append(Failure(agent=name, fingerprint=mark, kind="image", message=why))
            elif question.kind not in self.card.question_kinds:
                kinds = ", ".join(self.card.question_kinds)
                out.append(_abstain(name, mark, f"reads {kinds}, not {question.kind}"))
            elif not question.options:
                out.append(_abstain(name, mark, "the question has no options to choose from"))
            elif answer is None:
                out.append(_abstain(name, mark, "knows no task whose labels cover these options"))
            else:
                probabilities = tuple(float(p) for p in answer)
                out.append(
                    Reading(
                        agent=name,
                        fingerprint=mark,
                        options=question.options,
                        probabilities=probabilities,
                        confidence=min(max(probabilities), 1.0),
                        latency_ms=each,
                        cost=self.card.cost,
                    )
                )
        return out


def _abstain(name: str, mark: str, reason: str) -> Abstention:
    return Abstention(agent=name, fingerprint=mark, reason=reason)
