"""All controls of one run, on what was built: the only user of :mod:`curbside.evals.controls`.

Reads a sample of the evaluated cases again (changed images, changed options) and decides a
sample again under small changes of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curbside.evals.controls import (
    copies_of_known,
    option_order,
    order_effect,
    png,
    question_only,
    rate,
    sample_rows,
    without_image,
)
from curbside.evals.metrics import Scorer
from curbside.evals.protocol import GFULL, TWIN
from curbside.evals.schema import Control
from curbside.readings import CaseRecord, Status
from curbside.study import Study

if TYPE_CHECKING:
    from curbside.agents.contract import Agent
    from curbside.cases import Cases
    from curbside.evals.evaluation import Result
    from curbside.evals.frame import Frame
    from curbside.evals.runner import TunedFleet
    from curbside.indexes.features import Features
    from curbside.router.api import Router
    from curbside.router.workspace import Workspace

__all__ = [
    "FLIP_RATE",
    "changed",
    "explained",
    "route",
    "run_controls",
    "serving_controls",
    "without_them",
]

#: Share of routes that may move under a small change of the image.
FLIP_RATE = 0.03
_STABILITY = 60
_EXPLAINED = 256
_COLUMNS = ("right", "answered", "confidence", "cost", "latency_ms")
Flags = NDArray[np.bool_]


def run_controls(
    workspace: Workspace,
    cases: Cases,
    features: Features,
    fleet: TunedFleet,
    result: Result,
) -> list[Control]:
    """Every control; where agents cannot be called, those that need them are not assessable.

    Args:
        cases: the evaluated ones; ``features`` one row each.
    """
    frame = result.frame
    scored = frame.scored & frame.usable
    rows = sample_rows(np.flatnonzero(scored))
    known = workspace.built_cases()
    out: list[Control] = []
    if fleet.notes:  # recorded agents answer from a file: no other image can be shown to them
        nobody = "not assessable: these agents are recorded and cannot be asked again"
        names = ("blank_image", "noise_image", "shuffled_image", "option_order")
        out += [rate(n, nobody, 0, 0) for n in names]
    else:
        studies = [cases[int(i)].study() for i in rows]
        labels = [str(frame.label[i]) for i in rows]
        readers = [_readers(fleet, str(frame.predicted[i])) for i in rows]
        served = {GFULL, fleet.fleet.generalist, *fleet.fleet.specialists.values()}
        blind = _blind(frame, scored, rows)
        out += without_image(studies, labels, readers, blind, together=served)
        out += option_order(studies, readers, together=served)
        out += order_effect(studies, readers)
    outcomes = result.outcomes
    best = outcomes.arms[result.best_single].right[outcomes.frame.scored].mean()
    out += question_only(known, cases, scored, float(best))
    duplicates, copies = copies_of_known(known, workspace.features(known), cases, features)
    out.append(without_them(duplicates, copies, result))
    if not fleet.notes:
        from curbside.router.api import Router

        with closing(Router(workspace)) as router:
            out += serving_controls(router, [c.study() for c in cases])
    return out


def without_them(control: Control, copies: Flags, result: Result) -> Control:
    """The control with what is right where such cases are left out: do the numbers rest on them?

    Args:
        copies: bool (n,), of all evaluated cases.
    """
    frame = result.outcomes.frame
    gone = copies[np.flatnonzero(result.frame.asked)]
    if not (gone & frame.scored).any() or not (~gone & frame.scored).any():
        return control

    def accuracy(name: str, rows: NDArray[np.intp]) -> float:
        some = replace(frame.take(rows), group=frame.group[rows])
        scorer = Scorer(some, np.ones((1, int(some.group.max()) + 1), np.float32))
        o = result.outcomes.arms[name]
        taken = {k: getattr(o, k)[rows] for k in _COLUMNS}
        sums = scorer.sums(replace(o, **taken, probabilities=None))
        return float(scorer.metric("accuracy", sums)[0])

    both = dict.fromkeys((result.hybrid, result.best_single))
    everything = np.arange(len(frame))
    said = ", ".join(
        f"{a} {100 * accuracy(a, np.flatnonzero(~gone)):.1f} % "
        f"(with them {100 * accuracy(a, everything):.1f} %)"
        for a in both
    )
    return control.model_copy(update={"about": f"{control.about}; without them {said}"})


def serving_controls(router: Router, studies: Sequence[Study]) -> list[Control]:
    """Explanations and stability of the routes that are served."""
    from curbside.indexes.perturbations import SMALL

    at = sample_rows(np.arange(len(studies)), _EXPLAINED)
    records = router.decide_batch([studies[i] for i in at])
    complete = sum(explained(r) for r in records)
    out = [
        rate(
            "explained",
            "decisions whose record says why, what for, how familiar and from which versions",
            complete,
            len(records),
            held_against=1.0,
            bad_above=False,
        )
    ]
    rows = [i for i, r in enumerate(records) if r.outcome.status != Status.NOT_ANALYSED]
    rows = rows[:: max(1, len(rows) // _STABILITY)][:_STABILITY]
    moved = n = 0
    for change in SMALL.values():
        again = router.decide_batch([changed(studies[at[i]], change) for i in rows])
        for i, record in zip(rows, again, strict=True):
            n += 1
            moved += route(record) != route(records[i])
    out.append(
        rate(
            "route_flips",
            f"routes that move under {len(SMALL)} small changes of the image ({', '.join(SMALL)})",
            moved,
            n,
            held_against=FLIP_RATE,
        )
    )
    return out


def explained(record: CaseRecord) -> bool:
    """Whether a record says all that a decision must say."""
    why = bool(record.outcome.reasons) and all(r.text for r in record.outcome.reasons)
    versions = all(vars(record.versions).values())
    if record.outcome.status == Status.NOT_ANALYSED:
        return why and versions
    seen = record.familiarity is not None and bool(record.modality) and bool(record.neighbours)
    return why and versions and seen


def route(record: CaseRecord) -> tuple[object, ...]:
    """What must not move: how the case ends, and whom it goes to."""
    return record.outcome.status, record.outcome.route


def changed(study: Study, change: Callable[[Any], Any]) -> Study:
    """The study with its central image changed."""
    from curbside.indexes.features import central_instance

    pixels = change(central_instance(study).pixels())
    return Study.from_image(png(pixels), id=study.id, question=study.question)


def _readers(fleet: TunedFleet, modality: str) -> list[Agent]:
    """Every agent that reads any modality or this one; a twin is its brother again."""
    return [
        a
        for name, a in fleet.fleet.agents.items()
        if name != TWIN and (not a.card.modalities or modality in a.card.modalities)
    ]


def _blind(frame: Frame, scored: Flags, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """The most that a reader who sees no image can expect on each of these rows.

    It gives one answer a task, at best the commonest label; shares are those of all evaluated
    cases, or a few rows a task would flatter it.
    """
    share = {}
    for task in set(frame.task[rows].tolist()):
        labels = frame.label[scored & (frame.task == task)]
        share[task] = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return np.array([share[str(t)] for t in frame.task[rows]], np.float64)
