"""The small VLM as an agent of the fleet: see :class:`curbside.agents.contract.Agent`.

A closed question is answered by scoring every option alone, as a whole answer after the same
prompt, and normalising over the options; the prompt lists them in order of name, so the order
in which a question gives them cannot matter.  An open answer is written greedily; one that
comes to no end is an abstention.  Tags and context are not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.cost import BuildCost
from curbside.agents.fleet_spec import SmallVlmSpec
from curbside.agents.small_vlm.wording import Wording, plain
from curbside.errors import AgentUnavailable, ImageError
from curbside.readings import Abstention, Explanation, Failure, Reading
from curbside.study import Question, QuestionKind, Study, content_hash

if TYPE_CHECKING:
    from curbside.agents.small_vlm.model import SmallVlm
    from curbside.agents.small_vlm.visual import Eyes
    from curbside.indexes.features import FeatureSource

__all__ = ["Opened", "Sight", "SmallVlmAgent", "open_small_vlm_agent"]

_CLOSED = (QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED)
_BATCH = 8
#: Longest open answer, in tokens.
MOST = 24
#: Most options that are compared at once.
_MOST_OPTIONS = 64

#: What is seen of studies: float16 (n, visual, channels), and which failed.
Sight = Callable[[Sequence[Study]], tuple[Tensor, dict[int, ImageError]]]
#: Model, wording, temperature.
Opened = tuple["SmallVlm", Wording, float]


class SmallVlmAgent:
    """See the module.

    Args:
        open_model: called with the first study that is read.
        build_cost: what making it took.
    """

    def __init__(
        self,
        card: AgentCard,
        open_model: Callable[[], Opened],
        see: Sight,
        build_cost: BuildCost | None = None,
    ) -> None:
        self.card, self.build_cost = card, build_cost
        self._open_model, self._see = open_model, see
        self._opened: Opened | None = None
        self._lock = Lock()

    def read(self, study: Study) -> AnyResponse:
        """One response; never raises for a bad study."""
        return self.read_batch([study])[0]

    def read_batch(self, studies: Sequence[Study]) -> list[AnyResponse]:
        """One response a study, in order; studies that are asked the same are read together."""
        out: dict[int, AnyResponse] = {}
        for i, study in enumerate(studies):
            why = self._declines(study.question)
            if why:
                out[i] = self._abstain(why)
        todo = [i for i in range(len(studies)) if i not in out]
        if not todo:
            return [out[i] for i in range(len(studies))]
        with self._lock:
            try:
                self._opened = self._opened or self._open_model()
                seen, failures = self._see([studies[i] for i in todo])
            except AgentUnavailable as e:
                out |= {i: self._fail("unavailable", e.message) for i in todo}
                return [out[i] for i in range(len(studies))]
            out |= {
                todo[j]: self._fail("image", f"{e.reason}: {e.message}")
                for j, e in failures.items()
            }
            alike: dict[Question, list[int]] = {}
            for j, i in enumerate(todo):
                if j not in failures:
                    alike.setdefault(_canonical(studies[i].question), []).append(j)
            for question, rows in alike.items():
                for at in range(0, len(rows), _BATCH):
                    some = rows[at : at + _BATCH]
                    asked = [studies[todo[j]].question for j in some]
                    said = self._answer(question, seen[some], asked)
                    out |= {todo[j]: r for j, r in zip(some, said, strict=True)}
        return [out[i] for i in range(len(studies))]

    def _declines(self, question: Question) -> str:
        card = self.card
        if question.kind not in card.question_kinds:
            return f"reads {', '.join(card.question_kinds)}, not {question.kind}"
        if card.tasks and question.task is not None and question.task not in card.tasks:
            return f"was made for {', '.join(card.tasks)}"
        if question.kind not in _CLOSED:
            return "" if question.text.strip() else "the question has no words"
        if not question.options:
            return "the question has no options to choose from"
        if len(question.options) > _MOST_OPTIONS:
            return f"chooses among at most {_MOST_OPTIONS} options"
        names = {plain(o) for o in question.options}
        if len(names) < len(question.options) or "" in names:
            return "two options are the same in words, or one has none"
        return ""

    def _answer(
        self, question: Question, seen: Tensor, asked: Sequence[Question]
    ) -> list[AnyResponse]:
        try:
            if question.kind in _CLOSED:
                return self._choose(question, seen, asked)
            return self._write(question, seen)
        except (RuntimeError, ValueError, IndexError) as e:
            return [self._fail("internal", type(e).__name__) for _ in asked]

    def _choose(
        self, question: Question, seen: Tensor, asked: Sequence[Question]
    ) -> list[AnyResponse]:
        from curbside.agents.small_vlm.speaking import compare

        assert self._opened is not None
        model, wording, temperature = self._opened
        started = time.perf_counter()
        prompt = wording.closed(question)
        answers = [wording.answer(plain(o)) for o in question.options]
        scores = torch.softmax(compare(model, seen, prompt, answers) / temperature, 1)
        each = 1000 * (time.perf_counter() - started) / len(asked)
        tokens = model.plan.visual + 1 + len(prompt) + sum(map(len, answers))
        out: list[AnyResponse] = []
        for row, own in zip(scores, asked, strict=True):
            by = dict(zip(question.options, row.tolist(), strict=True))
            probabilities = tuple(by[o] for o in own.options)
            out.append(
                self._reading(
                    each,
                    tokens,
                    options=own.options,
                    probabilities=probabilities,
                    confidence=min(max(probabilities), 1.0),
                )
            )
        return out

    def _write(self, question: Question, seen: Tensor) -> list[AnyResponse]:
        from curbside.agents.small_vlm.speaking import write

        assert self._opened is not None
        model, wording, _ = self._opened
        started = time.perf_counter()
        prompt = wording.prompt(question.text)
        said = write(model, seen, prompt, end=wording.end, most=MOST)
        each = 1000 * (time.perf_counter() - started) / len(said)
        out: list[AnyResponse] = []
        for s in said:
            text = wording.words(s.tokens)
            if not s.finished or not text:
                out.append(self._abstain("its answer came to no end" if text else "said nothing"))
                continue
            tokens = model.plan.visual + 1 + len(prompt) + len(s.tokens)
            out.append(self._reading(each, tokens, text=text, confidence=min(s.confidence, 1.0)))
        return out

    def _reading(
        self,
        milliseconds: float,
        tokens: int,
        *,
        confidence: float,
        options: tuple[str, ...] = (),
        probabilities: tuple[float, ...] = (),
        text: str = "",
    ) -> Reading:
        return Reading(
            agent=self.card.name,
            fingerprint=self.card.fingerprint,
            options=options,
            probabilities=probabilities,
            text=text,
            confidence=confidence,
            confidence_kind="logprob",
            latency_ms=milliseconds,
            tokens=tokens,
            cost=self.card.cost + tokens * self.card.cost_per_token,
            explanation=Explanation(
                kind="none", note="no explanation available: the model only said an answer"
            ),
        )

    def _fail(self, kind: str, message: str) -> Failure:
        return Failure.model_validate(
            {
                "agent": self.card.name,
                "fingerprint": self.card.fingerprint,
                "kind": kind,
                "message": message,
            }
        )

    def _abstain(self, reason: str) -> Abstention:
        return Abstention(agent=self.card.name, fingerprint=self.card.fingerprint, reason=reason)


def _canonical(question: Question) -> Question:
    """What an answer depends on: the order of options and the task's name do not count."""
    kind = QuestionKind.DIAGNOSIS if question.kind in _CLOSED else question.kind
    return Question(tuple(sorted(question.options)), question.text, kind)


