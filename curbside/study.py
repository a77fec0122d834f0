"""What comes in: a study, its images and the question asked of it.

Knows nothing of file formats (``curbside.pixels`` and ``curbside.intake`` do) nor of models.
Pixels are lazy: a :class:`Study` can be logged, pickled or checkpointed without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside import decoding
from curbside.archives import Member
from curbside.errors import ImageError
from curbside.pixels import MAX_BYTES, read_bytes, read_image
from curbside.sniffing import PREFIX, is_dicom
from curbside.windows import Window

__all__ = ["Instance", "Question", "QuestionKind", "Series", "Study", "content_hash"]

#: Goes into digests of DICOM frames: another way of rendering them makes other pictures.
_RENDERING = "dicom-1"


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
    """One image of a series: a file, the bytes of one, or a frame of a DICOM object.

    Args:
        source: a file, the bytes of one, a member of an archive; or the reason why there is
            nothing to read, which then comes up wherever the image is asked for.
        frame: of a DICOM object, from 0; None takes the middle one.
        window: of a grey DICOM object: a name of ``curbside.windows.WINDOWS`` (CT only), (level,
            width) in the object's units, or None for what the object says.
    """

    source: Path | bytes | Member | ImageError
    frame: int | None = None
    window: Window = None

    def read(self) -> bytes:
        """The encoded bytes.  Raises ImageError; names no path."""
        if isinstance(self.source, ImageError):
            raise self.source
        if isinstance(self.source, Member):
            return self.source.read(MAX_BYTES)
        return read_bytes(self.source)

    def digest(self, raw: bytes | None = None) -> str:
        """SHA-256 that names the content without showing it.

        Of the encoded bytes; for a DICOM object with frame and window, since one object holds
        many pictures.

        Args:
            raw: what :meth:`read` gave, where that is at hand.

        Raises:
            ImageError: the bytes cannot be read.
        """
        raw = self.read() if raw is None else raw
        whole = hashlib.sha256(raw).hexdigest()
        if not is_dicom(raw[:PREFIX]):
            return whole
        return content_hash(_RENDERING, whole, json.dumps([self.frame, self.window]))

    def pixels(self, raw: bytes | None = None) -> NDArray[np.uint8]:
        """Decode now: RGB, uint8, (height, width, 3).

        Args:
            raw: what :meth:`read` gave, where that is at hand.

        Raises:
            ImageError: with its reason, when the image cannot be used.
        """
        return read_image(self.read() if raw is None else raw, self.frame, self.window)

    def values(self) -> NDArray[np.float32]:
        """One grey DICOM frame in its own units (Hounsfield for CT): float32 (height, width).

        Raises:
            ImageError: also ``unsupported`` where there are no units: a photograph, a JPEG.
        """
        raw = self.read()
        if not is_dicom(raw[:PREFIX]):
            raise ImageError("unsupported", "only DICOM objects hold values in units")
        return decoding.values(raw, self.frame)

    def __repr__(self) -> str:  # a path may hold a patient's name
        return "Instance(…)"


@dataclass(frozen=True)
class Series:
    """Instances that belong together, in reading order.  ``tags`` as in :class:`Study`."""

    instances: tuple[Instance, ...]
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Study:
    """One imaging study and what is asked of it.

    Args:
        id: opaque and stable; never a patient's identifier (intake hashes those).
        series: at least one series with at least one instance.
        question: see :class:`Question`.
        tags: allow-listed, de-identified attributes of the longest series.
        context: de-identified history for agents; never used for routing.
        group: what belongs together (the patient), opaque.
        received_at: timezone-aware.
        incomplete: why objects of the study cannot be used, one reason each
            (:data:`curbside.errors.IMAGE_REASONS`); empty where all can.
    """

    id: str
    series: tuple[Series, ...]
    question: Question = Question()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    context: str = ""
    group: str = ""
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    incomplete: tuple[str, ...] = ()

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

    @classmethod
    def from_dicom(
        cls,
        source: str | Path | bytes,
        *,
        question: Question | None = None,
        id: str | None = None,
        group: str = "",
    ) -> Study:
        """The one study in a DICOM file, a folder or a zip archive.  Only headers are read.

        Without ``id`` and ``group`` these are keyed hashes of the object's own.

        Raises:
            ImageError: nothing in it can be used, or it holds several studies:
                :func:`curbside.intake.studies_in` gives each.
        """
        from curbside.intake import one_study

        study = one_study(source, question=question)
        return replace(study, id=id or study.id, group=group or study.group)

    @classmethod
    def unusable(
        cls, id: str, problem: ImageError, *, question: Question | None = None, group: str = ""
    ) -> Study:
        """A study that cannot be used, so that it ends in a record that says why."""
        return cls(id, (Series((Instance(problem),)),), question or Question(), group=group)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances over all series, in order."""
        return tuple(i for s in self.series for i in s.instances)

    def __repr__(self) -> str:
        return f"Study({self.id!r}, {len(self.instances)} instances)"
