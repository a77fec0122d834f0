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

from curbside.agents.trunk import trunk_parameters
from curbside.errors import UserError
from curbside.evals.frame import evaluated_rows
from curbside.evals.matrix import read_matrix
from curbside.evals.statistics import draw_groups, interval
from curbside.storage import write_text
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.features import Features
    from curbside.router.workspace import Workspace

__all__ = [
    "ALL",
    "SHOTS",
    "Curves",
    "Gain",
    "Point",
    "crossing",
    "few_shot_curves",
    "lines",
    "parse_shots",
]

#: Stands for "all training cases".
ALL = 1_000_000
SHOTS = (1, 4, 16, 64, ALL)
#: Raise when a point's making changes.
_FORMAT = 1
_REPLICATES = 2000


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Frozen):
    """One arm trained once: ``right`` and ``n`` by task, labels used by task, what it took.

    Args:
        outcomes: a ``1`` or ``0`` a read case, in the manifest's order.
        trainable: numbers learned; ``seconds`` of training; ``peak_mib`` of resident memory.
    """

    key: str
    arm: str
    shots: int
    seed: int
    right: dict[str, int]
    n: dict[str, int]
    labels: dict[str, int]
    outcomes: str
    trainable: int
    seconds: float
    peak_mib: float


class Gain(_Frozen):
    """Accuracy of the generalist minus that of the linear probe at equal labels, with 95 %."""

    shots: int
    draws: int
    delta: float
    low: float
    high: float


class Curves(_Frozen):
    """All points, the specialists' accuracy, and where the generalist meets it.

    Args:
        specialist: task → accuracy of its modality's specialist, trained on all its cases.
        crossings: arm → task → labels of that task at which the mean over draws first reaches
            the specialist (straight lines between points, in log labels); None: never.
        specialists: modality → the same over all its tasks; ``met``: arm → modality → labels.
        gains: by shots, over the cases of all draws, paired and resampled by group.
        unfinished: generalist points that the budget did not reach.
    """

    points: list[Point]
    specialist: dict[str, float]
    modality: dict[str, str]
    crossings: dict[str, dict[str, float | None]]
    specialists: dict[str, float]
    met: dict[str, dict[str, float | None]]
    gains: list[Gain]
    unfinished: int

    def of(self, arm: str, shots: int) -> list[Point]:
        """The points of an arm at a number of shots, one a draw."""
        return [p for p in self.points if (p.arm, p.shots) == (arm, shots)]

    def accuracy(self, arm: str, shots: int, *, common: bool = False) -> list[float]:
        """Macro over modalities (of their tasks' accuracies pooled), one value a draw.

        Args:
            common: only modalities that have a specialist.
        """
        out = []
        for p in self.of(arm, shots):
            whole = _pooled(p, self.modality)
            kept = [m for m in whole.n if not common or m in self.specialists]
            out.append(float(np.mean([whole.right[m] / whole.n[m] for m in kept])))
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
    specialists: dict[str, float] = {}
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
        specialists[m] = float(read.correct[:, 0].mean())
        for task in sorted(set(tasks[rows].tolist())):
            at = np.flatnonzero(tasks[rows] == task)
            specialist[task] = float(read.correct[at, 0].mean())
    made = content_hash(f"{_FORMAT}", features.fingerprint, built.digest, test.cases.digest)
    keeper = _Keeper(folder, made, test.cases, built)
    points: list[Point] = []
    unfinished = 0
    for seed in range(draws):
        for k in shots:
            linear = keeper.known("linear", k, seed)
            points.append(
                linear or keeper.keep("linear", k, seed, _linear(built, features, test, k, seed))
            )
            generalist = keeper.known("generalist", k, seed)
            if generalist is None and (time.perf_counter() - started) / 60 > minutes:
                unfinished += 1
                continue
            if generalist is None:
                made_now = _generalist(workspace, built, features, test, folder, k, seed)
                generalist = keeper.keep("generalist", k, seed, made_now)
            points.append(generalist)
    arms = sorted({p.arm for p in points})
    pooled = [_pooled(p, modality) for p in points]
    return Curves(
        points=points,
        specialist=specialist,
        modality=modality,
        crossings=_crossings(points, arms, specialist),
        specialists=specialists,
        met=_crossings(pooled, arms, specialists),
        gains=_gains(points, test.cases, modality),
        unfinished=unfinished,
    )


