"""What comes in: a study, its images and the question asked of it.

Knows nothing of files formats (``curbside.pixels`` does) nor of models.  Pixels
are lazy: a :class:`Study` can be logged, pickled or checkpointed without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside.pixels import read_image

__all__ = ["Instance", "Question", "QuestionKind", "Series", "Study", "content_hash"]


def content_hash(*parts: bytes | str) -> str:
    """SHA-256 over length-prefixed parts, as 64 hex digits (no two lists of parts collide)."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()


class QuestionKind(StrEnum):
    """What sort of answer is wanted."""

    DIAGNOSIS = "diagnosis"
    VQA_CLOSED = "vqa_closed"
    VQA_OPEN = "vqa_open"
    REPORT = "report"


@dataclass(frozen=True)
class Question:
    """What is asked of a study.  Agents see all of it; the assessment sees none of it.

    Args:
        options: the closed set that the answer is chosen from; empty for open questions.
        text: the question in words, for agents that read text.
        kind: see :class:`QuestionKind`.
        task: the diagnosis task's name where one is known (it selects a specialist's head).
    """

    options: tuple[str, ...] = ()
    text: str = ""
    kind: QuestionKind = QuestionKind.DIAGNOSIS
    task: str | None = None

    @property
    def key(self) -> str:
        """Hash of everything an answer may depend on."""
        return content_hash(json.dumps([self.kind, self.text, list(self.options), self.task]))


@dataclass(frozen=True)
class Instance:
    """One image of a series; ``source`` is a file, or the bytes of one."""

    source: Path | bytes

    def digest(self) -> str:
        """SHA-256 of the encoded bytes, which names the content without showing it."""
        raw = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha256(raw).hexdigest()

    def pixels(self) -> NDArray[np.uint8]:
        """Decode now: RGB, uint8, (height, width, 3).

        Raises:
            ImageError: with its reason, when the image cannot be used.
        """
        return read_image(self.source)

    def __repr__(self) -> str:  # a path may hold a patient's name
        return "Instance(…)"


@dataclass(frozen=True)
class Series:
    """Instances that belong together, in reading order."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class Study:
    """One imaging study and what is asked of it.

    Args:
        id: opaque and stable; never a patient's identifier (intake hashes those).
        series: at least one series with at least one instance.
        question: see :class:`Question`.
        tags: allow-listed, de-identified attributes of the source.
        context: de-identified history for agents; never used for routing.
        group: what belongs together (the patient), opaque.
        received_at: timezone-aware.
    """

    id: str
    series: tuple[Series, ...]
    question: Question = Question()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    context: str = ""
    group: str = ""
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def from_image(
        cls,
        source: str | Path | bytes,
        *,
        question: Question | None = None,
        id: str | None = None,
        group: str = "",
    ) -> Study:
        """A study of one image file.  Nothing is opened until pixels are asked for.

        Without an ``id``, the id is derived from the path (or from the bytes), hashed.
        """
        where = source if isinstance(source, bytes) else Path(source)
        if id is None:
            id = content_hash(where if isinstance(where, bytes) else str(where.absolute()))[:16]
        return cls(
            id=id,
            series=(Series((Instance(where),)),),
            question=question or Question(),
            group=group,
        )

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances over all series, in order."""
        return tuple(i for s in self.series for i in s.instances)

    def __repr__(self) -> str:
        return f"Study({self.id!r}, {len(self.instances)} instances)"
