"""The graph's nodes at work: looks up pixels, index and agents by a case's id.

Studies stay here, in memory; the state that is checkpointed has ids and numbers.  What a
batch has computed for many cases at once is kept here too, and nodes pass through it.
A block of cases can also be finished at once: the same functions in the same order, without
the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from curbside.agents.contract import Agent, AnyResponse, Explains
from curbside.assessments import Assessments
from curbside.errors import ImageError, InternalError, UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.features import FeatureSource, central_instance
from curbside.readings import CaseRecord, Explanation, Outcome, Reading, Status, Versions
from curbside.responses import ResponseStatus
from curbside.router.explain import Told, explain, without_image
from curbside.router.ledger import Ledger, case_key
from curbside.router.policy import Responses, run
from curbside.router.review import reviewed
from curbside.router.state import (
    State,
    pack,
    pack_question,
    packed_response,
    unpack,
    unpack_question,
)
from curbside.router.verdicts import Serving, Verdict, columns_of, settle
from curbside.study import Question, Study
from curbside.threads import one_blas_thread

__all__ = ["RouterDesk"]


@dataclass
class _Open:
    """A study on the desk, and what is already known of it."""

    study: Study
    key: str = ""
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
        ledger: where records go, each once.
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
        ledger: Ledger,
    ) -> None:
        self._source, self._assessor, self._agents = source, assessor, agents
        self.serving, self._tasks, self._tasks_of = serving, tasks, tasks_of
        self._versions, self._ledger = versions, ledger
        self._policy = serving.policy()
        self._open: dict[str, _Open] = {}

    # -- studies on the desk ---------------------------------------------------------------

    def take_in(self, studies: Iterable[Study]) -> None:
        """Put studies on the desk.  Raises UserError where two share an id."""
        new: dict[str, _Open] = {}
        for study in studies:
            if study.id in self._open or study.id in new:
                raise UserError(
                    f"two studies have the id {study.id!r}; ids tell cases apart",
                    hint="give every study an id of its own",
                )
            new[study.id] = _Open(study)
        self._open |= new

    def clear(self, cases: Iterable[str]) -> None:
        """Take studies off the desk."""
        for case in cases:
            self._open.pop(case, None)

    def prepare(self, cases: Sequence[str], *, label: str = "") -> None:
        """Encode and assess many cases at once; the nodes then pass through."""
        self.encode_ahead(cases, label=label)
        self.assess_ahead(cases)

    def name(self, cases: Sequence[str]) -> list[str]:
        """Keys of the cases' outcomes, from what their images hold; nothing is decoded."""
        for entry in (self._open[c] for c in cases):
            study = entry.study
            try:
                held = entry.content = central_instance(study).digest()
            except ImageError as e:
                # mended, or broken otherwise, it is another key and read anew
                held = f"!{e.reason}"
            entry.key = case_key(
                study.id,
                held,
                study.question,
                self._versions,
                modality_tag=study.tags.get("Modality", ""),
            )
        return [self._open[c].key for c in cases]

    def encode_ahead(self, cases: Sequence[str], *, label: str = "") -> None:
        """Features of many cases, or the reasons why there are none."""
        entries = [self._open[c] for c in cases]
        self.name([e.study.id for e in entries if not e.key])
        features = self._source.of([e.study for e in entries], label=label)
        for i, entry in enumerate(entries):
            entry.problem = features.failures.get(i)
            entry.pooled = features.pooled[i : i + 1]
            entry.incomplete = (*entry.study.incomplete, *features.passed_over.get(i, ()))

    @one_blas_thread()
    def assess_ahead(self, cases: Sequence[str]) -> None:
        """What the index knows of encoded cases."""
        entries = [self._open[c] for c in cases]
        good = [e for e in entries if e.problem is None and e.assessment is None]
        if good:
            tags = [e.study.tags.get("Modality") for e in good]
            found = self._assessor.assess(
                np.concatenate([e.pooled for e in good]), modality_tags=tags
            )
            for i, entry in enumerate(good):
                entry.assessment = found.take(slice(i, i + 1))

    def key(self, case: str) -> str:
        """Key of an encoded case's outcome; see :func:`curbside.router.ledger.case_key`."""
        return self._entry(case).key

    @one_blas_thread()
    def read_ahead(self, cases: Sequence[str]) -> None:
        """Ask agents in batches whatever the policy will ask of prepared cases."""
        entries = [e for e in (self._open[c] for c in cases) if e.assessment is not None]
        if not entries:
            return
        names = self.serving.agents
        together = _stack([e.assessment for e in entries if e.assessment is not None])
        studies = [replace(e.study, question=self._question(e)[0]) for e in entries]

        def ask(rows: Any, wanted: Any) -> Responses:
            new: list[dict[str, AnyResponse]] = [{} for _ in rows]
            for column in np.flatnonzero(wanted.any(axis=0)):
                local = np.flatnonzero(wanted[:, column])
                name = names[column]
                said = self._agents[name].read_batch([studies[rows[i]] for i in local])
                for i, response in zip(local, said, strict=True):
                    entries[rows[i]].said[name] = new[i][name] = response
            columns = columns_of(names, new)
            if (columns.status[wanted] == ResponseStatus.NOT_ASKED).any():
                raise InternalError("an agent was asked and gave nothing")
            return columns

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
        if entry.pooled is None:
            self.prepare([state["case"]])
        if entry.problem is not None:
            problem = {"reason": entry.problem.reason, "message": entry.problem.message}
            return {"content": entry.content, "key": entry.key, "problem": problem}
        return {"content": entry.content, "key": entry.key}

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
        (verdict,) = settle(self._policy, facts, self.serving.agents, [_said(state)])
        return {
            "asking": list(verdict.asks),
            "verdict": {
                "answered": verdict.answered,
                "reader": verdict.reader,
                "reason": verdict.reason,
                "mixture": dict(verdict.mixture),
            },
        }

    @one_blas_thread()
    def ask(self, case: str, agent: str, question: dict[str, Any]) -> dict[str, Any]:
        """One agent's response, as plain JSON types."""
        entry = self._entry(case)
        if agent not in entry.said:
            study = replace(entry.study, question=unpack_question(question))
            entry.said[agent] = self._agents[agent].read(study)
        return entry.said[agent].model_dump(mode="json")

    def record(self, state: State) -> State:
        """The case record, into the ledger once; after a review, with the person's answer."""
        review = state.get("review")
        if review:
            before = CaseRecord.model_validate(state["record"])
            return {"record": reviewed(before, review["answer"], review["reader"]).to_json()}
        base = self._base(self._entry(state["case"]), unpack_question(state["question"]))
        problem = state.get("problem")
        if problem:
            record = without_image(base, problem["reason"], problem["message"])
        else:
            verdict = Verdict(**(state["verdict"] or {}))
            question = unpack_question(state["question"])
            said = self._shown(state["case"], question, _said(state), verdict)
            told = Told(base, said, verdict, state.get("assumed_question", False))
            facts = unpack(state["assessment"] or {})
            (record,) = explain(facts, [told], self.serving, self._assessor)
        return {"record": self.keep([(state["key"], record)])[0].to_json()}

    def keep(self, outcomes: Sequence[tuple[str, CaseRecord]]) -> list[CaseRecord]:
        """Write outcomes to the ledger; where it has one already, that one stays and is given."""
        if self._ledger.write(outcomes) == len(outcomes):
            return [record for _, record in outcomes]
        known = self._ledger.of_keys([key for key, _ in outcomes])
        return [known[key] for key, _ in outcomes]

    # -- blocks, without the graph -----------------------------------------------------------

    @one_blas_thread()
    def finish(self, cases: Sequence[str]) -> list[CaseRecord]:
        """Records of prepared cases with what :meth:`read_ahead` was told, in order.

        Without it: whom the policy would ask; no agent is called.
        """
        entries = [self._entry(c) for c in cases]
        good = [e for e in entries if e.assessment is not None]
        records: dict[str, CaseRecord] = {}
        if good:
            facts = _stack([e.assessment for e in good if e.assessment is not None])
            said = [e.said for e in good]
            verdicts = settle(self._policy, facts, self.serving.agents, said)
            told = []
            for entry, verdict in zip(good, verdicts, strict=True):
                question, assumed = self._question(entry)
                shown = self._shown(entry.study.id, question, entry.said, verdict)
                told.append(Told(self._base(entry, question), shown, verdict, assumed))
            found = explain(facts, told, self.serving, self._assessor)
            records = {r.case: r for r in found}
        for e in entries:
            if e.problem is not None:
                base = self._base(e, e.study.question)
                records[e.study.id] = without_image(base, e.problem.reason, e.problem.message)
        return [records[e.study.id] for e in entries]

    # -- parts -------------------------------------------------------------------------------

    def _entry(self, case: str) -> _Open:
        try:
            return self._open[case]
        except KeyError:
            raise InternalError(f"case {case} is not on the desk") from None

    def _shown(
        self, case: str, question: Question, said: Mapping[str, AnyResponse], verdict: Verdict
    ) -> Mapping[str, AnyResponse]:
        """What was said; the reading that counts also says what in the image it rests on."""
        reading = said.get(verdict.reader) if verdict.reader else None
        agent = self._agents.get(verdict.reader or "")
        if not isinstance(reading, Reading) or reading.explanation or not reading.options:
            return said
        study = replace(self._entry(case).study, question=question)
        found = (
            agent.explain(study, reading.answer)
            if isinstance(agent, Explains)
            else Explanation(kind="none", note="no explanation available")
        )
        return {**said, reading.agent: reading.model_copy(update={"explanation": found})}

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

    def _base(self, entry: _Open, question: Question) -> CaseRecord:
        return CaseRecord(
            case=entry.study.id,
            content=entry.content,
            question_kind=str(question.kind),
            task=question.task,
            options=question.options,
            outcome=_NOTHING,
            incomplete=entry.incomplete,
            versions=self._versions,
            received_at=entry.study.received_at.isoformat(),
            decided_at=datetime.now(UTC).isoformat(),
        )


_NOTHING = Outcome(status=Status.NOT_ANALYSED, reasons=())


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
