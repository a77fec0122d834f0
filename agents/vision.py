"""Vision-language agents: one reading loop over any engine that answers prompts with images.

Closed questions become a probability for each option: the options get letters, the model
is held to one letter, its log-probabilities are renormalised over the letters, and that is
averaged over turned orders of the options, since such models favour positions (Zheng et
al., Large Language Models Are Not Robust Multiple Choice Selectors, ICLR 2024).  Open
answers are JSON held to a schema.  No text of a model is ever more than an answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.fleet_spec import Decoding, Limits, VisionSpec
from curbside.agents.pictures import encoded
from curbside.agents.prompting import LETTERS, PromptTemplate, clean, open_schema
from curbside.agents.report_draft import ReportTemplate, draft
from curbside.errors import ImageError
from curbside.readings import Abstention, Explanation, Failure, Reading
from curbside.study import Question, QuestionKind, Study, content_hash

__all__ = [
    "Ask",
    "Engine",
    "FakeEngine",
    "OrderEffect",
    "Said",
    "Unsaid",
    "VisionAgent",
    "card_of",
    "turns",
]

_CLOSED = (QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED)
_BLOCK = 64
FailureKind = Literal["image", "timeout", "unavailable", "invalid_answer", "internal"]


@dataclass(frozen=True)
class Ask:
    """One prompt.  With ``letters`` the answer is one of them, else JSON held to ``schema``."""

    system: str
    text: str
    images: tuple[bytes, ...]
    letters: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 32
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Said:
    """What came back.

    Args:
        probabilities: over the letters, sum 1; empty for open answers.
        text: the JSON of an open answer.
        whole: False where it ends because the tokens did.
        confidence: of an open answer, the geometric mean of its tokens' probabilities; NaN
            where the server gives none.
        server: name and version of what answered.
    """

    probabilities: tuple[float, ...] = ()
    text: str = ""
    whole: bool = True
    confidence: float = float("nan")
    tokens: int = 0
    seconds: float = 0.0
    server: str = ""


@dataclass(frozen=True)
class Unsaid:
    """Why nothing usable came back; ``message`` holds no text of a prompt or of an answer."""

    kind: FailureKind
    message: str


class Engine(Protocol):
    """Answers prompts; one result each, in order; never raises for a bad one.

    Takes each ask as it comes: it may cost the caller time to make.
    """

    def say(self, asks: Iterable[Ask]) -> list[Said | Unsaid]: ...


class FakeEngine:
    """An engine for tests: any function from an ask to what is said of it."""

    def __init__(self, answer: Callable[[Ask], Said | Unsaid]) -> None:
        self._answer = answer
        self.asked: list[Ask] = []

    def say(self, asks: Iterable[Ask]) -> list[Said | Unsaid]:
        """See :class:`Engine`."""
        asked = list(asks)
        self.asked += asked
        return [self._answer(a) for a in asked]


class _OpenAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answer: str
    evidence: list[str]


@dataclass(frozen=True)
class OrderEffect:
    """Whether the order of the options moves an answer.

    Args:
        alone: over all turns, each shown alone.
        averaged: over all turns that the average of ``decoding.orders`` could begin with.
    """

    alone: bool
    averaged: bool


@dataclass(frozen=True)
class _Task:
    """The asks of one study and how their results become its response."""

    asks: list[Ask]
    finish: Callable[[list[Said | Unsaid]], AnyResponse]


def turns(options: Sequence[str], orders: int) -> list[tuple[str, ...]]:
    """``orders`` evenly spaced turns of the options in order of name.

    All turns put each option at each position equally often.  Starting from the order of
    names makes the answer independent of the order in which the question lists them.
    """
    names = sorted(options)
    count = min(orders, len(names))
    shifts = [round(i * len(names) / count) for i in range(count)]
    return [tuple(names[s:] + names[:s]) for s in shifts]


def card_of(name: str, kind: str, spec: VisionSpec, fingerprint: str) -> AgentCard:
    """The card of a vision agent of a fleet file."""
    said = spec.card.model_dump(exclude={"questions"})
    return AgentCard(
        name=name,
        kind=kind,
        question_kinds=spec.card.questions,
        fingerprint=fingerprint,
        base=spec.base,
        adapter=spec.adapter,
        **said,
    )


class VisionAgent:
    """See :class:`curbside.agents.contract.Agent`.

    Args:
        report: questions and sentences of a report draft.
    """

    def __init__(
        self,
        card: AgentCard,
        engine: Engine,
        prompt: PromptTemplate,
        report: ReportTemplate,
        decoding: Decoding,
        limits: Limits,
    ) -> None:
        self.engine, self.prompt, self.report = engine, prompt, report
        self.decoding, self.limits = decoding, limits
        mark = content_hash(
            "vision",
            card.fingerprint,
            prompt.digest,
            report.digest,
            decoding.model_dump_json(),
            limits.model_dump_json(),
        )
        self.card = card.model_copy(update={"fingerprint": mark})

    def read(self, study: Study) -> AnyResponse:
        """One response; never raises for a bad study or a bad server."""
        return self.read_batch([study])[0]

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        """One response a study, in order; the asks of up to 64 studies go out together."""
        out: list[AnyResponse] = []
        for start in range(0, len(studies), _BLOCK):
            out += self._block(studies[start : start + _BLOCK])
        return out

    def _block(self, studies: Sequence[Study]) -> list[AnyResponse]:
        planned: list[_Task | AnyResponse] = []

        def asks() -> Iterator[Ask]:
            # images of one study are encoded while the server reads those of another
            for study in studies:
                planned.append(plan := self._plan(study))
                if isinstance(plan, _Task):
                    yield from plan.asks

        said = iter(self.engine.say(asks()))
        return [
            p.finish([next(said) for _ in p.asks]) if isinstance(p, _Task) else p for p in planned
        ]

    def order_effect(self, study: Study) -> OrderEffect | None:
        """Whether the order in which options are shown moves the answer to a closed question.

        None where that cannot be told: another question, or no answer under one of the orders.
        """
        options = study.question.options
        if study.question.kind not in _CLOSED or not isinstance(self._plan(study), _Task):
            return None
        images = encoded(study, self.limits)
        every = turns(options, len(options))
        asks = self._closed(study, study.question.text, every, images)
        said = self.engine.say(asks)
        rows = []
        for order, one in zip(every, said, strict=True):
            if isinstance(one, Unsaid) or not _is_distribution(one.probabilities, len(order)):
                return None
            rows.append([one.probabilities[order.index(o)] for o in sorted(options)])
        alone = np.array(rows)
        shown = [every.index(t) for t in turns(options, self.decoding.orders)]
        # the same evenly spaced turns, begun at each of the options
        averaged = np.array(
            [alone[[(at + s) % len(every) for at in shown]].mean(0) for s in range(len(every))]
        )
        return OrderEffect(*(bool(len(set(p.argmax(1).tolist())) > 1) for p in (alone, averaged)))

    # -- one study -------------------------------------------------------------------------

    def _plan(self, study: Study) -> _Task | AnyResponse:
        question, card = study.question, self.card
        if question.kind not in card.question_kinds:
            return self._abstain(f"reads {', '.join(card.question_kinds)}, not {question.kind}")
        if card.tasks and question.task is not None and question.task not in card.tasks:
            return self._abstain(f"was made for {', '.join(card.tasks)}")
        if question.kind in _CLOSED and not question.options:
            return self._abstain("the question has no options to choose from")
        if len(question.options) > len(LETTERS):
            return self._abstain(f"chooses among at most {len(LETTERS)} options")
        if len(set(question.options)) < len(question.options):
            return self._abstain("two options are the same")
        try:
            images = encoded(study, self.limits)
        except ImageError as e:
            return self._fail(Unsaid("image", f"{e.reason}: {e.message}"))
        if question.kind in _CLOSED:
            orders = turns(question.options, self.decoding.orders)
            asks = self._closed(study, question.text, orders, images)
            return _Task(asks, lambda said: self._choose(question, said))
        if question.kind == QuestionKind.REPORT:
            return self._draft(study, images)
        return _Task(self._open(study, images), self._answer)

    def _closed(
        self,
        study: Study,
        text: str,
        orders: Sequence[tuple[str, ...]],
        images: tuple[bytes, ...],
    ) -> list[Ask]:
        return [
            Ask(
                system=self.prompt.system,
                text=self.prompt.ask_closed(
                    text,
                    order,
                    context=study.context,
                    tags=study.tags,
                    most=self.limits.text,
                ),
                images=images,
                letters=LETTERS[: len(order)],
                seed=self.decoding.seed,
            )
            for order in orders
        ]

    def _choose(self, question: Question, said: Sequence[Said | Unsaid]) -> AnyResponse:
        good = [s for s in said if isinstance(s, Said)]
        if len(good) < len(said):
            return self._fail(next(s for s in said if isinstance(s, Unsaid)))
        orders = turns(question.options, self.decoding.orders)
        total = np.zeros(len(question.options))
        for order, s in zip(orders, good, strict=True):
            if not _is_distribution(s.probabilities, len(order)):
                return self._fail(Unsaid("invalid_answer", "not one probability an option"))
            total += [s.probabilities[order.index(o)] for o in question.options]
        probabilities = total / total.sum()
        return self._reading(
            good,
            options=question.options,
            probabilities=tuple(probabilities.tolist()),
            confidence=min(float(probabilities.max()), 1.0),
            confidence_kind="logprob",
            explanation=Explanation(
                kind="none", note="no explanation available: the model only chose an option"
            ),
        )

    def _open(self, study: Study, images: tuple[bytes, ...]) -> list[Ask]:
        decoding = self.decoding
        text = self.prompt.ask_open(
            study.question.text, context=study.context, tags=study.tags, most=self.limits.text
        )
        return [
            Ask(
                system=self.prompt.system,
                text=text,
                images=images,
                schema=open_schema(self.limits.text),
                max_tokens=decoding.max_tokens,
                temperature=decoding.temperature if decoding.samples > 1 else 0.0,
                seed=decoding.seed + i,
            )
            for i in range(decoding.samples)
        ]

    def _answer(self, said: Sequence[Said | Unsaid]) -> AnyResponse:
        answers, good = [], []
        for s in said:
            if isinstance(s, Unsaid):
                return self._fail(s)
            try:
                # vLLM's grammar of a string of bounded length lets control characters through,
                # which JSON forbids; clean() takes them out
                found = _OpenAnswer.model_validate(json.loads(s.text, strict=False))
            except ValueError:  # also pydantic's
                why = "the answer does not hold to its schema"
                if not s.whole:
                    why = "max_tokens were used up before the answer was whole by its schema"
                return self._fail(Unsaid("invalid_answer", why))
            text = clean(found.answer, self.limits.text)
            if not text:
                return self._fail(Unsaid("invalid_answer", "the answer is empty"))
            answers.append((text, found.evidence))
            good.append(s)
        counts = Counter(_same(text) for text, _ in answers)
        most, count = counts.most_common(1)[0]
        text, evidence = next((t, e) for t, e in answers if _same(t) == most)
        several = len(answers) > 1
        confidence = count / len(answers) if several else good[0].confidence
        if not np.isfinite(confidence):
            why = "the server gives no logprobs; set decoding.samples above 1 for agreement"
            return self._fail(Unsaid("invalid_answer", why))
        cited = tuple(c for c in (clean(e, 200) for e in evidence[:4]) if c)
        return self._reading(
            good,
            text=text,
            confidence=float(np.clip(confidence, 0, 1)),
            confidence_kind="agreement" if several else "logprob",
            explanation=Explanation(kind="cited", citations=cited)
            if cited
            else Explanation(kind="none", note="no explanation available: it cites nothing"),
        )

    def _draft(self, study: Study, images: tuple[bytes, ...]) -> _Task:
        asks, lengths = [], []
        for item in self.report.items:
            orders = turns(item.options, self.decoding.orders)
            some = self._closed(study, item.question, orders, images)
            asks += some
            lengths.append(len(some))

        def finish(said: list[Said | Unsaid]) -> AnyResponse:
            parts: list[Reading] = []
            at = 0
            for item, n in zip(self.report.items, lengths, strict=True):
                part = self._choose(Question(options=item.options), said[at : at + n])
                if not isinstance(part, Reading):
                    return part
                parts.append(part)
                at += n
            sentences = draft(self.report, parts)
            return self._reading(
                [s for s in said if isinstance(s, Said)],
                text="\n".join(f"{s.section}: {s.text}" for s in sentences),
                confidence=min(p.confidence for p in parts),
                confidence_kind="logprob",
                parts=tuple(parts),
                sentences=sentences,
                explanation=Explanation(kind="cited", citations=tuple(s.text for s in sentences)),
            )

        return _Task(asks, finish)

    # -- results ---------------------------------------------------------------------------

    def _reading(self, said: Sequence[Said], **parts: Any) -> Reading:
        tokens = sum(s.tokens for s in said)
        server = said[0].server if said else ""
        return Reading(
            agent=self.card.name,
            fingerprint=content_hash("reading", self.card.fingerprint, server),
            # asks go out together: the slowest is how long a study takes
            latency_ms=1000 * max((s.seconds for s in said), default=0.0),
            tokens=tokens,
            cost=self.card.cost + tokens * self.card.cost_per_token,
            server=server,
            **parts,
        )

    def _fail(self, why: Unsaid) -> Failure:
        return Failure(
            agent=self.card.name,
            fingerprint=self.card.fingerprint,
            kind=why.kind,
            message=why.message,
        )

    def _abstain(self, reason: str) -> Abstention:
        return Abstention(agent=self.card.name, fingerprint=self.card.fingerprint, reason=reason)


def _is_distribution(values: Sequence[float], length: int) -> bool:
    found: NDArray[np.float64] = np.asarray(values, np.float64)
    return (
        found.shape == (length,)
        and bool(np.isfinite(found).all())
        and bool((found >= 0).all())
        and abs(float(found.sum()) - 1) < 1e-3
    )


def _same(answer: str) -> str:
    """What two open answers are compared by: letters and digits alone, in lower case."""
    return re.sub(r"\W+", " ", answer.casefold()).strip()
