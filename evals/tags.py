"""The ``tags`` arm: routing by a coarse DICOM modality code and body part instead of pixels.

A fixed table stands in for what a scanner writes: (Modality, BodyPartExamined).  The body
part is wrong in 15 % of cases, drawn evenly from the other parts seen under that code; all
numbers are exact expectations over that draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Arm
from curbside.responses import ResponseMatrix

__all__ = ["TAG_TABLE", "WRONG_BODY_PART", "tags_arm"]

WRONG_BODY_PART = 0.15

#: modality → (DICOM Modality, BodyPartExamined) that its images would carry.
TAG_TABLE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "angiography": ("XA", "HEART"),
        "blood_smear": ("SM", "BLOOD"),
        "ct_abdomen": ("CT", "ABDOMEN"),
        "ct_chest": ("CT", "CHEST"),
        "ct_head": ("CT", "HEAD"),
        "cxr": ("DX", "CHEST"),
        "cytology": ("SM", "CERVIX"),
        "dermoscopy": ("XC", "SKIN"),
        "ecg_image": ("ECG", "HEART"),
        "endoscopy": ("ES", "COLON"),
        "fundus": ("OP", "EYE"),
        "histopathology": ("SM", "TISSUE"),
        "mammography": ("MG", "BREAST"),
        "mri_brain": ("MR", "BRAIN"),
        "nuclear": ("NM", "WHOLEBODY"),
        "oct": ("OPT", "EYE"),
        "otoscopy": ("ES", "EAR"),
        "skin_photo": ("XC", "SKIN"),
        "slit_lamp": ("OP", "EYE"),
        "us_breast": ("US", "BREAST"),
        "us_lung": ("US", "CHEST"),
        "us_other": ("US", "NECK"),
        "xray_msk": ("DX", "EXTREMITY"),
    }
)


def tags_arm(
    modality: NDArray[np.str_],
    matrix: ResponseMatrix,
    specialists: Mapping[str, str],
    generalist: str,
    *,
    wrong: float = WRONG_BODY_PART,
) -> Arm:
    """Common by its tags to the specialist, everything else to the generalist.

    Where several modalities share the tags (fundus and slit lamp, both OP of the eye), the
    one that has a specialist is taken.  Tags of a modality outside the table name nothing.

    Args:
        modality: true modality of the n cases: the tags come from the scanner.
        wrong: share of cases whose body part is wrong, in [0, 1].
    """
    readers: dict[tuple[str, str], list[str]] = defaultdict(list)
    parts: dict[str, set[str]] = defaultdict(set)
    for name, (code, part) in TAG_TABLE.items():
        parts[code].add(part)
        if name in specialists:
            readers[code, part].append(specialists[name])

    def mixture(name: str) -> dict[str, float]:
        """Agent → probability that the tags of a case of this modality send it there."""
        out: dict[str, float] = defaultdict(float)
        if name not in TAG_TABLE:
            if name in specialists:  # a modality of the user's own, with a code of its own
                return {specialists[name]: 1.0}
            return {generalist: 1.0}
        code, true = TAG_TABLE[name]
        others = sorted(parts[code] - {true})
        chances = [(true, 1 - wrong if others else 1.0)]
        chances += [(p, wrong / len(others)) for p in others]
        for part, chance in chances:
            to = readers[code, part] or [generalist]
            for agent in to:
                out[agent] += chance / len(to)
        return out

    by = {m: mixture(m) for m in set(modality.tolist())}
    weights = np.zeros(matrix.status.shape, np.float32)
    for m, sent in by.items():
        rows = modality == m
        for agent, chance in sent.items():
            weights[rows, matrix.column(agent)] += np.float32(chance)
    return Arm("tags", "baseline", weights, weights, draw=True)
