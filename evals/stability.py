"""Does the route hold when the picture changes a little?  Each perturbation, case by case.

A case's route is whom the policy asks first and whether it is held as novel; no agent is
called.  Published k-NN routers keep about half of their routes under such changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.encoder import ImageEncoder
from curbside.indexes.features import FeatureSource
from curbside.indexes.perturbations import LARGER, PERTURBATIONS, Pixels
from curbside.indexes.views import PerturbedEncoder
from curbside.responses import ResponseStatus
from curbside.router.policy import Policy, Responses, next_step
from curbside.router.policy_steps import is_novel
from curbside.study import Study

__all__ = ["FLOORS", "Stability", "first_route", "measure_stability", "stability_markdown"]

#: Least share of routes that may stay, small and larger perturbations.
FLOORS = {"small": 0.97, "larger": 0.90}


@dataclass(frozen=True)
class Stability:
    """What one perturbation did.

    Args:
        n: cases.
        same: share with the same route; ``low`` is the lower 95 % bound (Clopper–Pearson,
            one-sided, cases taken for independent).
        gate, modality: share flagged or not flagged alike; taken for the same modality.
        to_novel, from_novel: share newly held as novel, and no longer.
    """

    name: str
    size: str
    n: int
    same: float
    low: float
    gate: float
    modality: float
    to_novel: float
    from_novel: float

    @property
    def holds(self) -> bool:
        """The share is at or above its floor."""
        return self.same >= FLOORS[self.size]


def first_route(assessments: Assessments, policy: Policy, alpha: float) -> NDArray[np.int64]:
    """int64 (n,): whom the policy asks first (as a bit mask), negative where held as novel."""
    n, a = len(assessments), len(assessments.agents)
    nobody = Responses(
        assessments.agents,
        np.full((n, a), int(ResponseStatus.NOT_ASKED), np.int8),
        np.full((n, a), np.nan, np.float32),
        np.full((n, a), -1, np.int16),
    )
    step = next_step(policy, assessments, nobody)
    asked = step.ask.astype(np.int64) @ (1 << np.arange(a, dtype=np.int64))
    # nobody is asked where the case goes to a person at once
    return np.where(is_novel(assessments, alpha), -1 - asked, asked + (1 << a) * (asked == 0))


def measure_stability(
    assessor: Assessor,
    policy: Policy,
    alpha: float,
    encoder: ImageEncoder,
    studies: Sequence[Study],
    *,
    folder: Path | None = None,
    perturbations: Mapping[str, Callable[[Pixels], Pixels]] = PERTURBATIONS,
) -> list[Stability]:
    """Route every study, then route it again under each perturbation.

    Args:
        assessor: bound to the agents that ``policy`` chooses among.
        alpha: at or below which the policy holds a case as novel.
        folder: where features are kept, so that another index is measured in seconds.

    Raises:
        UserError: no study has an image that can be read.
    """
    source = FeatureSource(encoder, folder=folder)
    plain = source.of(studies, label="encoding cases", grid=False)
    usable = np.flatnonzero(plain.usable)  # one that fails is not analysed, whatever happens to it
    if not len(usable):
        raise UserError("no case has an image that can be read", hint="check the manifest")
    read = [studies[int(i)] for i in usable]
    before = assessor.assess(plain.pooled[usable])
    routes = first_route(before, policy, alpha)
    out = []
    for name in perturbations:
        changed = PerturbedEncoder(encoder, name, perturbations[name])
        copies = FeatureSource(changed, folder=folder).of(read, label=f"encoding {name}")
        after = assessor.assess(copies.pooled)
        again = first_route(after, policy, alpha)
        same, n = int((routes == again).sum()), len(routes)
        novel, now = is_novel(before, alpha), is_novel(after, alpha)
        out.append(
            Stability(
                name,
                "larger" if name in LARGER else "small",
                n,
                same / n,
                _low(same, n),
                float((novel == now).mean()),
                float((before.modality == after.modality).mean()),
                float((now & ~novel).mean()),
                float((novel & ~now).mean()),
            )
        )
    return out


def stability_markdown(found: list[Stability]) -> str:
    """A table, and what did not hold."""
    lines = [
        "| perturbation | same route | at least (95 %) | gate alike | modality alike | to novel "
        "| from novel | floor |",
        "| --- " + "| ---: " * 7 + "|",
    ]
    lines += [
        f"| {s.name} | {s.same:.1%} | {s.low:.1%} | {s.gate:.1%} | {s.modality:.1%} "
        f"| {s.to_novel:.1%} | {s.from_novel:.1%} "
        f"| {FLOORS[s.size]:.0%}{'' if s.holds else ' NOT held'} |"
        for s in found
    ]
    return "\n".join(lines) + "\n"


def _low(same: int, n: int) -> float:
    from scipy.stats import beta

    return float(beta.ppf(0.05, same, n - same + 1)) if same else 0.0
