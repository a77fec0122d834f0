"""Everything beside the verdict, from scored arms to the key ``details`` of the summary."""

from __future__ import annotations

import numpy as np

from curbside.evals.detail_arms import arm_detail, reliability_of, routes, subgroups
from curbside.evals.detail_choosing import conclusions, gains, regrets
from curbside.evals.detail_cost import frontier
from curbside.evals.detail_persons import persons
from curbside.evals.detail_pool import pool
from curbside.evals.detail_schema import Details
from curbside.evals.gates import case_weights
from curbside.evals.looked import Looked
from curbside.evals.protocol import is_gated

__all__ = ["look"]


def look(x: Looked) -> Details | None:
    """All of it; None where no case has a truth."""
    if not len(x.rows):
        return None
    known = case_weights(x.frame, x.counts, prevalence=0.0)[:, x.rows]
    everything = case_weights(x.frame, x.counts)
    first = x.by_draw[0]
    accuracy = {
        a: x.each(a, lambda o: np.asarray(known @ o.right[x.rows], np.float32)) for a in first
    }
    declared = 0 if x.facts is None else int((x.facts.must_not_miss & x.frame.scored).sum())
    return Details(
        arms={a: arm_detail(x, a, known, everything) for a in first if is_gated(first[a].arm)},
        gain=gains(x, known, accuracy),
        regret=regrets(x, known, accuracy),
        frontier=frontier(x, known, accuracy),
        routes=routes(x),
        conclusions=conclusions(x, accuracy),
        pool=pool(x, known, accuracy[x.best_single]),
        persons=persons(x, everything),
        reliability={a: reliability_of(x, a) for a in dict.fromkeys((x.hybrid, x.best_single))},
        subgroups=subgroups(x),
        must_not_miss_declared=declared,
    )
