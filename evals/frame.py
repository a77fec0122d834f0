"""The evaluated cases as columns: who belongs together, what is true, and what each is asked.

Works for any manifest of the form.  Where a column is absent it is derived: the tier from
what the fleet was trained on, the group from the case itself.  Truth is read here and in
the metrics only; nothing that routes a case sees this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import CasesError
from curbside.study import Question, Study

if TYPE_CHECKING:
    from curbside.assessments import Assessments
    from curbside.cases import Cases

__all__ = [
    "RARE_FINDING_SHOTS",
    "SOURCE_CONFOUNDED",
    "Frame",
    "TaskBook",
    "evaluated_rows",
    "frame_of",
    "label_counts",
    "questions_for",
]

#: A label of a common modality with at most this many training cases is a rare finding.
RARE_FINDING_SHOTS = 16

#: Tasks whose classes come from different sources, so that the source can give the answer
#: away; None: every label of the task, otherwise the labels that have a source of their own.
SOURCE_CONFOUNDED: Mapping[str, frozenset[str] | None] = {
    "cxr_covid_talo": None,
    "cxr_tb_kamath": None,
    "mri_brain_tumor4": None,
    "ct_covid": None,
    "us_lung_pocus": None,
    "ct_chest_cancer": frozenset({"normal"}),
    "all_leukemia_pbs": frozenset({"healthy_wbc"}),
}

Text = NDArray[np.str_]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """n evaluated cases.

    Args:
        ids: case ids.
        modality: true modality, ``""`` where unknown.
        predicted: the index's modality, from pixels alone.
        tier: ``common | rare | novel``, ``""`` where it can be neither read nor derived.
        task: the task whose label is the truth; for cases with options but no task a name
            made of the options; ``""`` where the case is for routing only.
        label: the truth, ``""`` where unknown.
        group: intp (n,), 0 … n_groups − 1; cases of one group are resampled together.
        usable: False where the image could not be read: a failed case, never right.
        asked: True where agents are asked something (a task of its own, or a novel case).
        rare_finding: label of a common modality with few training cases.
        confounded: the task's source may give the answer away (see SOURCE_CONFOUNDED).
    """

    ids: Text
    modality: Text
    predicted: Text
    tier: Text
    task: Text
    label: Text
    group: NDArray[np.intp]
    usable: Flags
    asked: Flags
    rare_finding: Flags
    confounded: Flags

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def novel(self) -> Flags:
        """bool (n,): of a modality that nothing was trained or calibrated on."""
        return np.asarray(self.tier == "novel", bool)

    @property
    def scored(self) -> Flags:
        """bool (n,): a known modality with a task and a truth; what accuracy is about."""
        return np.asarray(~self.novel & (self.task != "") & (self.label != "") & self.asked, bool)

    @property
    def n_groups(self) -> int:
        """How many groups there are to resample."""
        return int(self.group.max()) + 1 if len(self) else 0

    @property
    def strata(self) -> NDArray[np.intp]:
        """intp (groups,): each group's modality (that of its first case), to resample within."""
        of = np.unique(self.modality, return_inverse=True)[1].astype(np.intp)
        first = np.zeros(self.n_groups, np.intp)
        first[self.group[::-1]] = of[::-1]
        return first

    def take(self, rows: NDArray[np.intp] | Flags) -> Self:
        """Some of the cases; groups are renumbered."""
        picked = {f.name: getattr(self, f.name)[rows] for f in fields(self)}
        picked["group"] = np.unique(picked["group"], return_inverse=True)[1].astype(np.intp)
        return replace(self, **picked)


@dataclass(frozen=True)
class TaskBook:
    """What the fleet was trained to answer.

    Args:
        tasks: task → options as trained.
        commonest: modality → its task with most training cases.
        specialists: modality → name of its specialist.
    """

    tasks: Mapping[str, tuple[str, ...]]
    commonest: Mapping[str, str]
    specialists: Mapping[str, str]


def evaluated_rows(cases: Cases) -> NDArray[np.intp]:
    """Rows to evaluate: role ``test`` where the manifest has it, else rows without a role.

    Raises:
        CasesError: every row belongs to train, tune or calibration.
    """
    rows = np.flatnonzero(cases.roles == "test")
    if not len(rows):
        rows = np.flatnonzero(cases.roles == "")
    if not len(rows):
        raise CasesError(
            f"{cases.path.name} has no case to evaluate: every row has role train, tune or "
            "calibration",
            hint="give some rows role test, or leave the column out",
        )
    return rows


