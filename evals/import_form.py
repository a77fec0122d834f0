"""What importers of published sets share: what is wanted, roles of splits, groups, paths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curbside.errors import UserError
from curbside.study import content_hash

__all__ = [
    "IMAGES",
    "ROLE_OF",
    "SAME",
    "Row",
    "Wanted",
    "divided",
    "not_found",
    "opaque",
    "relative",
    "role_of",
]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
#: Shares of groups by role where a set comes without a split.
_SHARES = (("train", 0.6), ("tune", 0.7), ("calibration", 0.85), ("test", 1.0))
ROLE_OF = {
    "train": "train",
    "training": "train",
    "val": "tune",
    "valid": "tune",
    "validation": "tune",
    "dev": "tune",
    "tune": "tune",
    "calibration": "calibration",
    "test": "test",
    "testing": "test",
}
#: Columns that mean the same in tables of images, in the order in which they are looked for.
SAME = {
    "image": ("image", "image_path", "filename", "file_name", "file", "path", "image_id"),
    "label": ("label", "class", "diagnosis", "dx", "finding", "target"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id", "lesion_id", "study_id"),
    "split": ("role", "split", "set", "fold", "subset"),
    "modality": ("modality",),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What the user says of a set that does not say it itself."""

    path: Path
    out: Path
    modality: str
    task: str
    labels: tuple[str, ...] = ()

    @property
    def images(self) -> Path:
        """Where images are written that lie in an archive."""
        return self.out.parent / f"{self.out.stem}-images"


def relative(image: Path | str, w: Wanted) -> str:
    """An image's path as the manifest has it: below its folder, else absolute."""
    path, base = Path(image).absolute(), w.out.parent.absolute()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def opaque(key: str) -> str:
    """A group's name that is no patient's."""
    return content_hash("group", key)[:16]


def divided(key: str) -> str:
    """A role of a training split, by group: mostly train, some tune, some calibration."""
    share = _share(key)
    return "train" if share < 0.7 else "tune" if share < 0.82 else "calibration"


def role_of(split: str, key: str) -> str:
    """A split's role; where there is none, by the hash of the group."""
    if split.lower() in ROLE_OF:
        role = ROLE_OF[split.lower()]
        return divided(key) if role == "train" else role
    if split:
        raise UserError(f"split {split!r} is unknown; valid: {', '.join(ROLE_OF)}, or none")
    share = _share(key)
    return next(role for role, upto in _SHARES if share < upto)


def _share(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32


def not_found(w: Wanted, what: str) -> UserError:
    """The error of a path that is no such set."""
    return UserError(
        f"{w.path.name} does not hold what was looked for: {what}", hint="docs/cases.md"
    )
