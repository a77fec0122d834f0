"""Every operating point of a policy at once: its curve, and the curve of every replicate.

Only thresholds differ between the points of a curve, so each is one replay, and all their
bootstrap replicates together are one matrix product: the weight of every case in every
replicate times what every point made of it.  The curve is thus recomputed as a whole in each
replicate (no point is resampled alone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import CascadePolicy, CompetencePolicy, PolicyConfig
from curbside.errors import InternalError
from curbside.evals.frame import Frame
from curbside.evals.gates import case_weights
from curbside.evals.metrics import Utility
from curbside.evals.replay import Recording, Replayed, distinct_points, replay_all
from curbside.router.policies import make_policy

__all__ = ["Curve", "curve_of", "operating_points", "replay_points"]

Float = NDArray[np.float32]
#: Thresholds by what is compared with them.
_OF_P = ("alpha", "escalate_unfamiliar")
_OF_CONFIDENCE = ("floor", "escalate_below")
_KEYS = (*_OF_P, *_OF_CONFIDENCE, "minimum_support", "cost_weight")


@dataclass(frozen=True)
class Curve:
    """P operating points, each array float32 (r, P): the sample in row 0, then replicates.

    Args:
        accuracy: right among all known cases, macro over modalities; a referral is not right.
        coverage: answered share of the known cases, macro likewise.
        calls: agents asked for a known case, macro likewise.
        net_benefit: novel cases at their prevalence; see :class:`~curbside.evals.metrics.Utility`.
    """

    accuracy: Float
    coverage: Float
    calls: Float
    net_benefit: Float


def curve_of(
    frame: Frame, replayed: Replayed, counts: Float, utility: Utility | None = None
) -> Curve:
    """All points in all replicates.

    Args:
        frame: the n asked cases.
        counts: float32 (r, g), how often each group is drawn.
    """
    utility = utility or Utility()
    known = case_weights(frame, counts, prevalence=0.0)
    everything = case_weights(frame, counts)
    worth = np.stack(
        [
            utility.of(right, answered, frame.novel)
            for right, answered in zip(replayed.right.T, replayed.answered.T, strict=True)
        ],
        axis=1,
    )
    return Curve(
        known @ replayed.right,
        known @ replayed.answered,
        known @ replayed.calls,
        everything @ worth,
    )


def operating_points(
    config: PolicyConfig, recording: Recording, key: str, most: int | None = None
) -> list[PolicyConfig]:
    """A policy at every distinct value of one of its thresholds, on these cases.

    Args:
        key: one of the policy's among ``alpha``, ``floor``, ``escalate_below``,
            ``escalate_unfamiliar``, ``minimum_support`` and ``cost_weight``.
        most: thin them out evenly to at most so many.

    Raises:
        InternalError: the policy has no such threshold.
    """
    if key not in _KEYS or key not in type(config).model_fields:
        known = ", ".join(k for k in _KEYS if k in type(config).model_fields)
        raise InternalError(f"policy {config.kind} has no threshold {key!r}; valid: {known}")
    values = _levels(config, recording.assessments, recording.confidence, key)
    upper = 1 - 1e-9 if key in _OF_P else 1.0 if key in _OF_CONFIDENCE else np.inf
    points = [min(p, upper) for p in distinct_points(values)]
    if key in _OF_P:  # what is at or below it is novel (unfamiliar), and at 0 nothing is
        points = [0.0, *points[:-1]]
    if key == "minimum_support":
        points = [int(np.ceil(p)) for p in points]
    points = sorted(set(points))
    if most is not None and len(points) > most:
        points = [points[i] for i in np.linspace(0, len(points) - 1, most).round().astype(int)]
    return [config.model_copy(update={key: p}) for p in points]


def _levels(
    config: PolicyConfig, facts: Assessments, confidence: Float, key: str
) -> NDArray[np.floating]:
    if key in _OF_P:
        return facts.p_value
    if key == "minimum_support":
        return facts.support.astype(np.float64)
    if key == "cost_weight":  # the difference in P(correct) that a unit of cost is worth
        spread = facts.competence[:, :, None] - facts.competence[:, None, :]
        return np.concatenate([[0.0], np.abs(spread).ravel()])
    if key == "floor" and isinstance(config, CompetencePolicy):
        return facts.competence
    if key == "escalate_below" and isinstance(config, CascadePolicy):
        # only the first reader's confidence is compared with it
        column = np.where(facts.specialist >= 0, facts.specialist, confidence.shape[1] - 1)
        return confidence[np.arange(len(confidence)), column]
    return confidence


def replay_points(
    configs: Sequence[PolicyConfig],
    recording: Recording,
    generalist: str,
) -> Replayed:
    """Replay each configuration over the recording."""
    policies = [make_policy(c, agents=recording.agents, generalist=generalist) for c in configs]
    return replay_all(recording, policies)
