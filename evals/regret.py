"""Where a hybrid loses: its regret to the oracles, and whose fault each wrong answer is.

Every wrong answer of a known case falls into exactly one part:

- ``wrong_modality``: the case was taken for another modality;
- ``to_generalist``: the specialist was right and the generalist answered wrongly;
- ``to_specialist``: the generalist was right and the specialist answered wrongly;
- ``both_wrong``: neither was right: no router could have helped.

Where a hybrid asks a colleague beside the generalist and takes the mean, nobody is chosen by
modality, and the parts are ``to_generalist`` (the colleague was right and the answer is wrong),
``to_colleague`` (the generalist was right and the mean is wrong) and ``both_wrong``.

``novel_to_specialist`` stands beside them: the share of novel cases that a specialist reads, or
in which a colleague has a say.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Arm, Outcomes
from curbside.evals.frame import Frame

__all__ = ["CONSULT_PARTS", "PARTS", "consult_parts_of", "parts_of", "to_specialist_share"]

Float = NDArray[np.float32]

PARTS = ("wrong_modality", "to_generalist", "to_specialist", "both_wrong")
CONSULT_PARTS = ("to_generalist", "to_colleague", "both_wrong")


def parts_of(
    frame: Frame, outcomes: Outcomes, specialist: Outcomes, generalist: Outcomes
) -> Mapping[str, Float]:
    """Part → share of each case, float32 (n,); they sum to 1 − right on known cases."""
    wrong = np.where(frame.scored, 1 - outcomes.right, 0).astype(np.float32)
    mistaken = frame.predicted != frame.modality
    s, g = specialist.right >= 0.5, generalist.right >= 0.5
    rest = ~mistaken
    flags = {
        "wrong_modality": mistaken,
        "to_generalist": rest & s & ~g,
        "to_specialist": rest & g & ~s,
        # of two that were right none is wrong; an average of one right and one wrong is above
        "both_wrong": rest & (s == g),
    }
    return {name: np.asarray(wrong * at, np.float32) for name, at in flags.items()}


def consult_parts_of(
    frame: Frame, outcomes: Outcomes, colleague: Outcomes, generalist: Outcomes
) -> Mapping[str, Float]:
    """Like :func:`parts_of`, of a hybrid that takes the mean with a colleague where unsure."""
    wrong = np.where(frame.scored, 1 - outcomes.right, 0).astype(np.float32)
    c, g = colleague.right >= 0.5, generalist.right >= 0.5
    # of two that are right the mean is right; with further colleagues it may not be
    flags = {"to_generalist": c & ~g, "to_colleague": g, "both_wrong": ~c & ~g}
    return {name: np.asarray(wrong * at, np.float32) for name, at in flags.items()}


def to_specialist_share(arm: Arm, generalist: Arm) -> Float:
    """How much of each answer comes from anyone but the generalist, float32 (n,)."""
    total = arm.weights.sum(axis=1)
    own = (arm.weights * (generalist.weights > 0)).sum(axis=1)
    share = np.divide(total - own, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(share, np.float32)
