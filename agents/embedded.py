"""An agent on the embedded trunk: a card, a reader, and what keeps the contract.

The reader is opened when the agent is first asked, so that a fleet of sixteen costs the
first case one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.trunk import Trunk
from curbside.readings import Abstention, Explanation, Failure, Reading
from curbside.study import Study

if TYPE_CHECKING:
    from curbside.agents.readers import Reader

__all__ = ["EmbeddedAgent"]


class EmbeddedAgent:
    """Reads closed questions about one image; see :class:`curbside.agents.contract.Agent`.

    Args:
        open_reader: called once, when the agent is first asked; its errors are raised then.
    """

    def __init__(self, card: AgentCard, open_reader: Callable[[], Reader], trunk: Trunk) -> None:
        self.card = card
        self._open_reader = open_reader
        self._reader: Reader | None = None
        self._opening = Lock()
        self._trunk = trunk

    @property
    def reader(self) -> Reader:
        """What comes to probabilities.  Raises IndexCorrupt where its files do not fit."""
        with self._opening:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader

    def with_card(self, card: AgentCard) -> EmbeddedAgent:
        """The same agent under another card; the reader is shared."""
        return EmbeddedAgent(card, lambda: self.reader, self._trunk)

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
        from curbside.agents.readers import read

        reader = self.reader  # opening it is no part of a reading's time
        started = time.perf_counter()
        inputs, failures = self._trunk.of(studies)
        answers = read(reader, inputs, [s.question for s in studies])
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
