"""Around the registered numbers: other deferral rates, other worths.  Sample values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from curbside.evals.frame import Frame
from curbside.evals.gates import BUDGETS, GATES, gate_order, gated
from curbside.evals.metrics import Utility
from curbside.evals.protocol import Scored, is_gated

__all__ = ["CURVE_BUDGETS", "SWEEP", "deferral_curves", "sweep_worths"]

Float = NDArray[np.float32]

CURVE_BUDGETS = tuple(round(0.025 * i, 3) for i in range(21))
#: Worths that are swept one at a time around the registered ones.
SWEEP: Mapping[str, tuple[float, ...]] = {
    "right": (0.5, 1.0, 2.0),
    "wrong": (-0.5, -1.0, -2.0, -4.0),
    "novel_answered": (-0.5, -1.0, -2.0, -4.0),
    "referral": (0.0, -0.1, -0.25, -0.5),
}


def deferral_curves(
    by_draw: Sequence[Mapping[str, Scored]],
    frame: Frame,
    familiar: NDArray[np.float64],
    weights: Float,
) -> dict[str, dict[str, list[float]]]:
    """Arm → gate → net benefit at ``CURVE_BUDGETS``, in the sample."""
    out: dict[str, dict[str, list[float]]] = {}
    for name, scored in by_draw[0].items():
        if not is_gated(scored.arm) or not len(frame):
            continue
        out[name] = {}
        for gate in GATES:
            each = []
            for d in by_draw:
                o = d[name].outcomes
                order = gate_order(gate, frame, o, familiar)
                each.append(gated(order, frame, o, weights, CURVE_BUDGETS).net_benefit[0])
            out[name][gate] = [float(v) for v in np.mean(each, axis=0)]
    return out


def sweep_worths(
    by_draw: Sequence[Mapping[str, Scored]],
    frame: Frame,
    familiar: NDArray[np.float64],
    weights: Float,
    names: Sequence[str],
) -> list[dict[str, float | str]]:
    """P2 in the sample when one worth is changed at a time."""
    if not len(frame):
        return []
    out: list[dict[str, float | str]] = []
    for key, levels in SWEEP.items():
        for level in levels:
            utility = Utility(**{key: level})
            row: dict[str, float | str] = {"worth": key, "value": level}
            for name in names:
                best = -np.inf
                for gate in GATES:
                    each = []
                    for d in by_draw:
                        o = d[name].outcomes
                        order = gate_order(gate, frame, o, familiar)
                        each.append(
                            gated(order, frame, o, weights, BUDGETS, utility).net_benefit.mean()
                        )
                    best = max(best, float(np.mean(each)))
                row[name] = best
            out.append(row)
    return out
