"""What the details of a run are looked up in: its frame, replicates and scored arms.

The modules ``detail_*`` each turn a :class:`Looked` into one part of the summary's ``details``;
numbers with intervals are recomputed in every replicate of the same draw as the registered
comparisons, and with several trained draws their mean is taken.  Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Outcomes, Roster
from curbside.evals.frame import Frame
from curbside.evals.protocol import Scored, Trained
from curbside.evals.schema_base import Estimate
from curbside.evals.statistics import interval, over_models
from curbside.evals.subgroups import CaseFacts

__all__ = ["ROUTERLESS", "Float", "Looked", "estimate", "unknown"]

Float = NDArray[np.float32]

#: Arms that need no router.
ROUTERLESS = ("S", "G16", "Gfull", "linear-full", "linear-16", "E")


@dataclass(frozen=True)
class Looked:
    """What is looked at.

    Args:
        frame: n asked cases; counts: float32 (r, g); models: float32 (r, draws).
        by_draw: for each trained draw, arm → scored.
        flagged: bool (n,), called novel by its p-value.
        familiar: float64 (n,), the order of the novelty gate.
        consulted: colleagues that ``H-consult`` asks.
    """

    frame: Frame
    counts: Float
    models: Float
    by_draw: Sequence[Mapping[str, Scored]]
    trained: Sequence[Trained]
    rosters: Sequence[Roster]
    flagged: NDArray[np.bool_]
    familiar: NDArray[np.float64]
    hybrid: str
    best_single: str
    consulted: tuple[str, ...]
    facts: CaseFacts | None

    @property
    def rows(self) -> NDArray[np.intp]:
        """Known cases with a truth."""
        return np.flatnonzero(self.frame.scored)

    def each(self, name: str, value: Callable[[Outcomes], Float]) -> Float:
        """A number of an arm in every replicate, mean over the trained draws."""
        return over_models([value(d[name].outcomes) for d in self.by_draw], self.models)


def estimate(draws: Float) -> Estimate:
    """The number of the sample with the 95 % interval of its replicates; float32 (r,)."""
    value, low, high = interval(draws)
    return Estimate(value=value, ci_low=low, ci_high=high)


def unknown() -> Estimate:
    """A number that cannot be had."""
    return Estimate(value=None, ci_low=None, ci_high=None)
