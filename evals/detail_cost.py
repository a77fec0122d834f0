"""Accuracy for its cost: the curves of policies above the hull of arms that need no router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from curbside.config import CascadePolicy, ConsultPolicy, PolicyConfig
from curbside.evals import arms as arm_
from curbside.evals.detail_schema import Frontier
from curbside.evals.frontier import aiq, hull
from curbside.evals.looked import ROUTERLESS, Float, Looked, estimate
from curbside.evals.protocol import GFULL
from curbside.evals.statistics import over_models

__all__ = ["frontier"]

_ESCALATE = tuple(round(0.1 * i, 1) for i in range(11))


def frontier(x: Looked, known: Float, accuracy: Mapping[str, Float]) -> Frontier | None:
    """The curves of cascade and consult; None where there is no average to hold them against.

    Args:
        known: weights of known cases, float32 (r, rows).
        accuracy: arm → accuracy in every replicate, float32 (r,).
    """
    if "E" not in accuracy:
        return None
    cost = {
        a: x.each(a, lambda o: np.asarray(known @ o.cost[x.rows], np.float32)) for a in accuracy
    }
    others = [a for a, s in x.by_draw[0].items() if s.arm.kind == "colleague"]
    zero = [a for a in (*ROUTERLESS, "E-consult", *others) if a in accuracy]
    routers = {"cascade": [_point(x, known, CascadePolicy(escalate_below=v)) for v in _ESCALATE]}
    if x.consulted:
        who = x.consulted
        routers["consult"] = [
            _point(x, known, ConsultPolicy(colleagues=who, escalate_below=v)) for v in _ESCALATE
        ]

    def at(replicate: int, points: Sequence[tuple[Float, Float]]) -> NDArray[np.float64]:
        return np.array([(c[replicate], q[replicate]) for c, q in points], np.float64)

    alone = [(cost[a], accuracy[a]) for a in zero]
    costs = [float(c[0]) for points in routers.values() for c, _ in points]
    low, high = min(costs), max(costs)

    def over_costs(points: Sequence[tuple[Float, Float]]) -> Float:
        return np.array([aiq(at(i, points), low, high) for i in range(len(known))], np.float32)

    own, none = {name: over_costs(points) for name, points in routers.items()}, over_costs(alone)
    return Frontier(
        points=[(a, float(cost[a][0]), float(accuracy[a][0])) for a in accuracy],
        zero=[(float(c), float(q)) for c, q in hull(at(0, alone))],
        routers={n: [(float(c[0]), float(q[0])) for c, q in p] for n, p in routers.items()},
        low=low,
        high=high,
        aiq={n: estimate(v) for n, v in own.items()} | {"zero": estimate(none)},
        above_zero={n: estimate(np.asarray(v - none, np.float32)) for n, v in own.items()},
    )


def _point(x: Looked, known: Float, policy: PolicyConfig) -> tuple[Float, Float]:
    """Cost and accuracy of a policy over {S, Gfull, colleagues} in every replicate."""
    who = x.consulted if isinstance(policy, ConsultPolicy) else ()
    scored = [
        arm_.outcomes(
            t.test.matrix,
            arm_.hybrid(
                "curve", policy, t.test.matrix, t.test.assessments, r, GFULL, colleagues=who
            ),
        )
        for t, r in zip(x.trained, x.rosters, strict=True)
    ]
    cost, right = (
        over_models([known @ getattr(o, k)[x.rows] for o in scored], x.models)
        for k in ("cost", "right")
    )
    return cost, right
