"""When a person should read: the best share to refer, by how good and how dear the person is."""

from __future__ import annotations

import numpy as np

from curbside.evals.detail_schema import PersonRow
from curbside.evals.gates import GATES, gate_order, gated
from curbside.evals.looked import Float, Looked
from curbside.evals.metrics import Utility
from curbside.evals.protocol import OPPONENTS
from curbside.evals.statistics import interval, over_models
from curbside.evals.sweeps import CURVE_BUDGETS

__all__ = ["persons"]

#: P(correct) of the person, and what reading a case costs, in units of one right answer.
PERSON_ACCURACY = (0.8, 0.9, 0.95, 1.0)
PERSON_COST = (0.1, 0.25, 0.5, 1.0)


def persons(x: Looked, everything: Float) -> list[PersonRow]:
    """Every pair of accuracy and cost.  Share and gate are the best on these very cases.

    Args:
        everything: weights of all cases, float32 (r, n).
    """
    weights = everything[:1]
    names = [a for a in dict.fromkeys((x.hybrid, *OPPONENTS)) if a in x.by_draw[0]]
    out = []
    for accuracy in PERSON_ACCURACY:
        for cost in PERSON_COST:
            worth = Utility()
            read = worth.right * accuracy + worth.wrong * (1 - accuracy) - cost
            utility = Utility(referral=read)
            best: dict[str, tuple[float, float | None]] = {}
            gate_of: dict[str, str] = {}
            for name in names:
                curves = []
                for gate in GATES:
                    each = [
                        gated(
                            gate_order(gate, x.frame, d[name].outcomes, x.familiar),
                            x.frame,
                            d[name].outcomes,
                            weights,
                            CURVE_BUDGETS,
                            utility,
                        ).net_benefit[0]
                        for d in x.by_draw
                    ]
                    curves.append(np.mean(each, axis=0))
                curve = np.max(curves, axis=0)
                at = int(curve.argmax())
                gate_of[name] = GATES[int(np.argmax([c[at] for c in curves]))]
                best[name] = (CURVE_BUDGETS[at], float(curve[at]))
            share = best[x.hybrid][0]
            worths = [
                gated(
                    gate_order(gate_of[x.hybrid], x.frame, d[x.hybrid].outcomes, x.familiar),
                    x.frame,
                    d[x.hybrid].outcomes,
                    everything,
                    (share,),
                    utility,
                ).net_benefit[:, 0]
                for d in x.by_draw
            ]
            _, low, high = interval(over_models(worths, x.models))
            out.append(PersonRow(accuracy=accuracy, cost=cost, best=best, ci_low=low, ci_high=high))
    return out
