"""The graph's nodes at work: looks up pixels, index and agents by a case's id.

Studies stay here, in memory; the state that is checkpointed has ids and numbers.  What a
batch has computed for many cases at once is kept here too, and nodes pass through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from curbside.agents.contract import Agent, AnyResponse
from curbside.assessments import Assessments
from curbside.errors import ImageError, InternalError, UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.features import FeatureSource
from curbside.readings import CaseRecord, Outcome, Status, Versions
from curbside.responses import ResponseStatus
from curbside.router.explain import (
    Serving,
    Verdict,
    columns_of,
    explain,
    reviewed,
    settle,
    without_image,
)
from curbside.router.policy import Responses, run
from curbside.router.state import (
    State,
    pack,
    pack_question,
    packed_response,
    unpack,
    unpack_question,
)
from curbside.study import Question, Study

__all__ = ["RouterDesk"]


@dataclass
class _Open:
    """A study on the desk, and what is already known of it."""

    study: Study
    content: str = ""
    problem: ImageError | None = None
    pooled: Any = None
    incomplete: tuple[str, ...] = ()
    assessment: Assessments | None = None
    said: dict[str, AnyResponse] = field(default_factory=dict)


class RouterDesk:
    """Encodes, assesses, asks and records; see :class:`curbside.router.graph.Desk`.

    Args:
        agents: those that serve, by name.
        tasks: task → options.
        tasks_of: modality → its tasks, for studies without a question.
    """

    def __init__(
        self,
        source: FeatureSource,
        assessor: Assessor,
        agents: Mapping[str, Agent],
        serving: Serving,
        tasks: Mapping[str, Sequence[str]],
        tasks_of: Mapping[str, Sequence[str]],
        versions: Versions,
    ) -> None:
        self._source, self._assessor, self._agents = source, assessor, agents
        self.serving, self._tasks, self._tasks_of = serving, tasks, tasks_of
        self._versions = versions
        self._policy = serving.policy()
        self._open: dict[str, _Open] = {}

    # -- studies on the desk ---------------------------------------------------------------

    def take_in(self, studies: Iterable[Study]) -> None:
        """Put studies on the desk.  Raises UserError where two share an id."""
        for study in studies:
            if study.id in self._open:
                raise UserError(
                    f"two studies have the id {study.id!r}; ids tell cases apart",
                    hint="give every study an id of its own",
                )
            self._open[study.id] = _Open(study)

    def clear(self, cases: Iterable[str]) -> None:
        """Take studies off the desk."""
        for case in cases:
            self._open.pop(case, None)

    def prepare(self, cases: Sequence[str], *, label: str = "") -> None:
        """Encode and assess many cases at once; the nodes then pass through."""
        entries = [self._open[c] for c in cases]
        features = self._source.of([e.study for e in entries], label=label)
        for i, entry in enumerate(entries):
            entry.content = features.digests[i]
            entry.problem = features.failures.get(i)
            entry.pooled = features.pooled[i : i + 1]
            entry.incomplete = (*entry.study.incomplete, *features.passed_over.get(i, ()))
        good = [e for e in entries if e.problem is None]
        if good:
            tags = [e.study.tags.get("Modality") for e in good]
            found = self._assessor.assess(
                np.concatenate([e.pooled for e in good]), modality_tags=tags
            )
            for i, entry in enumerate(good):
                entry.assessment = found.take(slice(i, i + 1))

    def read_ahead(self, cases: Sequence[str]) -> None:
        """Ask agents in batches whatever the policy will ask of prepared cases."""
        entries = [e for e in (self._open[c] for c in cases) if e.assessment is not None]
        if not entries:
            return
        names = self.serving.agents
        together = _stack([e.assessment for e in entries if e.assessment is not None])
        studies = [replace(e.study, question=self._question(e)[0]) for e in entries]

        def ask(rows: Any, wanted: Any) -> Responses:
            status = np.zeros(wanted.shape, np.int8)
            confidence = np.full(wanted.shape, np.nan, np.float32)
            choice = np.full(wanted.shape, -1, np.int16)
            for column in np.flatnonzero(wanted.any(axis=0)):
                local = np.flatnonzero(wanted[:, column])
                name = names[column]
                said = self._agents[name].read_batch([studies[rows[i]] for i in local])
                for i, response in zip(local, said, strict=True):
                    entries[rows[i]].said[name] = response
                    one = columns_of((name,), {name: response})
                    status[i, column] = one.status[0, 0]
                    confidence[i, column] = one.confidence[0, 0]
                    choice[i, column] = one.choice[0, 0]
            if (status[wanted] == ResponseStatus.NOT_ASKED).any():
                raise InternalError("an agent was asked and gave nothing")
            return Responses(names, status, confidence, choice)

        run(self._policy, together, names, ask)

    # -- nodes -----------------------------------------------------------------------------

    def intake(self, state: State) -> State:
        """The question and the time, from the study."""
        study = self._entry(state["case"]).study
        return {
            "question": pack_question(study.question),
            "received_at": study.received_at.isoformat(),
            "problem": None,
            "review": None,
        }

    def encode(self, state: State) -> State:
        """Features of the image, or the reason why there are none."""
        entry = self._entry(state["case"])
        if not entry.content and entry.problem is None:
            self.prepare([state["case"]])
        if entry.problem is not None:
            problem = {"reason": entry.problem.reason, "message": entry.problem.message}
            return {"content": entry.content, "problem": problem}
        return {"content": entry.content}

    def assess(self, state: State) -> State:
        """What the index knows; a study without a question is asked its modality's task."""
        entry = self._entry(state["case"])
        if entry.assessment is None:
            self.prepare([state["case"]])
        if entry.assessment is None:
            raise InternalError("assess was reached by an image that cannot be used")
        question, assumed = self._question(entry)
        return {
            "assessment": pack(entry.assessment),
            "question": pack_question(question),
            "assumed_question": assumed,
        }

    def decide(self, state: State) -> State:
        """One step of the policy."""
        facts = unpack(state["assessment"] or {})
        verdict = settle(self._policy, facts, self.serving.agents, _said(state))
        return {
            "asking": list(verdict.asks),
            "verdict": {
                "answered": verdict.answered,
                "reader": verdict.reader,
                "reason": verdict.reason,
                "mixture": dict(verdict.mixture),
            },
        }

    def ask(self, case: str, agent: str, question: dict[str, Any]) -> dict[str, Any]:
        """One agent's response, as plain JSON types."""
        entry = self._entry(case)
        if agent not in entry.said:
            study = replace(entry.study, question=unpack_question(question))
            entry.said[agent] = self._agents[agent].read(study)
        return entry.said[agent].model_dump(mode="json")

    def record(self, state: State) -> State:
        """The case record; after a review, the same with the person's answer."""
        review = state.get("review")
        if review:
            before = CaseRecord.model_validate(state["record"])
            return {"record": reviewed(before, review["answer"], review["reader"]).to_json()}
        base = self._base(
            state["case"],
            state["content"],
            unpack_question(state["question"]),
            state["received_at"],
        )
        problem = state.get("problem")
        if problem:
            return {"record": without_image(base, problem["reason"], problem["message"]).to_json()}
        verdict = Verdict(**(state["verdict"] or {}))
        record = explain(
            base,
            unpack(state["assessment"] or {}),
            _said(state),
            verdict,
            self.serving,
            self._assessor,
            assumed_question=state.get("assumed_question", False),
        )
        return {"record": record.to_json()}

    # -- deciding without reading ------------------------------------------------------------

    def plan(self, case: str) -> CaseRecord:
        """Whom the policy would ask of a prepared case; no agent is called."""
        entry = self._entry(case)
        question, assumed = (
            self._question(entry) if entry.assessment is not None else (entry.study.question, False)
        )
        base = self._base(case, entry.content, question, entry.study.received_at.isoformat())
        if entry.problem is not None:
            return without_image(base, entry.problem.reason, entry.problem.message)
        if entry.assessment is None:
            raise InternalError("plan was called for a case that was not prepared")
        verdict = settle(self._policy, entry.assessment, self.serving.agents, {})
        return explain(
            base,
            entry.assessment,
            {},
            verdict,
            self.serving,
            self._assessor,
            assumed_question=assumed,
        )

    # -- parts -------------------------------------------------------------------------------

    def _entry(self, case: str) -> _Open:
        try:
            return self._open[case]
        except KeyError:
            raise InternalError(f"case {case} is not on the desk") from None

    def _question(self, entry: _Open) -> tuple[Question, bool]:
        """The question, with a known task's options filled in; and whether it was assumed."""
        question = entry.study.question
        if question.options or question.text:
            return question, False
        if question.task is not None and question.task in self._tasks:
            return replace(question, options=tuple(self._tasks[question.task])), False
        assert entry.assessment is not None
        task = self._likely_task(entry.assessment)
        if task is None:
            return question, False
        return replace(question, task=task, options=tuple(self._tasks[task])), True

    def _likely_task(self, assessment: Assessments) -> str | None:
        """The task of the modality that most of the nearest cases' labels belong to.

        Not the modality's commonest one: a blood smear with leukaemia is no question about
        malaria parasites, and its nearest cases know that.
        """
        modality = assessment.modalities[int(assessment.modality[0])]
        tasks = self._tasks_of.get(modality, ())
        votes = dict.fromkeys(tasks, 0.0)
        for row, similarity in zip(
            assessment.neighbours[0].tolist(), assessment.similarity[0].tolist(), strict=True
        ):
            label = str(self._assessor.labels[row])
            for task in tasks:
                if label in self._tasks[task]:
                    votes[task] += max(similarity, 0.0)
        return max(votes, key=votes.__getitem__) if votes else None

    def _base(self, case: str, content: str, question: Question, received_at: str) -> CaseRecord:
        return CaseRecord(
            case=case,
            content=content,
            question_kind=str(question.kind),
            task=question.task,
            options=question.options,
            outcome=Outcome(status=Status.NOT_ANALYSED, reasons=()),
            incomplete=self._entry(case).incomplete,
            versions=self._versions,
            received_at=received_at,
            decided_at=datetime.now(UTC).isoformat(),
        )


def _said(state: State) -> dict[str, AnyResponse]:
    return {name: packed_response(r) for name, r in (state.get("responses") or {}).items()}


def _stack(rows: Sequence[Assessments]) -> Assessments:
    """One-row assessments of one assessor as n rows."""
    first = rows[0]
    names = ("modalities", "agents", "strata")
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(r, name) for r in rows])
        for name in vars(first)
        if name not in names
    }
    return replace(first, **columns)
