"""One point of a few-shot curve: an arm trained with so many labels, read, and kept as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from curbside.evals.curves import ALL, Point, shots_name
from curbside.evals.matrix import read_matrix
from curbside.storage import write_text

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.features import Features
    from curbside.router.workspace import Workspace

__all__ = ["Asked", "Keeper", "Made", "generalist", "linear"]


@dataclass(frozen=True)
class Asked:
    """The evaluated cases with a task, and their features."""

    cases: Cases
    features: Features


@dataclass(frozen=True)
class Made:
    """What training one point gave and took."""

    right: NDArray[np.bool_]
    trainable: int
    seconds: float
    peak_mib: float


def linear(built: Cases, features: Features, test: Asked, shots: int, seed: int) -> Made:
    """Logistic regression on pooled features, a head a task."""
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
    return Made(right & test.features.usable, learned, meter.seconds, meter.peak_mib)


def generalist(
    workspace: Workspace,
    built: Cases,
    features: Features,
    test: Asked,
    folder: Path,
    shots: int,
    seed: int,
) -> Made:
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
        label=f"{shots_name(shots)} a label, draw {seed}",
    )
    cost = opened.build_cost[name]
    return Made(matrix.correct[:, 0], cost.trainable_parameters, cost.train_seconds, cost.peak_mib)


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


class Keeper:
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

    def keep(self, arm: str, shots: int, seed: int, made: Made) -> Point:
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
        return self.folder / "points" / f"{arm}-{shots_name(shots)}-{seed}.json"
