"""Which new cases may join what the index knows, and in which role.

A reviewed case joins ``train`` (it is indexed) or ``tune`` (agents are judged on it), never
both and never ``test`` or ``calibration``: an image, a group or an id that any role holds
already stays with that role.  Pure; reads no pixel.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from curbside.cases import Case, Cases
from curbside.errors import IndexCorrupt
from curbside.study import content_hash

__all__ = ["TUNE_SHARE", "Admission", "Withheld", "admit"]

#: Share of new groups that go to ``tune``.
TUNE_SHARE = 0.3
_JOINABLE = ("train", "tune")


@dataclass(frozen=True)
class Withheld:
    """What must never be learned from: hashed ids, hashed groups and image digests of ``test``."""

    ids: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cases: Cases, digests: Sequence[str]) -> Self:
        """Of the cases whose role is ``test``; ``digests`` are of their images, row by row."""
        rows = np.flatnonzero(cases.roles == "test").tolist()
        return cls(
            frozenset(content_hash(str(cases.ids[r])) for r in rows),
            frozenset(content_hash(str(cases.groups[r])) for r in rows if cases.groups[r]),
            frozenset(digests[r] for r in rows if digests[r]),
        )

    def joined(self, other: Withheld) -> Withheld:
        """What either withholds."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Withheld(*(mine | others for mine, others in pairs))

    def holds(self, case: Case, digest: str) -> bool:
        """Whether a case, its group or its image is among them."""
        return (
            content_hash(case.id) in self.ids
            or (case.group != "" and content_hash(case.group) in self.groups)
            or digest in self.images
        )

    def to_json(self) -> dict[str, list[str]]:
        """As plain JSON types."""
        return {k: sorted(getattr(self, k)) for k in ("ids", "groups", "images")}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From the text that :meth:`to_json` became.  Raises IndexCorrupt."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(*(frozenset(data[k]) for k in ("ids", "groups", "images")))
        except (ValueError, KeyError, TypeError) as e:
            raise IndexCorrupt(
                "the list of test cases of this version cannot be read", hint="curbside build"
            ) from e


@dataclass(frozen=True)
class Admission:
    """Who joins, with a role each, and why the others do not: reason → how many.

    Args:
        rows: into the new cases, of those that join.
    """

    cases: Cases
    rows: tuple[int, ...]
    refused: Mapping[str, int]


def admit(
    known: Cases,
    known_digests: Sequence[str],
    new: Cases,
    new_digests: Sequence[str],
    withheld: Withheld,
    *,
    tune_share: float = TUNE_SHARE,
) -> Admission:
    """Give each new case a role, or a reason why it may not join.

    A group goes to ``tune`` or ``train`` by its hash, so it goes the same way every time.

    Args:
        known: cases of train, tune and calibration, and the digests of their images.
        new: labelled cases; ``""`` as a digest where the image cannot be used.
        tune_share: share of new groups that go to ``tune``, in [0, 1].
    """
    ids = {c.id for c in known}
    images = set(known_digests) - {""}
    role_of = {c.group: c.role or "" for c in known if c.group}
    refused: Counter[str] = Counter()
    joining: list[Case] = []
    rows = []
    for row, (case, digest) in enumerate(zip(new, new_digests, strict=True)):
        role = role_of.get(case.group, "") if case.group else ""
        why = (
            "the image cannot be used"
            if not digest
            else "a test case"
            if case.role == "test" or withheld.holds(case, digest)
            else "no modality or no label"
            if not case.modality or not case.label
            else "known already"
            if digest in images
            else "the id is another case's"
            if case.id in ids
            else "calibration cases are never learned from"
            if "calibration" in (case.role, role)
            else f"its group is in role {role}"
            if role and case.role and case.role != role
            else ""
        )
        if why:
            refused[why] += 1
            continue
        role = role or case.role or role_of_group(case.group or digest, tune_share)
        if case.group:
            role_of[case.group] = role
        ids.add(case.id)
        images.add(digest)
        joining.append(replace(case, role=role))
        rows.append(row)
    return Admission(Cases(joining, new.path), tuple(rows), dict(refused))


def role_of_group(group: str, tune_share: float = TUNE_SHARE) -> str:
    """``train`` or ``tune``, by the group's hash: a share of all groups goes to ``tune``."""
    part = int(content_hash("role", group)[:8], 16) / 2**32
    return _JOINABLE[1] if part < tune_share else _JOINABLE[0]
