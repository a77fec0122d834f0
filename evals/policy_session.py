"""``curbside policy fit``: a policy fitted on what was built, frozen with its provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from curbside import __version__
from curbside.config import AnyPolicy, PolicyProvenance
from curbside.errors import UserError
from curbside.evals.fit import (
    KINDS,
    Fitted,
    Seen,
    certified_curve,
    certify_floor,
    fit_policy,
    refuse,
)
from curbside.evals.frame import frame_of, label_counts
from curbside.evals.matrix import read_matrix
from curbside.evals.replay import Recording
from curbside.evals.runner import Built, TunedFleet, tune_part
from curbside.evals.session import open_built, served_fleet
from curbside.indexes.risk import DELTA, Point

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.router.workspace import Workspace

__all__ = ["fit_built", "risk_curve"]


def fit_built(
    workspace: Workspace,
    *,
    role: str = "tune",
    kinds: Sequence[str] = tuple(KINDS),
    alpha: float = 0.05,
    price: float = 0.0,
    referral: float = 0.0,
    risk: float | None = None,
) -> tuple[AnyPolicy, PolicyProvenance]:
    """Fit on the tune cases of what was built; certify a floor on its calibration cases.

    Args:
        role: where to fit; anything but ``tune`` is refused.
        alpha: novelty gate of the policy that is written; what it holds back is not counted.
        price: accuracy given up for a second call on a case.
        referral: what a case left to a person is worth, in right answers.
        risk: error rate among answered cases that the floor must keep; None: no floor.

    Raises:
        UserError: another role, or nothing to choose on, or a floor that cannot be had.
        NotBuilt: see :func:`~curbside.evals.session.open_built`.
    """
    refuse(role, "tune")
    built, fleet = open_built(workspace), served_fleet(workspace)
    seen, cases = _tune(built, fleet)
    fitted = fit_policy(seen, kinds, alpha=alpha, price=price, referral=referral)
    policy = fitted.policy.model_copy(update={"alpha": alpha})
    floor = "none: set by hand where wanted"
    if risk is not None:
        calibration = _calibration(workspace, built, fleet)
        found = certify_floor(policy, seen, calibration, risk)
        policy = policy.model_copy(update={"floor": found.threshold})
        at = found.best if found.best is not None else 0
        floor = (
            f"Learn-then-Test on {found.n} independent calibration cases: with probability "
            f"{1 - found.delta:g} at most {found.epsilon:g} of what is answered is wrong "
            f"(observed {found.risk[at]:.3f} at coverage {found.coverage[at]:.3f})"
        )
    objective = f"accuracy, macro over modalities, of what the gate at {alpha:g} leaves"
    objective += f" − {price:g} a further call" if price else ""
    objective += f" + {referral:g} a case left to a person" if referral else ""
    return policy, _provenance(fitted, seen, cases, built, fleet, objective, floor)


def risk_curve(workspace: Workspace, *, delta: float = DELTA) -> tuple[Point, ...]:
    """What the configured policy may answer at each error rate, its floor certified.

    Thresholds come from tune, truths from calibration.

    Raises:
        UserError, NotBuilt: as :func:`fit_built`.
    """
    built, fleet = open_built(workspace), served_fleet(workspace)
    seen, _ = _tune(built, fleet)
    calibration = _calibration(workspace, built, fleet)
    return certified_curve(workspace.config.policy, seen, calibration, delta)


def _tune(built: Built, t: TunedFleet) -> tuple[Seen, Cases]:
    """Tune cases as the serving agents read them."""
    part, cases = tune_part(built, t)
    fleet = t.fleet
    seen = Seen(
        "tune",
        part.frame,
        Recording.of(part.matrix, part.assessments, fleet.serving),
        cases.groups,
        fleet.generalist,
        {a: fleet.agents[a].card.cost for a in fleet.serving},
        fleet.colleagues,
    )
    return seen, cases


def _provenance(
    fitted: Fitted,
    seen: Seen,
    cases: Cases,
    built: Built,
    fleet: TunedFleet,
    objective: str,
    floor: str,
) -> PolicyProvenance:
    return PolicyProvenance(
        role=seen.role,
        cases=cases.digest,
        n_cases=len(seen.frame),
        n_groups=seen.frame.n_groups,
        fleet=fleet.fleet.fingerprint,
        index=built.assessor.index_digest,
        objective=objective,
        grid=fitted.grid,
        fitted=round(fitted.objective, 6),
        cross_fitted=round(fitted.cross_fitted, 6),
        compared={k: round(v, 6) for k, v in fitted.compared.items()},
        floor_from=floor,
        date=datetime.now(UTC).date().isoformat(),
        code=__version__,
    )


def _calibration(workspace: Workspace, built: Built, t: TunedFleet) -> Seen:
    """Calibration cases with a truth, read by the serving agents (kept for the next time)."""
    everything, fleet = built.cases, t.fleet
    has = np.array([bool(c.options) and c.label in c.options for c in everything], bool)
    rows = np.flatnonzero((everything.roles == "calibration") & has)
    if not len(rows):
        raise UserError(
            "there is no calibration case with options and a label to certify a floor on",
            hint="leave --risk out, or give some labelled cases role calibration",
        )
    cases = everything.take(rows)
    features = workspace.features(cases, "encoding calibration cases")
    matrix = read_matrix(
        {a: fleet.agents[a] for a in fleet.serving},
        cases.studies(),
        [c.label for c in cases],
        images=features.digests,
        folder=workspace.home / "policy" / "calibration",
        label=f"{len(fleet.serving)} agents read {len(cases)} calibration cases",
    )
    facts = built.assessor.bind(fleet.serving, fleet.specialists, workspace.competence())
    assessed = facts.assess(features.pooled)
    frame = frame_of(cases, assessed, features.usable, fleet.specialists, label_counts(everything))
    # an image that cannot be read is nobody's answer
    usable = replace(frame, asked=frame.asked & frame.usable)
    return Seen(
        "calibration",
        usable,
        Recording.of(matrix, assessed, fleet.serving),
        cases.groups,
        fleet.generalist,
        {a: fleet.agents[a].card.cost for a in fleet.serving},
        fleet.colleagues,
    )
