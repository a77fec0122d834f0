"""Which cases an adaptation learns from, and every reason to refuse them before it starts.

A case becomes one lesson or, with a report, one for each item of the template.  Groups stay
whole: a group is trained on, or watched by early stopping, or neither.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from curbside.agents.examples import Examples
from curbside.agents.report_draft import ReportTemplate
from curbside.cases import Case, Cases, bad_rows
from curbside.errors import CasesError, ImageError, RowProblem, UserError
from curbside.study import QuestionKind, content_hash

__all__ = ["Lesson", "Material", "material_of"]

_HINT = "mend the manifest (docs/finetuning.md says what each kind of question needs)"
#: Fewest groups of which some can be watched instead of trained on.
FEWEST_GROUPS = 10
_SHOWN = 5


@dataclass(frozen=True)
class Lesson:
    """One question about one case, and its true answer.

    Args:
        row: of the cases.
        kind: diagnosis, closed or open question; items of a report are closed ones.
        task: what its answers are counted under.
    """

    row: int
    kind: QuestionKind
    task: str
    question: str
    options: tuple[str, ...]
    answer: str

    @property
    def label(self) -> str:
        """What a few-shot draw counts: the answer of a closed question; open ones are alike."""
        return self.answer if self.options else ""


@dataclass(frozen=True)
class Material:
    """Checked lessons.

    Args:
        train, held_out: lessons to learn from, and lessons that early stopping watches.
        unusable: cases of ``train`` that were left out since their image cannot be used.
        passed_by: open questions that an encoder, which has no words, does not learn.
        digests: SHA-256 of the image of each row that is used.
    """

    cases: Cases
    train: tuple[Lesson, ...]
    held_out: tuple[Lesson, ...]
    unusable: int
    passed_by: int
    digests: Mapping[int, str]
    shots: int | None
    seed: int

    @property
    def labels(self) -> int:
        """Labels used: of those trained on and of those watched."""
        return len(self.train) + len(self.held_out)

    @property
    def by_task(self) -> dict[str, int]:
        """Task → lessons trained on."""
        return dict(sorted(Counter(lesson.task for lesson in self.train).items()))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the cases that are learned from, where the manifest names them."""
        named = {self.cases[x.row].modality for x in self.train}
        return tuple(sorted(m for m in named if m))

    @cached_property
    def options(self) -> dict[str, tuple[str, ...]]:
        """Task → all options that its closed lessons offer."""
        out: dict[str, tuple[str, ...]] = {}
        for lesson in (*self.train, *self.held_out):
            known = out.get(lesson.task, ())
            out[lesson.task] = known + tuple(o for o in lesson.options if o not in known)
        return {t: o for t, o in out.items() if o}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what is learned: image contents, questions, answers, split; no path."""
        parts = [
            json.dumps([self.digests[x.row], x.kind, x.task, x.question, x.options, x.answer])
            for part in (self.train, self.held_out)
            for x in part
        ]
        return content_hash(f"{len(self.train)}", *parts)


def material_of(
    cases: Cases,
    *,
    shots: int | None = None,
    seed: int = 0,
    held_out: float = 0.1,
    report: ReportTemplate | None = None,
    closed_only: bool = False,
    role: str = "train",
) -> Material:
    """Lessons from the labelled cases of a role; opens every image once.

    Args:
        shots: at most so many cases of each label of each task (open questions: of each
            task); None: all.
        held_out: share of the groups that early stopping watches.
        report: template whose items the columns of report cases are named after.
        closed_only: for encoders, which have heads and no words: open questions are passed by.
        role: whose cases; of another one than ``train`` a task may have one class.

    Raises:
        CasesError: rows that cannot be learned from; all of them are named.
        UserError: no labelled case, no usable image, a task with one class, or the same image
            in ``train`` and in a role that judges.
    """
    every = _lessons(cases, report, role)
    lessons = [x for x in every if x.options] if closed_only else every
    if not lessons:
        raise UserError(
            f"{cases.path} has no labelled case of role '{role}' to learn from",
            hint=_HINT,
        )
    rows = sorted({x.row for x in lessons})
    digests = _opened(cases, rows)
    if not digests:
        first = ", ".join(str(cases[r].line) for r in rows[:_SHOWN])
        raise UserError(
            f"no image of the {len(rows)} cases of role '{role}' can be used (lines {first}"
            f"{' …' if len(rows) > _SHOWN else ''}); images are relative to the manifest's folder",
            hint=f"curbside studies {cases.path.parent} says what is wrong with each file",
        )
    _refuse_shared(cases, digests, role)
    usable = [x for x in lessons if x.row in digests]
    if role == "train":
        _refuse_one_class(usable)
    watched = _watched(cases, usable, held_out, seed)
    learned = [x for x in usable if cases[x.row].own_group not in watched]
    held = [x for x in usable if cases[x.row].own_group in watched]
    if shots is not None:
        few_held = max(1, round(shots * held_out))
        learned, held = _few(learned, shots, seed), _few(held, few_held, seed)
    return Material(
        cases=cases,
        train=tuple(learned),
        held_out=tuple(held),
        unusable=len(rows) - len(digests),
        passed_by=len(every) - len(lessons),
        digests=digests,
        shots=shots,
        seed=seed,
    )


def _lessons(cases: Cases, report: ReportTemplate | None, role: str) -> list[Lesson]:
    found: list[Lesson] = []
    problems: list[RowProblem] = []
    for row in cases.where(role=role).tolist():
        try:
            made = _of(cases[row], row, report)
        except ValueError as e:
            problems.append(RowProblem(cases[row].line, str(e)))
            continue
        found += made
    if problems:
        raise bad_rows(cases.path, problems, len(cases))
    return found


def _of(case: Case, row: int, report: ReportTemplate | None) -> list[Lesson]:
    """The lessons of one case; ValueError says why it has none, [] where it has no label."""
    said = case.attributes.get("kind", "")
    if said and said not in set(QuestionKind):
        raise ValueError(f"kind {said!r} is unknown; valid: {', '.join(QuestionKind)}, or empty")
    kind = QuestionKind(said) if said else None
    if kind is QuestionKind.REPORT:
        return _of_report(case, row, report)
    answer = case.label or case.attributes.get("answer", "")
    if not answer:
        return []
    if kind is None:
        kind = QuestionKind.VQA_OPEN if not case.options else QuestionKind.DIAGNOSIS
    if (kind is QuestionKind.VQA_OPEN) == bool(case.options):
        raise ValueError(f"kind {kind} {'takes no options' if case.options else 'needs options'}")
    if case.options and answer not in case.options:
        raise ValueError(f"answer {answer!r} is none of the options {'|'.join(case.options)}")
    task = case.task or ("|".join(case.options) if case.options else "open questions")
    return [Lesson(row, kind, task, case.question, case.options, answer)]


def _of_report(case: Case, row: int, report: ReportTemplate | None) -> list[Lesson]:
    """A report is drafted from closed items, so it is learned from their true answers."""
    if report is None:
        raise ValueError("there is no report template")
    found = []
    for item in report.items:
        answer = case.attributes.get(item.question, "")
        if not answer:
            continue
        if answer not in item.options:
            raise ValueError(
                f"column {item.question!r} holds {answer!r}; valid: {', '.join(item.options)}"
            )
        kind = QuestionKind.VQA_CLOSED
        found.append(Lesson(row, kind, item.question, item.question, item.options, answer))
    if not found:
        names = ", ".join(repr(i.question) for i in report.items)
        raise ValueError(f"a report needs columns named after the template's items: {names}")
    return found


def _opened(cases: Cases, rows: Sequence[int]) -> dict[int, str]:
    """Row → digest of what its images show, for those that can all be decoded."""
    found = {}
    for row in rows:
        try:
            instances = cases[row].study().instances
            for instance in instances:
                instance.pixels()
            found[row] = content_hash(*(i.digest() for i in instances))
        except ImageError:
            continue
    return found


def _refuse_shared(cases: Cases, digests: Mapping[int, str], role: str) -> None:
    """The same image must not be learned from and judged by, whatever its group says."""
    first: dict[str, int] = {}
    for row, digest in digests.items():
        first.setdefault(digest, row)
    problems = []
    judging = [r for r in ("train", "tune", "calibration", "test") if r != role]
    for row in cases.where(role=judging).tolist():
        try:
            digest = content_hash(*(i.digest() for i in cases[row].study().instances))
        except ImageError:
            continue
        if digest in first:
            problems.append(
                RowProblem(
                    cases[row].line,
                    f"role {cases[row].role!r} has the very image of line "
                    f"{cases[first[digest]].line} in role {role!r}",
                )
            )
    if problems:
        raise bad_rows(cases.path, problems, len(cases))


def _refuse_one_class(lessons: Sequence[Lesson]) -> None:
    answers: dict[str, set[str]] = {}
    for x in lessons:
        if x.options:
            answers.setdefault(x.task, set()).add(x.answer)
    alone = sorted(t for t, labels in answers.items() if len(labels) < 2)
    if alone:
        shown = ", ".join(f"{t!r} (only {next(iter(answers[t]))!r})" for t in alone[:_SHOWN])
        more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
        raise CasesError(
            f"{len(alone)} of {len(answers)} tasks have one class among their usable training "
            f"cases: {shown}{more}; nothing can be learned from one class",
            hint="add cases of another class, or leave the task out of the manifest",
        )


def _watched(cases: Cases, lessons: Sequence[Lesson], share: float, seed: int) -> set[str]:
    """Groups that early stopping watches: whole, and never the last of a label."""
    groups = sorted({cases[x.row].own_group for x in lessons})
    if share == 0 or len(groups) < FEWEST_GROUPS:
        return set()
    left = Counter((x.task, x.label) for x in lessons)
    of: dict[str, Counter[tuple[str, str]]] = {}
    for x in lessons:
        of.setdefault(cases[x.row].own_group, Counter())[x.task, x.label] += 1
    order = np.random.default_rng([seed, 11]).permutation(len(groups))
    wanted = max(1, round(share * len(groups)))
    taken: set[str] = set()
    for i in order.tolist():
        if len(taken) == wanted:
            break
        own = of[groups[i]]
        if all(left[label] > n for label, n in own.items()):
            left -= own
            taken.add(groups[i])
    return taken


def _few(lessons: Sequence[Lesson], shots: int, seed: int) -> list[Lesson]:
    """The draw that the embedded agents make of the same cases."""
    empty = np.full(len(lessons), "")
    few = Examples(
        rows=np.arange(len(lessons)),
        digests=empty,
        modalities=empty,
        tasks=np.array([x.task for x in lessons], np.str_),
        labels=np.array([x.label for x in lessons], np.str_),
        options={},
    ).few(shots, seed=seed)
    return [lessons[i] for i in few.rows.tolist()]
