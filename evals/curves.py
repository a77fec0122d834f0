"""Few-shot curves as numbers: points, where one meets a level, what one arm gains on another.

Knows nothing of models or of training (:mod:`curbside.evals.few_shot` does that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from curbside.cases import Cases
from curbside.evals.statistics import draw_groups, interval

__all__ = [
    "ALL",
    "Curves",
    "Gain",
    "Point",
    "crossing",
    "crossings",
    "gains",
    "pooled",
    "shots_name",
]

#: Stands for "all training cases".
ALL = 1_000_000
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
            whole = pooled(p, self.modality)
            kept = [m for m in whole.n if not common or m in self.specialists]
            out.append(float(np.mean([whole.right[m] / whole.n[m] for m in kept])))
        return out


def shots_name(shots: int) -> str:
    """``all`` or the number."""
    return "all" if shots >= ALL else str(shots)


def pooled(point: Point, modality: Mapping[str, str]) -> Point:
    """The same by modality instead of by task."""
    sums: dict[str, dict[str, int]] = {"right": {}, "n": {}, "labels": {}}
    for task in point.n:
        for name, into in sums.items():
            m = modality[task]
            into[m] = into.get(m, 0) + getattr(point, name).get(task, 0)
    return point.model_copy(update=sums)


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


def crossings(
    points: Sequence[Point], arms: Sequence[str], levels: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """Arm → task (or modality) → labels at which it meets that name's level; None: never."""
    return {
        arm: {
            name: crossing([p for p in points if p.arm == arm], name, level)
            for name, level in levels.items()
        }
        for arm in arms
    }


def gains(points: Sequence[Point], test: Cases, modality: Mapping[str, str]) -> list[Gain]:
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