def open_small_vlm_agent(
    name: str, spec: SmallVlmSpec, folder: Path | None = None
) -> SmallVlmAgent:
    """An agent of kind ``small-vlm`` of a fleet file; the model loads with its first study.

    Raises:
        AgentUnavailable: there is no whole small VLM in its folder, or no card beside it.
    """
    from curbside.agents.small_vlm.stored import opened, read_facts, read_made

    where = (folder or Path()) / spec.folder
    facts = read_facts(where)
    mark = content_hash("small-vlm", facts.model_dump_json(), str(MOST))
    said = spec.card.model_dump(exclude={"questions"})
    card = AgentCard(
        name=name,
        kind="small-vlm",
        question_kinds=spec.card.questions,
        fingerprint=mark,
        base=facts.language,
        adapter=spec.folder,
        **said,
    )

    def open_model() -> Opened:
        model, wording, found = opened(where)
        return model, wording, found.temperature

    return SmallVlmAgent(card, open_model, _EncoderSight(facts.encoder), read_made(where).cost)


class _EncoderSight:
    """The default encoder and what follows it, opened with the first study.

    Raises AgentUnavailable on reading where the encoder is not the one learned with.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._parts: tuple[FeatureSource, Eyes] | None = None

    def __call__(self, studies: Sequence[Study]) -> tuple[Tensor, dict[int, ImageError]]:
        if self._parts is None:
            from curbside.agents.small_vlm.visual import Eyes
            from curbside.indexes.encoder import Lite0Encoder
            from curbside.indexes.features import FeatureSource

            source = FeatureSource(Lite0Encoder(threads=1))
            if source.fingerprint != self._fingerprint:
                raise AgentUnavailable(
                    "the small VLM learned with another version of the encoder",
                    hint="make demo-vlm makes it again",
                )
            self._parts = source, Eyes()
        source, eyes = self._parts
        features = source.of(studies)
        return eyes.see(features), dict(features.failures)
