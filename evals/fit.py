"""Fitting a policy: its thresholds chosen on ``tune``, its floor certified on ``calibration``.

Every setting of a small grid is replayed over the tune cases; the one with the highest
objective is frozen.  What it is worth is said by cross-fitting over groups: each fold is
judged by what the other folds would have chosen.  The floor is not chosen but certified by
Learn-then-Test.  Nothing here sees a test case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside.config import (
    AnyPolicy,
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    TierPolicy,
)
from curbside.errors import UserError
from curbside.evals.frame import Frame
from curbside.evals.gates import case_weights
from curbside.evals.replay import Recording, Replayed, replay_all
from curbside.indexes.risk import (
    DELTA,
    Certified,
    Point,
    curve,
    learn_then_test,
    thresholds_of,
)
from curbside.router.policies import make_policy

__all__ = [
    "FOLDS",
    "KINDS",
    "Fitted",
    "Seen",
    "certified_curve",
    "certify_floor",
    "fit_policy",
    "grid_of",
    "refuse",
]

FOLDS = 5
#: Simplest first: ties go to the first.
KINDS: Mapping[str, type[AnyPolicy]] = MappingProxyType(
    {
        "tier": TierPolicy,
        "competence": CompetencePolicy,
        "cascade": CascadePolicy,
        "average": AveragePolicy,
        "consult": ConsultPolicy,
    }
)
_SUPPORTS = (0.0, 50.0, 100.0, 200.0, 1e6)
_GRIDS: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "tier": {"minimum_support": _SUPPORTS},
        "competence": {"cost_weight": (0.0, 0.01, 0.02, 0.05, 0.1)},
        "cascade": {
            "escalate_below": tuple(round(0.05 * i, 2) for i in range(21)),
            "minimum_support": _SUPPORTS,
        },
        "average": {
            "weight": tuple(round(0.1 * i, 1) for i in range(1, 10)),
            "minimum_support": _SUPPORTS,
        },
        "consult": {"escalate_below": tuple(round(0.1 * i, 1) for i in range(3, 11))},
    }
)
_FLOOR_STEPS = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Seen:
    """Cases of one role that a policy is fitted or certified on.

    Args:
        frame: n asked cases; recording: what the serving agents said of them.
        groups: group of each as in the manifest, ``""`` where none.
        costs: agent → cost a study.
        colleagues: agents that ``consult`` may ask besides the specialist.
    """

    role: str
    frame: Frame
    recording: Recording
    groups: NDArray[np.str_]
    generalist: str
    costs: Mapping[str, float] = field(default_factory=dict)
    colleagues: tuple[str, ...] = ()

    def replayed(self, configs: Sequence[AnyPolicy]) -> Replayed:
        """Every configuration over these cases."""
        who = self.recording.agents
        return replay_all(
            self.recording,
            [
                make_policy(c, agents=who, generalist=self.generalist, costs=self.costs)
                for c in configs
            ],
        )


@dataclass(frozen=True)
class Fitted:
    """The chosen policy (gate and floor off) and what is known of it.

    Args:
        objective: on the very cases it was chosen on; ``cross_fitted``: on held-out folds.
        compared: kind → cross-fitted objective.
        grid: key → values tried, of the kind that was chosen.
    """

    policy: AnyPolicy
    objective: float
    cross_fitted: float
    compared: dict[str, float]
    grid: dict[str, list[float]]


def refuse(role: str, wanted: str) -> None:
    """Raise where a role may not serve for a purpose.

    Raises:
        UserError: fitting on anything but ``tune``.
    """
    why = {
        "test": "it is what results are reported on",
        "calibration": "it is kept for guarantees, which hold only if nothing was chosen on it",
        "train": "the agents were trained on it, so their readings there are too good",
    }
    if role != wanted:
        said = why.get(role, "its outcomes are not known to be unseen")
        raise UserError(
            f"a policy is not fitted on role {role!r}: {said}; valid: {wanted}",
            hint="curbside policy fit --out policy.yaml",
        )


def grid_of(kind: str, colleagues: Sequence[str] = ()) -> list[AnyPolicy]:
    """Every setting of a kind that is tried, gate and floor off; the default comes first."""
    keys = _GRIDS[kind]
    if kind == "consult":
        whom: list[tuple[str, ...]] = [("specialist",), *((c,) for c in colleagues)]
        if colleagues:
            whom.append(("specialist", *colleagues))
        tried = [
            ConsultPolicy(alpha=0.0, colleagues=who, escalate_below=level)
            for who in whom
            for level in keys["escalate_below"]
        ]
        return list(dict.fromkeys((ConsultPolicy(alpha=0.0), *tried)))
    default = KINDS[kind](alpha=0.0)
    settings = [dict(zip(keys, values, strict=True)) for values in product(*keys.values())]
    out = [default]
    for s in settings:
        values = {k: int(v) if k == "minimum_support" else v for k, v in s.items()}
        config = KINDS[kind](alpha=0.0, **values)
        if config != default:
            out.append(config)
    return out


def fit_policy(
    seen: Seen, kinds: Sequence[str] = tuple(KINDS), *, price: float = 0.0, folds: int = FOLDS
) -> Fitted:
    """Choose kind and thresholds on tune: accuracy macro over modalities − price · further calls.

    Args:
        price: accuracy given up for a second call on a case.

    Raises:
        UserError: cases of another role than ``tune``, or none with a truth.
    """
    refuse(seen.role, "tune")
    if not seen.frame.scored.any():
        raise UserError(
            "no tune case has a task and a truth, so no policy can be chosen",
            hint="give some cases of role tune a task, a label and options",
        )
    fold = np.random.default_rng(0).permutation(seen.frame.n_groups)[seen.frame.group] % folds
    found: dict[str, tuple[float, float, AnyPolicy]] = {}
    for kind in kinds:
        configs = grid_of(kind, seen.colleagues)
        replayed = seen.replayed(configs)
        worth = replayed.right - price * np.maximum(replayed.calls - 1, 0)
        whole = _macro(seen.frame, np.ones(len(seen.frame), bool)) @ worth
        held_out = np.zeros(len(seen.frame), np.float32)
        for k in range(folds):
            rest, own = fold != k, fold == k
            if own.any():
                chosen = int((_macro(seen.frame, rest) @ worth).argmax())
                held_out[own] = worth[own, chosen]
        cross = float(_macro(seen.frame, np.ones(len(seen.frame), bool)) @ held_out)
        at = int(whole.argmax())
        found[kind] = (cross, float(whole[at]), configs[at])
    best = max(found, key=lambda k: found[k][0])
    cross, objective, policy = found[best]
    return Fitted(
        policy,
        objective,
        cross,
        {k: v[0] for k, v in found.items()},
        {k: [float(x) for x in v] for k, v in _GRIDS[best].items()},
    )


def certify_floor(
    policy: AnyPolicy, tune: Seen, calibration: Seen, epsilon: float, delta: float = DELTA
) -> Certified:
    """The lowest floor under which at most ``epsilon`` of what is answered is wrong.

    Thresholds to test come from ``tune``, truths from ``calibration``: with probability
    1 − ``delta`` over the calibration cases the bound holds for a case of a new group
    (:mod:`curbside.indexes.risk`).  The policy's gate stays on: what it holds back is not
    answered.

    Raises:
        UserError: no floor can be certified at this error rate.
    """
    if calibration.role != "calibration":
        raise UserError(
            f"a floor is certified on role 'calibration', not on {calibration.role!r}",
            hint="give some labelled cases role calibration",
        )
    levels = thresholds_of(_scores(policy, tune)[0])
    score, right = _scores(policy, calibration)
    groups = calibration.groups[calibration.frame.scored]
    found = learn_then_test(score, right, groups, levels, epsilon=epsilon, delta=delta)
    if found.threshold is None:
        raise UserError(
            f"no floor keeps the error among answered cases at {epsilon:g} on "
            f"{found.n} independent calibration cases; the strictest one answered "
            f"{int(found.answered[0])} with {int(found.errors[0])} wrong",
            hint="allow more with --risk, or leave it out",
        )
    return found


def certified_curve(
    policy: AnyPolicy, tune: Seen, calibration: Seen, delta: float = DELTA
) -> tuple[Point, ...]:
    """What the policy may answer at each error rate, as :func:`certify_floor` certifies one."""
    levels = thresholds_of(_scores(policy, tune)[0])
    score, right = _scores(policy, calibration)
    return curve(score, right, calibration.groups[calibration.frame.scored], levels, delta=delta)


def _scores(policy: AnyPolicy, seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The highest floor at which each scored case is still answered (−inf: at none)."""
    floors = [policy.model_copy(update={"floor": float(f)}) for f in _FLOOR_STEPS]
    replayed = seen.replayed(floors)
    rows = seen.frame.scored
    answered = replayed.answered[rows] > 0
    last = answered.shape[1] - 1 - answered[:, ::-1].argmax(axis=1)
    score = np.where(answered.any(axis=1), _FLOOR_STEPS[last], -np.inf)
    return score, replayed.right[rows, 0] > 0


def _macro(frame: Frame, rows: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weight of each case so that a sum is the mean over modalities, among some rows."""
    weights = np.zeros(len(frame), np.float32)
    part = frame.take(rows)
    weights[rows] = case_weights(part, np.ones((1, part.n_groups), np.float32), prevalence=0.0)[0]
    return weights