def _crossings(
    points: Sequence[Point], arms: Sequence[str], levels: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    return {
        arm: {
            name: crossing([p for p in points if p.arm == arm], name, level)
            for name, level in levels.items()
        }
        for arm in arms
    }


def _pooled(point: Point, modality: Mapping[str, str]) -> Point:
    """The same by modality instead of by task."""
    sums: dict[str, dict[str, int]] = {"right": {}, "n": {}, "labels": {}}
    for task in point.n:
        for name, into in sums.items():
            m = modality[task]
            into[m] = into.get(m, 0) + getattr(point, name).get(task, 0)
    return point.model_copy(update=sums)


def _gains(points: Sequence[Point], test: Cases, modality: Mapping[str, str]) -> list[Gain]:
    """Macro over modalities; draws are averaged, groups are resampled within each modality."""
    named = np.array([c.own_group for c in test], np.str_)
    groups, group = np.unique(named, return_inverse=True)
    names, of = np.unique([modality[t] for t in test.tasks.tolist()], return_inverse=True)
    strata = np.zeros(len(groups), np.intp)
    strata[group] = of
    counts = draw_groups(len(groups), _REPLICATES, 0, strata)[:, group]
    out = []
    for k in sorted({p.shots for p in points}):
        by = {(p.arm, p.seed): p for p in points if p.shots == k}
        both = sorted(s for arm, s in by if arm == "generalist" and ("linear", s) in by)
        if not both:
            continue
        each = [_right(by["generalist", s]) - _right(by["linear", s]) for s in both]
        difference = np.mean(each, axis=0)
        drawn = np.mean(
            [
                counts[:, of == m] @ difference[of == m] / np.maximum(counts[:, of == m].sum(1), 1)
                for m in range(len(names))
            ],
            axis=0,
        )
        delta, low, high = interval(np.asarray(drawn, np.float32))
        out.append(Gain(shots=k, draws=len(both), delta=delta, low=low, high=high))
    return out


def _right(point: Point) -> NDArray[np.float32]:
    return np.frombuffer(point.outcomes.encode(), np.uint8).astype(np.float32) - ord("0")


def parse_shots(text: str) -> tuple[int, ...]:
    """``"1,4,all"`` as numbers, ascending.  Raises UserError."""
    parts = [p.strip() for p in text.split(",")]
    if not all(p == "all" or (p.isdecimal() and 0 < int(p) < ALL) for p in parts):
        raise UserError(
            f"--shots {text!r} is no list of numbers from 1 on, or 'all'", hint="--shots 1,4,16,all"
        )
    return tuple(sorted({ALL if p == "all" else int(p) for p in parts}))


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
    out += ["", "what it takes: labels, share of numbers that are learned, seconds, peak memory"]
    for arm in curves.crossings:
        for k in levels:
            made = curves.of(arm, k)
            if made:
                out.append(f"{arm:<12}{_shots(k):>4}  {_taken(made)}")
    out += ["", "generalist minus linear probe at equal labels, points, 95 % by group"]
    out += [
        f"{_shots(g.shots):>4}  {100 * g.delta:+.1f} [{100 * g.low:+.1f}, {100 * g.high:+.1f}]"
        f"  {g.draws} draws  {_said(g)}"
        for g in curves.gains
    ] or ["  not assessable yet"]
    out += ["", "labels of the modality until its specialist is matched (–: never)"]
    out.append(f"{'modality':<28}{'specialist':>11}" + "".join(f"{a:>12}" for a in curves.met))
    for name, level in sorted(curves.specialists.items()):
        cells = ["–" if (m := curves.met[a][name]) is None else f"{m:.0f}" for a in curves.met]
        out.append(f"{name:<28}{100 * level:>10.1f} " + "".join(f"{c:>12}" for c in cells))
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


def _taken(points: Sequence[Point]) -> str:
    """Labels, share learned, seconds (range over draws) and memory of one arm's points."""
    whole = trunk_parameters()
    share = points[0].trainable / (whole + points[0].trainable)
    seconds = [p.seconds for p in points]
    return (
        f"{sum(points[0].labels.values()):>6} labels  {100 * share:5.1f} %  "
        f"{min(seconds):.0f}–{max(seconds):.0f} s  {max(p.peak_mib for p in points) / 1024:.1f} GiB"
    )


def _said(gain: Gain) -> str:
    if gain.low > 0:
        return "a significant gain"
    return "a significant loss" if gain.high < 0 else "no significant gain"


def _asked(workspace: Workspace, cases: Cases, tasks: Sequence[str]) -> _Asked:
    test = cases.take(evaluated_rows(cases))
    has = np.array([c.label in c.options and c.task in tasks for c in test], bool)
    if not has.any():
        raise UserError(
            "no evaluated case has a task that the fleet was trained on, with options and a label",
            hint="curbside finetune curve --cases MANIFEST --out DIR",
        )
    test = test.take(np.flatnonzero(has))
    return _Asked(test, workspace.features(test, "encoding evaluated cases"))


@dataclass(frozen=True)
class _Made:
    """What training one point gave and took."""

    right: NDArray[np.bool_]
    trainable: int
    seconds: float
    peak_mib: float


def _linear(built: Cases, features: Features, test: _Asked, shots: int, seed: int) -> _Made:
    """Logistic regression on pooled features."""
    from curbside.agents.cost import metered
    from curbside.agents.examples import Examples
    from curbside.agents.heads import Head

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
    heads = {}
    with metered() as meter:
        for task in _by_task(test.cases):
            own = few.rows[few.tasks == task]
            heads[task] = Head.fit(features.pooled[own], built.labels[own])
    right = np.zeros(len(test.cases), bool)
    for task, at in _by_task(test.cases).items():
        for i in at.tolist():
            case = test.cases[i]
            x = test.features.pooled[i : i + 1]
            p = heads[task].probabilities(x, case.options)[0]
            right[i] = case.options[int(p.argmax())] == case.label
    learned = sum(h.weight.size + h.bias.size for h in heads.values())
    return _Made(right & test.features.usable, learned, meter.seconds, meter.peak_mib)


def _generalist(
    workspace: Workspace,
    built: Cases,
    features: Features,
    test: _Asked,
    folder: Path,
    shots: int,
    seed: int,
) -> _Made:
    """A LoRA generalist, trained as the fleet's."""
    from curbside.agents.fleet import Fleet
    from curbside.agents.train import train_fleet

    name, serves = ("generalist-full", "gfull") if shots >= ALL else ("generalist-16", "g16")
    few = {"shots": shots, "seed": seed, "generalist": serves}
    fleet = workspace.config.fleet.model_copy(update=few)
    where = folder / "fleet"
    train_fleet(
        built,
        features,
        workspace.config.model_copy(update={"fleet": fleet}),
        where,
        source=workspace.source,
        text=workspace.text,
        only=(name,),
    )
    opened = Fleet.load(where, workspace.source, workspace.text)
    matrix = read_matrix(
        {name: opened.agents[name]},
        test.cases.studies(),
        [c.label for c in test.cases],
        images=test.features.digests,
        folder=folder / "responses",
        label=f"{_shots(shots)} a label, draw {seed}",
    )
    cost = opened.build_cost[name]
    return _Made(matrix.correct[:, 0], cost.trainable_parameters, cost.train_seconds, cost.peak_mib)


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


def _shots(shots: int) -> str:
    return "all" if shots >= ALL else str(shots)


class _Keeper:
    """Points as files: made once from the same cases, then read."""

    def __init__(self, folder: Path, key: str, test: Cases, built: Cases) -> None:
        self.folder, self.key, self.test, self.built = folder, key, test, built

    def known(self, arm: str, shots: int, seed: int) -> Point | None:
        """A point made earlier from the same cases; a damaged one is made again."""
        try:
            point = Point.model_validate_json(self._path(arm, shots, seed).read_bytes())
        except (OSError, ValidationError):
            return None
        return point if point.key == self.key else None

    def keep(self, arm: str, shots: int, seed: int, made: _Made) -> Point:
        """Write a point.  Raises StorageError."""
        rows = _by_task(self.test)
        point = Point(
            key=self.key,
            arm=arm,
            shots=shots,
            seed=seed,
            right={t: int(made.right[at].sum()) for t, at in rows.items()},
            n={t: len(at) for t, at in rows.items()},
            labels=_labels(self.built, shots),
            outcomes="".join("01"[r] for r in made.right.astype(int).tolist()),
            trainable=made.trainable,
            seconds=round(made.seconds, 1),
            peak_mib=round(made.peak_mib, 1),
        )
        body = json.dumps(point.model_dump(), indent=1) + "\n"
        write_text(self._path(arm, shots, seed), body)
        return point

    def _path(self, arm: str, shots: int, seed: int) -> Path:
        return self.folder / "points" / f"{arm}-{_shots(shots)}-{seed}.json"
