"""How many labels does the generalist need to match the specialist?  Few-shot curves.

At 1, 4, 16, 64 and all labels, each with several draws, a generalist is trained and read on
the evaluated cases; the specialists of the serving fleet are the line to reach.  Linear
readers are cheap and run at every point; each LoRA generalist takes a minute, so they have a
budget, and points that are done are kept and not made again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from curbside.errors import UserError
from curbside.evals import few_shot_points
from curbside.evals.curves import ALL, Curves, Point, crossings, gains, pooled
from curbside.evals.few_shot_points import Asked, Keeper
from curbside.evals.frame import evaluated_rows
from curbside.evals.matrix import read_matrix
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.cases import Cases
    from curbside.router.workspace import Workspace

__all__ = ["SHOTS", "few_shot_curves", "parse_shots"]

SHOTS = (1, 4, 16, 64, ALL)
#: Raise when a point's making changes.
_FORMAT = 1


def few_shot_curves(
    workspace: Workspace,
    cases: Cases,
    folder: Path,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 3,
    minutes: float = 10.0,
) -> Curves:
    """Train and read every point that is not there yet.

    Args:
        cases: the manifest; rows of role test (or without a role) are read.
        folder: points and readings; a run goes on where the last one stopped.
        minutes: no further generalist is begun after so long; linear ones always run.

    Raises:
        UserError: no evaluated case has a task that was trained.
        NotBuilt: nothing was built.
    """
    started = time.perf_counter()
    built, fleet = workspace.built_cases(), workspace.fleet()
    features = workspace.features(built, "encoding training cases")
    test = _asked(workspace, cases, tuple(fleet.tasks))
    modality = {str(t): str(m) for t, m in zip(built.tasks, built.modalities, strict=True) if t}
    by_task, by_modality = _specialists(fleet, test, modality, folder / "responses")
    made_of = content_hash(f"{_FORMAT}", features.fingerprint, built.digest, test.cases.digest)
    keeper = Keeper(folder, made_of, test.cases, built)
    points: list[Point] = []
    unfinished = 0
    for seed in range(draws):
        for k in shots:
            linear = keeper.known("linear", k, seed)
            if linear is None:
                made = few_shot_points.linear(built, features, test, k, seed)
                linear = keeper.keep("linear", k, seed, made)
            points.append(linear)
            generalist = keeper.known("generalist", k, seed)
            if generalist is None and (time.perf_counter() - started) / 60 > minutes:
                unfinished += 1
                continue
            if generalist is None:
                made = few_shot_points.generalist(workspace, built, features, test, folder, k, seed)
                generalist = keeper.keep("generalist", k, seed, made)
            points.append(generalist)
    arms = sorted({p.arm for p in points})
    return Curves(
        points=points,
        specialist=by_task,
        modality=modality,
        crossings=crossings(points, arms, by_task),
        specialists=by_modality,
        met=crossings([pooled(p, modality) for p in points], arms, by_modality),
        gains=gains(points, test.cases, modality),
        unfinished=unfinished,
    )


def _asked(workspace: Workspace, cases: Cases, tasks: Sequence[str]) -> Asked:
    test = cases.take(evaluated_rows(cases))
    has = np.array([c.label in c.options and c.task in tasks for c in test], bool)
    if not has.any():
        raise UserError(
            "no evaluated case has a task that the fleet was trained on, with options and a label",
            hint="curbside finetune curve --cases MANIFEST --out DIR",
        )
    test = test.take(np.flatnonzero(has))
    return Asked(test, workspace.features(test, "encoding evaluated cases"))


def _specialists(
    fleet: Fleet, test: Asked, modality: Mapping[str, str], folder: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy of each specialist on its own modality, by task and by modality."""
    by_task: dict[str, float] = {}
    by_modality: dict[str, float] = {}
    studies, tasks = test.cases.studies(), test.cases.tasks
    for m, name in fleet.specialists.items():
        rows = [i for i, task in enumerate(tasks.tolist()) if modality[task] == m]
        if not rows:
            continue
        # a specialist is the line to reach on its own modality: it reads nothing else here
        read = read_matrix(
            {name: fleet.agents[name]},
            [studies[i] for i in rows],
            [test.cases[i].label for i in rows],
            images=[test.features.digests[i] for i in rows],
            folder=folder,
            label=f"{name} reads",
        )
        by_modality[m] = float(read.correct[:, 0].mean())
        for task in sorted(set(tasks[rows].tolist())):
            at = np.flatnonzero(tasks[rows] == task)
            by_task[task] = float(read.correct[at, 0].mean())
    return by_task, by_modality


def parse_shots(text: str) -> tuple[int, ...]:
    """``"1,4,all"`` as numbers, ascending.  Raises UserError."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p == "all" or (p.isdecimal() and 0 < int(p) < ALL) for p in parts):
        raise UserError(
            f"--shots {text!r} is no list of numbers from 1 on, or 'all'", hint="--shots 1,4,16,all"
        )
    return tuple(sorted({ALL if p == "all" else int(p) for p in parts}))
