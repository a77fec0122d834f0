"""The policy lab's numbers from a run: curves, calibration, regret by cause.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from curbside.evals.schema import Summary
from curbside.ui.runs import Replay, Run

__all__ = ["SHOWN", "cost_points", "deferral_lines", "regret_causes", "reliability_curves"]

#: Arms in the lab's curves, those that answer everything.
SHOWN = (
    "S",
    "Gfull",
    "E",
    "E-consult",
    "H-tier",
    "H-competence",
    "H-cascade",
    "H-consult",
    "linear-full",
)
_BINS = 8


def deferral_lines(summary: Summary, gate: str) -> dict[str, Sequence[float | None]]:
    """Arm → net benefit at the summary's ``curve_budgets`` under one gate."""
    return {
        a: summary.deferral_curves[a][gate]
        for a in SHOWN
        if gate in summary.deferral_curves.get(a, {})
    }


def cost_points(summary: Summary) -> list[tuple[str, str, float, float, float, float]]:
    """(arm, kind, calls, accuracy, low, high) of the arms that can be shown."""
    out = []
    for name in (*SHOWN, "G16", "random", "case-oracle"):
        arm = summary.arms.get(name)
        if arm is None:
            continue
        a = arm.accuracy
        calls, value, low, high = arm.cost.value, a.value, a.ci_low, a.ci_high
        if calls is not None and value is not None and low is not None and high is not None:
            out.append((name, str(arm.kind), calls, value, low, high))
    return out


def reliability_curves(
    run: Run,
) -> Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[int]]]:
    """Serving agent → (mean confidence, share right, n) in bins of equal size.

    Known cases that the agent read; agents with fewer than ten a bin are left out.
    """
    assert run.recording is not None
    matrix, out = run.recording.matrix, {}
    for j, name in enumerate(run.recording.agents):
        rows = np.flatnonzero(matrix.read[:, j] & run.frame.scored)
        if len(rows) < 10 * _BINS:
            continue
        confidence, right = matrix.confidence[rows, j], matrix.correct[rows, j]
        parts = np.array_split(np.argsort(confidence, kind="stable"), _BINS)
        out[name] = (
            [float(confidence[b].mean()) for b in parts],
            [float(right[b].mean()) for b in parts],
            [len(b) for b in parts],
        )
    return out


def regret_causes(run: Run, r: Replay) -> list[tuple[str, int, bool]]:
    """Known cases that were not answered rightly, by cause: (cause, cases, the router's fault).

    A case is the router's fault only where some serving agent was right.
    """
    assert run.recording is not None and run.known is not None
    f, matrix = run.frame, run.recording.matrix
    g = run.recording.agents.index(run.known.generalist)
    lost = f.scored & ~r.right
    any_right = matrix.correct.any(axis=1)
    several = (r.weights > 0).sum(axis=1) > 1
    specialist = (r.reader >= 0) & (r.reader != g)
    lost_alone = lost & any_right & r.answered & (f.predicted == f.modality) & ~several
    wrong_modality = f.predicted != f.modality
    novel = f.novel & r.answered
    masks = (
        ("held, and the reader was right", lost & any_right & ~r.answered, True),
        ("modality taken wrongly", lost & any_right & r.answered & wrong_modality, True),
        (
            "sent to the generalist, another was right",
            lost_alone & ~specialist,
            True,
        ),
        (
            "sent to the specialist, another was right",
            lost_alone & specialist,
            True,
        ),
        (
            "averaged, and one alone was right",
            lost & any_right & r.answered & ~wrong_modality & several,
            True,
        ),
        ("novel, answered", novel, True),
        ("no agent was right", lost & ~any_right, False),
    )
    return [(cause, int(m.sum()), own) for cause, m, own in masks]
