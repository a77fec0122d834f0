"""What of a folder can be used, object by object, and why not: counted, without a name.

Every frame of every DICOM object is decoded, which ``curbside.intake`` leaves for later.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from curbside.config import PrivacyConfig
from curbside.errors import ImageError
from curbside.intake import Source, look_at, sources_in
from curbside.study import Instance, Study

__all__ = ["USED", "Kind", "survey"]

#: Stands where there is no reason against an object.
USED = "used"
_PLAIN = "plain image"


@dataclass(frozen=True, order=True)
class Kind:
    """What is counted together.

    Args:
        modality: DICOM modality code, ``""`` where there is none.
        syntax: name of the transfer syntax, ``""`` where the header cannot be read.
        result: :data:`USED`, ``used in part: REASON`` where some frames cannot be, or the reason.
    """

    modality: str
    syntax: str
    result: str


def survey(start: Path | bytes) -> Counter[Kind]:
    """Objects of a file, folder or archive by kind and result; each is in it once."""
    counts: Counter[Kind] = Counter()
    for source, _, problem in sources_in(start):
        counts[_kind(source, problem)] += 1
    return counts


def _kind(source: Source, problem: ImageError | None) -> Kind:
    try:
        if problem is not None:
            raise problem
        told = look_at(source, PrivacyConfig().allowed_tags)
    except ImageError as e:
        return Kind("", "", e.reason)
    if isinstance(told, Study):
        return Kind("", _PLAIN, _result(source, 1))
    unusable = told["unusable"]
    result = unusable[0] if unusable else _result(source, told["frames"])
    return Kind(told["kind"], told["syntax"], result)


def _result(source: Source, frames: int) -> str:
    reasons: Counter[str] = Counter()
    for frame in range(frames):
        try:
            Instance(source, frame).pixels()
        except ImageError as e:
            reasons[e.reason] += 1
    if not reasons:
        return USED
    worst = reasons.most_common(1)[0][0]
    return worst if reasons.total() == frames else f"used in part: {worst}"
