"""Metrics of arms, for the sample and for all its bootstrap replicates at once.

Every function takes ``counts``, float32 (r, g): how often each group is drawn in each of r
replicates; row 0 is the sample itself (all ones), so a point estimate and its replicates
come from the same lines.  Everything is macro over modalities: the mean of the modalities'
own numbers, whatever their sizes.  NaN stands for "no such case" and becomes null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame

__all__ = ["METRICS", "NOVEL_PREVALENCE", "Scope", "Scorer", "Sums", "Utility", "ratio"]

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

#: Share of novel cases that ``net_benefit`` is about, whatever their share in the sample.
NOVEL_PREVALENCE = 0.10

METRICS = (
    "accuracy",
    "balanced_accuracy",
    "coverage",
    "selective_accuracy",
    "net_benefit",
    "cost",
    "latency_ms",
)


@dataclass(frozen=True)
class Utility:
    """What an outcome is worth, in units of one right answer."""

    right: float = 1.0
    wrong: float = -1.0
    novel_answered: float = -1.0
    referral: float = -0.25

    def of(self, right: Float, answered: Float, novel: Flags) -> Float:
        """Expected worth of each case, float32 (n,)."""
        known = self.right * right + self.wrong * (answered - right)
        gained = np.where(novel, self.novel_answered * answered, known)
        return np.asarray(gained + self.referral * (1 - answered), np.float32)


@dataclass(frozen=True)
class Scope:
    """Some cells: a tier, a stratum, a modality.  ``name`` as in ``summary.json``."""

    kind: str
    name: str
    cells: Flags


@dataclass(frozen=True)
class Sums:
    """Totals of one arm by cell and replicate, each float32 (cells, r)."""

    right: Float
    answered: Float
    worth: Float
    cost: Float
    latency_ms: Float


def ratio(over: Float, under: Float) -> Float:
    """over / under, NaN where under is 0."""
    return np.asarray(
        np.divide(over, under, out=np.full(over.shape, np.nan, np.float32), where=under > 0),
        np.float32,
    )


def mean_known(values: Float) -> Float:
    """Mean over axis 0 of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0).astype(np.float32))


