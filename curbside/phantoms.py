"""A seeded set of phantoms with a manifest, so that everything runs with no data at all.

Ten modalities: five common ones, three rare, and two that stand in ``test`` alone.  The
column ``site_group`` holds a planted group, and in group ``B`` findings are drawn fainter:
a disparity that a subgroup report must find.  Nothing here is an image of anyone; what is
measured on phantoms says that the machinery works and nothing about medicine.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from curbside.phantom_pictures import TASKS, draw
from curbside.progress import bar
from curbside.storage import new_folder
from curbside.study import content_hash

__all__ = ["COUNTS", "FAINTNESS", "SOURCE", "TIER", "plan", "write_phantoms"]

#: What stands in the manifest's ``source``.
SOURCE = "phantom"
#: The column that holds the planted group.
#: Contrast of a finding in each group, relative to group A.
FAINTNESS = MappingProxyType({"A": 1.0, "B": 0.55})
#: Share of patients in group B.
_SHARE_B = 0.4
#: Weakest and strongest finding of group A.
_STRENGTH = (0.4, 1.0)
#: Modality → tier.
TIER: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("cxr", "ct_abdomen", "us_breast", "fundus", "dermoscopy"), "common")
    | dict.fromkeys(("mri_brain", "mammography", "blood_smear"), "rare")
    | dict.fromkeys(("ecg_image", "oct"), "novel")
)
#: Tier → role → pictures of a modality (common, novel) or of one of its labels (rare).
COUNTS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "common": {"train": 112, "tune": 24, "calibration": 48, "test": 40},
        "rare": {"train": 14, "tune": 3, "calibration": 3, "test": 9},
        "novel": {"test": 28},
    }
)
_BODY = MappingProxyType(
    {"cxr": "chest", "ct_abdomen": "abdomen", "us_breast": "breast", "fundus": "eye"}
    | {"dermoscopy": "skin", "mri_brain": "head", "mammography": "breast", "blood_smear": "blood"}
    | {"ecg_image": "heart", "oct": "eye"}
)


@dataclass(frozen=True)
class _Row:
    """One line of the manifest; the corpus's columns, an id, and the planted group."""

    id: str
    image: str
    dataset: str
    modality: str
    body_part: str
    tier: str
    role: str
    group: str
    task: str
    label: str
    options: str
    source: str
    licence: str
    site_group: str


def write_phantoms(folder: Path, *, seed: int = 0, scale: float = 1.0) -> Path:
    """Draw the pictures and write the manifest, all or nothing.

    Args:
        folder: gets ``manifest.csv`` and ``images/``; what was there is replaced.
        seed: the same seed gives the same pictures, byte for byte.
        scale: factor on the number of pictures (1.0: about 1,400; every label keeps one).

    Returns:
        The manifest, which :func:`curbside.cases.read_cases` reads.

    Raises:
        StorageError: the disk is full or read-only; what was there is unchanged.
    """
    wanted = list(plan(scale))
    with new_folder(folder) as temporary, bar("drawing phantoms", len(wanted)) as advance:
        rows = []
        for modality, role, label, number in wanted:
            row, picture = _case(modality, role, label, number, seed)
            path = temporary / row.image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, compress_level=1)
            rows.append(row)
            advance(1)
        text = io.StringIO()
        names = [f.name for f in fields(_Row)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{n: getattr(r, n) for n in names} for r in rows])
        (temporary / "manifest.csv").write_text(text.getvalue(), encoding="utf-8")
    return folder / "manifest.csv"


def plan(scale: float = 1.0) -> Iterator[tuple[str, str, str, int]]:
    """Modality, role, label and running number of every picture that is drawn at a scale."""
    for modality, labels in TASKS.items():
        tier = TIER[modality]
        for role, count in COUNTS[tier].items():
            each = count if tier == "rare" else count / len(labels)
            for label in labels:
                for number in range(max(1, round(each * scale))):
                    yield modality, role, label, number


def _case(
    modality: str, role: str, label: str, number: int, seed: int
) -> tuple[_Row, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    # of four pictures in a row the first two are of one patient
    person = number - 1 if number % 4 == 1 else number
    who = f"{modality}-{role}-{label}-{person:03d}"
    name = f"{modality}-{role}-{label}-{number:03d}"
    patient = np.random.default_rng([seed, *who.encode()])
    site_group = "B" if patient.random() < _SHARE_B else "A"
    strength = patient.uniform(*_STRENGTH) * FAINTNESS[site_group]
    exposure = np.random.default_rng([seed, 1, *name.encode()])
    picture = draw(modality, label, patient, exposure, strength)
    identity = f"phantom-{modality}-{_opaque(seed, name)}"
    row = _Row(
        id=identity,
        image=f"images/{modality}/{identity}.png",
        dataset=f"phantom-{modality}",
        modality=modality,
        body_part=_BODY[modality],
        tier=TIER[modality],
        role=role,
        group=f"phantom-patient-{_opaque(seed, who)}",
        task=f"phantom_{modality}",
        label=label,
        options="|".join(TASKS[modality]),
        source=SOURCE,
        licence="none needed: generated",
        site_group=site_group,
    )
    return row, picture


def _opaque(seed: int, name: str) -> str:
    """Neither id nor path nor group may give the label away."""
    return content_hash(str(seed), name)[:12]
