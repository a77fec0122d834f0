"""Fitting a policy: its thresholds chosen on ``tune``, its floor certified on ``calibration``.

Every setting of a small grid is replayed over the tune cases that the gate leaves; the one
with the highest objective is frozen.  What it is worth is said by cross-fitting over groups:
each fold is judged by what the other folds would have chosen.  The floor is not chosen but
certified by Learn-then-Test.  Nothing here sees a test case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
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
from curbside.router.policy_steps import is_novel

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
    "variant_of",
    "variants",
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
#: Not 0: a specialist without a training case behind it is not preferred.
_SUPPORTS = (1.0, 50.0, 100.0, 200.0, 1e6)
Values = tuple[float | bool, ...]
_GRIDS: Mapping[str, Mapping[str, Values]] = MappingProxyType(
    {
        "tier": {"minimum_support": _SUPPORTS},
        "competence": {"cost_weight": (0.0, 0.01, 0.02, 0.05, 0.1)},
        "cascade": {
            "escalate_below": tuple(round(0.05 * i, 2) for i in range(21)),
            "minimum_support": _SUPPORTS,
        },
        "average": {
            "weight": tuple(round(0.1 * i, 1) for i in range(1, 10)),
            "minimum_support": (0.0, *_SUPPORTS[1:]),
        },
        "consult": {"escalate_below": tuple(round(0.1 * i, 1) for i in range(3, 11))},
    }
)
_UNFAMILIAR = (0.1, 0.2, 0.4)
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
        compared: variant (:func:`variant_of`) → cross-fitted objective.
        grid: key → values tried, of the variant that was chosen.
    """

    policy: AnyPolicy
    objective: float
    cross_fitted: float
    compared: dict[str, float]
    grid: dict[str, list[float | bool]]


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


def variants(
    kinds: Sequence[str] = tuple(KINDS), *, alpha: float = 0.0, referral: float = 0.0
) -> dict[str, tuple[str, dict[str, Values]]]:
    """Name → kind and key → values tried; simplest first.

    A kind stands by itself and once more with each set of the options that are off by default,
    so that an option is taken only where held-out folds are better off with it.

    Args:
        alpha: the gate; a p-value up to it is novel, so escalating there would do nothing.
        referral: what a case left to a person is worth.  At 0 nothing is gained by leaving one,
            so no option that does is tried.
    """
    out: dict[str, tuple[str, dict[str, Values]]] = {}
    for kind in kinds:
        options: dict[str, Values] = {}
        if kind == "cascade":
            options["escalate_unfamiliar"] = tuple(u for u in _UNFAMILIAR if u > alpha)
        if kind == "cascade" and referral:
            options["refer_disagreement"] = (True,)
        if kind == "competence" and referral:
            # a case is left to a perfect reader where P(correct) is below what that is worth
            options["person_cost"] = (round(1 - referral, 6),)
        options = {k: v for k, v in options.items() if v}
        for n in range(len(options) + 1):
            for names in combinations(options, n):
                keys = {k: options[k] for k in names} | dict(_GRIDS[kind])
                out[" + ".join((kind, *names))] = (kind, keys)
    return out


def variant_of(policy: AnyPolicy) -> str:
    """The name, as in :func:`variants`, of what a fitted policy is one of."""
    default = KINDS[policy.kind]()
    options = ("escalate_unfamiliar", "refer_disagreement", "person_cost")
    on = (k for k in options if getattr(policy, k, None) != getattr(default, k, None))
    return " + ".join((policy.kind, *on))


def grid_of(
    kind: str, keys: Mapping[str, Values], colleagues: Sequence[str] = ()
) -> list[AnyPolicy]:
    """Every setting of a kind that is tried, gate and floor off; the default first if it is one."""
    settings: list[dict[str, object]] = [
        dict(zip(keys, values, strict=True)) for values in product(*keys.values())
    ]
    if kind == "consult":
        settings = [{"colleagues": who} | s for who in _asked(colleagues) for s in settings]
    tried = [KINDS[kind].model_validate({"alpha": 0.0} | s) for s in settings]
    default = KINDS[kind](alpha=0.0)
    return list(dict.fromkeys([default, *tried] if default in tried else tried))


def _asked(colleagues: Sequence[str]) -> list[tuple[str, ...]]:
    """Whom ``consult`` may ask: the specialist, each colleague, all of them."""
    each: list[tuple[str, ...]] = [("specialist",), *((c,) for c in colleagues)]
    return [*each, ("specialist", *colleagues)] if colleagues else each


def fit_policy(
    seen: Seen,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    alpha: float = 0.0,
    price: float = 0.0,
    referral: float = 0.0,
    folds: int = FOLDS,
) -> Fitted:
    """Choose kind and thresholds on tune: accuracy macro over modalities − price · further calls.

    Args:
        alpha: the gate that the policy will serve with: only cases that it leaves are counted.
        price: accuracy given up for a second call on a case.
        referral: what a case left to a person is worth, in right answers; it is added to the
            accuracy.  0: a case that nobody answers counts as one answered wrongly.

    Raises:
        UserError: cases of another role than ``tune``, or none with a truth that the gate leaves.
    """
    refuse(seen.role, "tune")
    if not seen.frame.scored.any():
        raise UserError(
            "no tune case has a task and a truth, so no policy can be chosen",
            hint="give some cases of role tune a task, a label and options",
        )
    left = seen.frame.scored & ~is_novel(seen.recording.assessments, alpha)
    if not left.any():
        raise UserError(
            f"the gate at alpha {alpha:g} holds every tune case back, so no policy can be chosen",
            hint="curbside policy fit --alpha 0.05 --out policy.yaml",
        )
    fold = np.random.default_rng(0).permutation(seen.frame.n_groups)[seen.frame.group] % folds
    found: dict[str, tuple[float, float, AnyPolicy]] = {}
    tried = variants(kinds, alpha=alpha, referral=referral)
    every = _macro(seen.frame, left)
    for name, (kind, keys) in tried.items():
        configs = grid_of(kind, keys, seen.colleagues)
        replayed = seen.replayed(configs)
        worth = replayed.right + referral * (1 - replayed.answered)
        worth -= price * np.maximum(replayed.calls - 1, 0)
        held_out = np.zeros(len(seen.frame), np.float32)
        for k in range(folds):
            rest, own = left & (fold != k), left & (fold == k)
            if own.any() and rest.any():
                chosen = int((_macro(seen.frame, rest) @ worth).argmax())
                held_out[own] = worth[own, chosen]
        whole = every @ worth
        at = int(whole.argmax())
        found[name] = (float(every @ held_out), float(whole[at]), configs[at])
    best = max(found, key=lambda k: found[k][0])
    cross, objective, policy = found[best]
    return Fitted(
        policy,
        objective,
        cross,
        {k: v[0] for k, v in found.items()},
        {k: list(v) for k, v in tried[best][1].items()},
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
