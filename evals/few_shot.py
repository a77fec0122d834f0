"""How many labels does the generalist need to match the specialist?  Few-shot curves.

At 1, 4, 16, 64 and all labels, each with several draws, a generalist is trained and read on
the evaluated cases; the specialists of the serving fleet are the line to reach.  Linear
readers are cheap and run at every point; each LoRA generalist takes a minute, so they have a
budget, and points that are done are kept and not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from curbside.errors import UserError
from curbside.evals.frame import evaluated_rows
from curbside.evals.matrix import read_matrix
from curbside.storage import write_text
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.features import Features
    from curbside.router.workspace import Workspace

__all__ = ["ALL", "SHOTS", "Curves", "Point", "crossing", "few_shot_curves", "lines"]

#: Stands for "all training cases".
ALL = 1_000_000
SHOTS = (1, 4, 16, 64, ALL)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Frozen):
    """One arm trained once: ``right`` and ``n`` by task, labels used by task."""

    key: str
    arm: str
    shots: int
    seed: int
    right: dict[str, int]
    n: dict[str, int]
    labels: dict[str, int]
    seconds: float


class Curves(_Frozen):
    """All points, the specialists' accuracy, and where the generalist meets it.

    Args:
        specialist: task → accuracy of its modality's specialist, trained on all its cases.
        crossings: arm → task → labels of that task at which the mean over draws first reaches
            the specialist (straight lines between points, in log labels); None: never.
        unfinished: generalist points that the budget did not reach.
    """

    points: list[Point]
    specialist: dict[str, float]
    modality: dict[str, str]
    crossings: dict[str, dict[str, float | None]]
    unfinished: int

    def accuracy(self, arm: str, shots: int) -> list[float]:
        """Macro over modalities (of their tasks' accuracies pooled), one value a draw."""
        out = []
        for p in self.points:
            if (p.arm, p.shots) != (arm, shots):
                continue
            by: dict[str, list[int]] = {}
            for task, n in p.n.items():
                sums = by.setdefault(self.modality[task], [0, 0])
                sums[0] += p.right[task]
                sums[1] += n
            out.append(float(np.mean([r / n for r, n in by.values()])))
        return out


@dataclass(frozen=True)
class _Asked:
    """The evaluated cases with a task, and their features."""

    cases: Cases
    features: Features


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
    truth = [c.label for c in test.cases]
    studies = test.cases.studies()
    modality = {str(t): str(m) for t, m in zip(built.tasks, built.modalities, strict=True) if t}
    specialist: dict[str, float] = {}
    tasks = test.cases.tasks
    for m, name in fleet.specialists.items():
        rows = [i for i, task in enumerate(tasks.tolist()) if modality[task] == m]
        if not rows:
            continue
        # a specialist is the line to reach on its own modality: it reads nothing else here
        read = read_matrix(
            {name: fleet.agents[name]},
            [studies[i] for i in rows],
            [truth[i] for i in rows],
            images=[test.features.digests[i] for i in rows],
            folder=folder / "responses",
            label=f"{name} reads",
        )
        for task in sorted(set(tasks[rows].tolist())):
            at = np.flatnonzero(tasks[rows] == task)
            specialist[task] = float(read.correct[at, 0].mean())
    made = content_hash(features.fingerprint, built.digest, test.cases.digest)
    points: list[Point] = []
    unfinished = 0
    for seed in range(draws):
        for k in shots:
            linear = _known(folder, made, "linear", k, seed)
            if linear is None:
                right, seconds = _linear(built, features, test, k, seed)
                linear = _keep(folder, made, "linear", k, seed, right, test.cases, built, seconds)
            points.append(linear)
            generalist = _known(folder, made, "generalist", k, seed)
            if generalist is None and (time.perf_counter() - started) / 60 > minutes:
                unfinished += 1
                continue
            if generalist is None:
                right, seconds = _generalist(workspace, built, features, test, folder, k, seed)
                generalist = _keep(
                    folder, made, "generalist", k, seed, right, test.cases, built, seconds
                )
            points.append(generalist)
    return Curves(
        points=points,
        specialist=specialist,
        modality=modality,
        crossings={
            arm: {
                t: crossing([p for p in points if p.arm == arm], t, level)
                for t, level in specialist.items()
            }
            for arm in sorted({p.arm for p in points})
        },
        unfinished=unfinished,
    )


def crossing(points: Sequence[Point], task: str, level: float) -> float | None:
    """Labels of a task at which the mean over draws first reaches a level; None: never."""
    by: dict[int, list[float]] = {}
    for p in points:
        if p.n.get(task):
            by.setdefault(p.labels.get(task, 0), []).append(p.right[task] / p.n[task])
    before: tuple[float, float] | None = None
    for labels, values in sorted(by.items()):
        at = (float(np.log(max(labels, 1))), float(np.mean(values)))
        if at[1] >= level:
            if before is None or at[1] == before[1]:
                return float(labels)
            share = (level - before[1]) / (at[1] - before[1])
            return float(np.exp(before[0] + share * (at[0] - before[0])))
        before = at
    return None


def lines(curves: Curves) -> list[str]:
    """For people: a row an arm, then the crossings by task."""
    out = ["accuracy, macro over modalities, mean (lowest to highest draw)"]
    levels = sorted({p.shots for p in curves.points})
    out.append(f"{'':<12}" + "".join(f"{_shots(k):>20}" for k in levels))
    for arm in curves.crossings:
        cells = []
        for k in levels:
            v = curves.accuracy(arm, k)
            low, high = (min(v), max(v)) if v else (0.0, 0.0)
            text = f"{100 * np.mean(v):.1f} ({100 * low:.1f}–{100 * high:.1f})" if v else "–"
            cells.append(f"{text:>20}")
        out.append(f"{arm:<12}" + "".join(cells))
    out += ["", "labels of the task until the specialist is matched (–: never)"]
    head = f"{'task':<28}{'specialist':>11}"
    out.append(head + "".join(f"{a:>12}" for a in curves.crossings))
    for task, level in sorted(curves.specialist.items()):
        met = [curves.crossings[a][task] for a in curves.crossings]
        cells = ["–" if m is None else f"{m:.0f}" for m in met]
        out.append(f"{task:<28}{100 * level:>10.1f} " + "".join(f"{c:>12}" for c in cells))
    if curves.unfinished:
        out.append(f"{curves.unfinished} generalists are still to train: run it again to go on")
    return out


def _asked(workspace: Workspace, cases: Cases, tasks: Sequence[str]) -> _Asked:
    test = cases.take(evaluated_rows(cases))
    has = np.array([c.label in c.options and c.task in tasks for c in test], bool)
    if not has.any():
        raise UserError(
            "no evaluated case has a task that the fleet was trained on, with options and a label",
            hint="curbside eval few-shot --cases MANIFEST --out DIR",
        )
    test = test.take(np.flatnonzero(has))
    return _Asked(test, workspace.features(test, "encoding evaluated cases"))


def _linear(
    built: Cases, features: Features, test: _Asked, shots: int, seed: int
) -> tuple[NDArray[np.bool_], float]:
    """Logistic regression on pooled features: right on each evaluated case, and seconds."""
    from curbside.agents.examples import Examples
    from curbside.agents.heads import Head

    begun = time.perf_counter()
    usable = features.usable & (built.roles == "train") & (built.tasks != "")
    rows = np.flatnonzero(usable & (built.labels != ""))
    few = Examples(
        rows,
        np.array(features.digests, np.str_)[rows],
        built.modalities[rows],
        built.tasks[rows],
        built.labels[rows],
        {},
    ).few(shots, seed=seed)
    right = np.zeros(len(test.cases), bool)
    for task, at in _by_task(test.cases).items():
        own = few.rows[few.tasks == task]
        head = Head.fit(features.pooled[own], built.labels[own])
        for i in at.tolist():
            case = test.cases[i]
            p = head.probabilities(test.features.pooled[i : i + 1], case.options)[0]
            right[i] = case.options[int(p.argmax())] == case.label
    return right & test.features.usable, time.perf_counter() - begun


def _generalist(
    workspace: Workspace,
    built: Cases,
    features: Features,
    test: _Asked,
    folder: Path,
    shots: int,
    seed: int,
) -> tuple[NDArray[np.bool_], float]:
    """A LoRA generalist, trained as the fleet's: right on each evaluated case, and seconds."""
    from curbside.agents.fleet import Fleet
    from curbside.agents.train import train_fleet

    begun = time.perf_counter()
    # nobody is a specialist here; what was trained at another point is kept where it is the same
    few = {"shots": shots, "seed": seed, "specialist_minimum": 10**9}
    fleet = workspace.config.fleet.model_copy(update=few)
    where = folder / "fleet"
    train_fleet(
        built,
        features,
        workspace.config.model_copy(update={"fleet": fleet}),
        where,
        source=workspace.source,
        text=workspace.text,
        twin=False,
    )
    name = "generalist-full" if shots >= ALL else "generalist-16"
    agent = Fleet.load(where, workspace.source, workspace.text).agents[name]
    matrix = read_matrix(
        {name: agent},
        test.cases.studies(),
        [c.label for c in test.cases],
        images=test.features.digests,
        folder=folder / "responses",
        label=f"{_shots(shots)} a label, draw {seed}",
    )
    return matrix.correct[:, 0], time.perf_counter() - begun


def _by_task(cases: Cases) -> Mapping[str, NDArray[np.intp]]:
    return {str(t): np.flatnonzero(cases.tasks == t) for t in np.unique(cases.tasks)}


def _labels(built: Cases, shots: int) -> dict[str, int]:
    """Training cases of each task when a label has at most so many."""
    out: dict[str, int] = {}
    train = built.take(np.flatnonzero((built.roles == "train") & (built.tasks != "")))
    pairs, counts = np.unique(np.stack([train.tasks, train.labels]), axis=1, return_counts=True)
    for task, n in zip(pairs[0].tolist(), counts.tolist(), strict=True):
        out[task] = out.get(task, 0) + min(n, shots)
    return out


def _path(folder: Path, arm: str, shots: int, seed: int) -> Path:
    return folder / "points" / f"{arm}-{_shots(shots)}-{seed}.json"


def _shots(shots: int) -> str:
    return "all" if shots >= ALL else str(shots)


def _known(folder: Path, key: str, arm: str, shots: int, seed: int) -> Point | None:
    """A point made earlier from the same cases; a damaged one is made again."""
    try:
        point = Point.model_validate_json(_path(folder, arm, shots, seed).read_bytes())
    except (OSError, ValidationError):
        return None
    return point if point.key == key else None


def _keep(
    folder: Path,
    key: str,
    arm: str,
    shots: int,
    seed: int,
    right: NDArray[np.bool_],
    test: Cases,
    built: Cases,
    seconds: float,
) -> Point:
    rows = _by_task(test)
    point = Point(
        key=key,
        arm=arm,
        shots=shots,
        seed=seed,
        right={t: int(right[at].sum()) for t, at in rows.items()},
        n={t: len(at) for t, at in rows.items()},
        labels=_labels(built, shots),
        seconds=round(seconds, 1),
    )
    write_text(_path(folder, arm, shots, seed), json.dumps(point.model_dump(), indent=1) + "\n")
    return point