def label_counts(cases: Cases) -> dict[tuple[str, str], int]:
    """(task, label) → training cases, over the rows of role ``train`` (empty if none)."""
    rows = np.flatnonzero((cases.roles == "train") & (cases.tasks != ""))
    return dict(Counter(zip(cases.tasks[rows].tolist(), cases.labels[rows].tolist(), strict=True)))


def frame_of(
    cases: Cases,
    assessments: Assessments,
    usable: Flags,
    specialists: Mapping[str, str],
    trained: Mapping[tuple[str, str], int],
) -> Frame:
    """Columns of the evaluated cases.

    Args:
        assessments: of the same cases, pixels alone.
        usable: bool (n,), the image could be read.
        specialists: modality → specialist; with the index's modalities it gives the tier
            of a row that names none.
        trained: (task, label) → training cases, as from :func:`label_counts`.
    """
    known = set(assessments.modalities)
    tier = np.array(
        [
            given or _tier(m, known, specialists)
            for given, m in zip(cases.tiers.tolist(), cases.modalities.tolist(), strict=True)
        ],
        dtype=np.str_,
    ).reshape(len(cases))
    options = [c.options for c in cases]
    task = np.array(
        [t or "|".join(o) for t, o in zip(cases.tasks.tolist(), options, strict=True)], np.str_
    ).reshape(len(cases))
    label = cases.labels
    has_truth = np.array([lab in o for lab, o in zip(label.tolist(), options, strict=True)], bool)
    # a case without a group stands for itself; the prefix keeps the two name spaces apart
    group = [
        f"g:{g}" if g else f"c:{i}"
        for g, i in zip(cases.groups.tolist(), cases.ids.tolist(), strict=True)
    ]
    novel = tier == "novel"
    pairs = list(zip(task.tolist(), label.tolist(), strict=True))
    few = np.array([trained.get(p, 0) <= RARE_FINDING_SHOTS for p in pairs], bool)
    confounded = np.array([_confounded(t, lab) for t, lab in pairs], bool)
    names = np.array(assessments.modalities, np.str_)
    return Frame(
        ids=cases.ids,
        modality=cases.modalities,
        predicted=names[assessments.modality] if len(cases) else cases.modalities,
        tier=tier,
        task=np.where(has_truth, task, ""),
        label=np.where(has_truth, label, ""),
        group=np.unique(np.array(group, np.str_), return_inverse=True)[1].astype(np.intp),
        usable=np.asarray(usable, bool),
        asked=novel | has_truth,
        rare_finding=few & (tier == "common") & has_truth & bool(trained),
        confounded=confounded & ~novel,
    )


def questions_for(
    cases: Cases, frame: Frame, assessments: Assessments, book: TaskBook
) -> list[Study]:
    """The study put to the agents for every asked case, in order of ``frame.asked`` rows.

    A case with a task is asked its own question.  A novel case is asked the commonest task
    of its *predicted* modality, so that every agent has an answer at hand and only the gate
    can hold it back; where that modality has no task, the likeliest one that has.

    Raises:
        CasesError: there are novel cases and the fleet knows no task at all.
    """
    with_task = np.array([m in book.commonest for m in assessments.modalities], bool)
    studies = []
    for i in np.flatnonzero(frame.asked):
        study = cases[int(i)].study()
        if frame.novel[i]:
            if not with_task.any():
                raise CasesError("the fleet knows no task that a novel case could be asked")
            likely = int(np.where(with_task, assessments.posterior[i], -1.0).argmax())
            task = book.commonest[assessments.modalities[likely]]
            study = replace(study, question=Question(options=book.tasks[task], task=task))
        studies.append(study)
    return studies


def truths_of(frame: Frame) -> Sequence[str | None]:
    """Label of every asked case, None for novel ones: nothing said of them is right."""
    rows = np.flatnonzero(frame.asked)
    return [None if frame.novel[i] else str(frame.label[i]) for i in rows]


def _tier(modality: str, known: set[str], specialists: Mapping[str, str]) -> str:
    if not modality:
        return ""
    if modality in specialists:
        return "common"
    return "rare" if modality in known else "novel"


def _confounded(task: str, label: str) -> bool:
    if task not in SOURCE_CONFOUNDED:
        return False
    labels = SOURCE_CONFOUNDED[task]
    return labels is None or label in labels