class Scorer:
    """Sums by cell: cases that share modality, tier, task and label are one cell.

    Args:
        frame: the asked cases (scored or novel), n rows.
        counts: float32 (r, g), g the frame's groups.
        utility: what ``net_benefit`` counts.
    """

    def __init__(self, frame: Frame, counts: Float, utility: Utility | None = None) -> None:
        self.frame, self.counts, self.utility = frame, counts, utility or Utility()
        keys = np.stack([frame.modality, frame.tier, frame.task, frame.label])
        keys[2:, frame.novel] = ""  # a novel case has no truth, so its own task is no cell
        if len(frame):
            cells, self._cell = np.unique(keys, axis=1, return_inverse=True)
        else:
            cells, self._cell = keys, np.zeros(0, np.intp)
        self._cell = self._cell.ravel().astype(np.intp)
        self.modality, self.tier, self.task = cells[0], cells[1], cells[2]
        self.n_cells = cells.shape[1]
        self.known = self._any(frame.scored)
        self.novel = self._any(frame.novel)
        self.rare_finding = self._any(frame.rare_finding)
        self.confounded = self._any(frame.confounded)
        self.modalities = tuple(sorted(set(self.modality.tolist())))
        self.count = self._sum(np.ones(len(frame), np.float32))

    def _any(self, flags: Flags) -> Flags:
        return np.bincount(self._cell, flags, self.n_cells) > 0

    def _sum(self, values: Float) -> Float:
        """Sum of a per-case number by cell and replicate, float32 (cells, r)."""
        shape = (self.n_cells, self.counts.shape[1])
        table = sparse.csr_matrix((values, (self._cell, self.frame.group)), shape=shape)
        return np.asarray(table @ self.counts.T, np.float32)

    def sums(self, outcomes: Outcomes) -> Sums:
        """Totals of one arm."""
        worth = self.utility.of(outcomes.right, outcomes.answered, self.frame.novel)
        return Sums(
            self._sum(outcomes.right),
            self._sum(outcomes.answered),
            self._sum(worth),
            self._sum(outcomes.cost),
            self._sum(outcomes.latency_ms),
        )

    # -- what is averaged ---------------------------------------------------------------

    def scopes(self) -> Iterator[Scope]:
        """Tiers (with the stratum ``rare_finding``) and modalities that have cases."""
        for tier in ("common", "rare", "novel"):
            cells = (self.tier == tier) & (self.known | self.novel)
            if cells.any():
                yield Scope("tier", tier, cells)
        if self.rare_finding.any():
            yield Scope("tier", "rare_finding", self.rare_finding)
        for m in self.modalities:
            yield Scope("modality", m, self.modality == m)

    def metric(self, name: str, sums: Sums, cells: Flags | None = None) -> Float:
        """One of ``METRICS`` over some cells (default: all of the known ones), float32 (r,).

        ``net_benefit`` over everything weighs novel cases to their prevalence.
        """
        if name == "net_benefit" and cells is None:
            return self.net_benefit(sums)
        where = self.known if cells is None else cells
        if name == "accuracy":
            return self._macro(sums.right, self.count, where & self.known)
        if name == "balanced_accuracy":
            return self._balanced(sums.right, where & self.known)
        if name == "selective_accuracy":
            return self._macro(sums.right, sums.answered, where & self.known)
        over = {
            "coverage": sums.answered,
            "net_benefit": sums.worth,
            "cost": sums.cost,
            "latency_ms": sums.latency_ms,
        }[name]
        return self._macro(over, self.count, where)

    def net_benefit(self, sums: Sums, prevalence: float = NOVEL_PREVALENCE) -> Float:
        """Mean worth: known modalities share 1 − prevalence evenly, novel ones the rest."""
        known = self._macro(sums.worth, self.count, self.known)
        if not self.novel.any():
            return known
        novel = self._macro(sums.worth, self.count, self.novel)
        if not self.known.any():
            return novel
        return np.asarray((1 - prevalence) * known + prevalence * novel, np.float32)

    def _macro(self, over: Float, under: Float, cells: Flags) -> Float:
        by = _grouping(self.modality, cells)
        return mean_known(ratio(by @ over, by @ under))

    def _balanced(self, right: Float, cells: Flags) -> Float:
        """Mean recall of the labels of a task, then of tasks, then of modalities."""
        recall = ratio(right, self.count)
        tasks = sorted(
            {(m, t) for m, t in zip(self.modality[cells], self.task[cells], strict=True)}
        )
        if not tasks:
            return np.full(self.counts.shape[0], np.nan, np.float32)
        by_task = np.stack(
            [mean_known(recall[cells & (self.modality == m) & (self.task == t)]) for m, t in tasks]
        )
        of = np.array([m for m, _ in tasks])
        return mean_known(np.stack([mean_known(by_task[of == m]) for m in sorted(set(of))]))

    # -- AUROC --------------------------------------------------------------------------

    def auroc(
        self, outcomes: Outcomes, truth: NDArray[np.int16], cells: Flags | None = None
    ) -> Float:
        """Area under the ROC curve, each label against the rest, macro over labels, tasks and
        modalities, float32 (r,); NaN for arms that draw their answer.

        Args:
            truth: int16 (n,), index of the true option.
        """
        replicates = self.counts.shape[0]
        if outcomes.probabilities is None:
            return np.full(replicates, np.nan, np.float32)
        where = self.known if cells is None else cells & self.known
        of_case = where[self._cell]
        frame, by_modality = self.frame, []
        for m in sorted(set(frame.modality[of_case].tolist())):
            by_task = []
            for task in sorted(set(frame.task[of_case & (frame.modality == m)].tolist())):
                rows = np.flatnonzero(of_case & (frame.modality == m) & (frame.task == task))
                labels = sorted(set(truth[rows].tolist()))
                if len(labels) < 2:
                    continue
                weight = self.counts[:, frame.group[rows]]
                score = outcomes.probabilities[rows]
                # an unanswered case is as unsure as can be of every label
                areas = [
                    weighted_auroc(score[:, k], truth[rows] == k, weight)
                    for k in (labels if len(labels) > 2 else labels[:1])
                ]
                by_task.append(mean_known(np.stack(areas)))
            if by_task:
                by_modality.append(mean_known(np.stack(by_task)))
        if not by_modality:
            return np.full(replicates, np.nan, np.float32)
        return mean_known(np.stack(by_modality))


def weighted_auroc(score: Float, positive: Flags, weight: Float) -> Float:
    """P(a positive scores above a negative), ties a half, for r weightings at once.

    Args:
        score: (n,).
        positive: bool (n,).
        weight: float32 (r, n).

    Returns:
        float32 (r,), NaN where a side has no weight.
    """
    p, q = score[positive], score[~positive]
    above = (p[:, None] > q[None, :]).astype(np.float32)
    above += 0.5 * (p[:, None] == q[None, :])
    wp, wq = weight[:, positive], weight[:, ~positive]
    return ratio(((wp @ above) * wq).sum(axis=1), wp.sum(axis=1) * wq.sum(axis=1))


def _grouping(names: NDArray[np.str_], cells: Flags) -> Float:
    """float32 (distinct names among the cells, cells): which cell belongs to which name."""
    distinct = sorted(set(names[cells].tolist()))
    return np.array([(names == m) & cells for m in distinct], np.float32).reshape(
        len(distinct), len(names)
    )
