"""What a study's modality tag says, compared with what its pixels look like.

A disagreement is a fact for people and policies to act on; it never changes the assessment,
which is of pixels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["TAGS", "disagreement"]

_ULTRASOUND = frozenset({"us_breast", "us_lung", "us_other"})
_RADIOGRAPH = frozenset({"cxr", "xray_msk"})
_PHOTO = frozenset({"skin_photo", "dermoscopy", "slit_lamp", "otoscopy"})
_FUNDUS = frozenset({"fundus"})
_SLIDE = frozenset({"histopathology", "cytology", "blood_smear"})

#: DICOM modality code (PS3.3, C.7.3.1.1.1) → modalities whose images may carry it.
TAGS: MappingProxyType[str, frozenset[str]] = MappingProxyType(
    {
        "CT": frozenset({"ct_abdomen", "ct_chest", "ct_head"}),
        "MR": frozenset({"mri_brain"}),
        "US": _ULTRASOUND,
        "IVUS": _ULTRASOUND,
        "CR": _RADIOGRAPH,
        "DX": _RADIOGRAPH,
        "RG": _RADIOGRAPH,
        "RF": _RADIOGRAPH,
        "MG": frozenset({"mammography"}),
        "NM": frozenset({"nuclear"}),
        "PT": frozenset({"nuclear"}),
        "OP": _FUNDUS | {"slit_lamp"},
        "OPM": _FUNDUS,
        "OPT": frozenset({"oct"}),
        "OCT": frozenset({"oct"}),
        "XA": frozenset({"angiography"}),
        "ECG": frozenset({"ecg_image"}),
        "ES": frozenset({"endoscopy", "otoscopy"}),
        "XC": _PHOTO,
        "DMS": frozenset({"dermoscopy"}),
        "SM": _SLIDE,
        "GM": _SLIDE,
    }
)
_COMPARABLE = frozenset().union(*TAGS.values())


def disagreement(
    tags: Sequence[str | None],
    predicted: NDArray[np.intp],
    modalities: tuple[str, ...],
) -> NDArray[np.bool_]:
    """Where a tag names another modality than the pixels do.

    A tag is a DICOM code or one of ``modalities``.  No tag, an unknown one (``OT``) or a
    predicted modality that no code names is never a disagreement.

    Args:
        tags: n tags, None where there is none.
        predicted: intp (n,), columns of ``modalities``.

    Returns:
        bool (n,).
    """
    out = np.zeros(len(tags), bool)
    for i, (tag, column) in enumerate(zip(tags, predicted, strict=True)):
        if not tag:
            continue
        seen = modalities[column]
        if tag in modalities:
            out[i] = tag != seen
        elif seen in _COMPARABLE:
            allowed = TAGS.get(tag.strip().upper())
            out[i] = allowed is not None and seen not in allowed
    return out
