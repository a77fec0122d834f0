"""Every error that curbside raises on purpose, and who must act on it.

The hierarchy, drawn as a tree::

    CurbsideError
    ├── UserError                 the user must fix it           exit code 2
    │   ├── ConfigError           curbside.yaml, a policy, a fleet file
    │   ├── CasesError            a manifest: every bad row at once
    │   ├── ImageError            one image: unreadable, truncated, too large, wrong type
    │   ├── IndexMismatch         an index of another encoder, code version or content
    │   ├── IndexCorrupt          checksums differ, a file is missing or half-written
    │   ├── NotBuilt              a step before this one has not been run
    │   ├── Conflict              somebody else changed a case in between
    │   └── MissingExtra          an optional dependency is not installed
    ├── BackendError              a back end failed              exit code 1
    │   ├── AgentUnavailable      an agent cannot be reached or loaded
    │   └── StorageError          the disk is full, read-only or gone
    └── InternalError             a bug in curbside              exit code 1

A message says what happened, which value, which values are valid, and the next
command to type.  It never carries pixels, names or ids of a patient: refer to
cases by their line in the manifest or by their keyed study id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "IMAGE_REASONS",
    "UNSAFE",
    "AgentUnavailable",
    "BackendError",
    "CasesError",
    "ConfigError",
    "Conflict",
    "CurbsideError",
    "ImageError",
    "IndexCorrupt",
    "IndexMismatch",
    "InternalError",
    "MissingExtra",
    "NotBuilt",
    "RowProblem",
    "StorageError",
    "UserError",
]


#: Why an image cannot be used → what that means; docs/studies.md says more.
IMAGE_REASONS = {
    "missing": "there is no such file",
    "empty": "no byte in it",
    "truncated": "it ends before its pixels do",
    "unreadable": "header or pixels are broken",
    "wrong_type": "not a kind of file that is read",
    "not_an_image": "a DICOM object that shows no picture of a patient: a report, a plan, a mask",
    "no_pixels": "a DICOM image without pixels",
    "duplicate": "another object of the study has the same UID and other content",
    "unsupported": "nothing that is installed decodes it",
    "too_large": "it is, claims or would become larger than is opened",
    "too_deep": "its sequences are nested deeper than is opened",
    "timeout": "decoding took too long",
    "out_of_memory": "decoding wanted too much memory",
    "crashed": "the decoder died of it",
}
#: Reasons that make a file unsafe to open.
UNSAFE = frozenset({"too_large", "too_deep", "timeout", "out_of_memory", "crashed"})


#: Extras whose packages are wanted without what they depend on.
_INSTALL = {"vlm": "make demo-vlm, or: pip install --no-deps -r requirements-vlm.txt"}


class CurbsideError(Exception):
    """Root of the tree.

    Attributes:
        code: stable machine-readable name, e.g. ``"config"``; part of the API.
        hint: the next command or action, one line; printed below the message.
    """

    code = "curbside"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message


class UserError(CurbsideError):
    """The user must fix it; printed without a traceback."""

    code = "user"
    exit_code = 2


class ConfigError(UserError):
    """A configuration key or value is wrong; names key, value, valid values and line."""

    code = "config"


@dataclass(frozen=True)
class RowProblem:
    """One bad row of a manifest: ``line`` counts from 1 with the header as line 1."""

    line: int
    reason: str


class CasesError(UserError):
    """A manifest cannot be used.  ``problems`` holds every bad row, not only the first."""

    code = "cases"

    def __init__(
        self, message: str, *, problems: Sequence[RowProblem] = (), hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class ImageError(UserError):
    """One image cannot be used.

    ``reason`` is one of :data:`IMAGE_REASONS`; it is what a failed case carries instead of an
    answer.
    """

    code = "image"

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    @property
    def unsafe(self) -> bool:
        """Whether opening it would have cost too much: such a file is quarantined."""
        return self.reason in UNSAFE

    def __reduce__(self) -> tuple[Any, ...]:  # two arguments, which pickle would not know
        return type(self), (self.reason, self.message)


class IndexMismatch(UserError):
    """An index is whole but belongs to something else (encoder, projection, code, data)."""

    code = "index-mismatch"


class IndexCorrupt(UserError):
    """An index is half-written or its bytes differ from its manifest."""

    code = "index-corrupt"


class NotBuilt(UserError):
    """Something that an earlier command makes is not there yet."""

    code = "not-built"


class Conflict(UserError):
    """A case has changed since the person saw it; names who changed it."""

    code = "conflict"


class MissingExtra(UserError):
    """An optional dependency is missing; names the extra that brings it."""

    code = "missing-extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the optional extra '{extra}', which is not installed",
            hint=_INSTALL.get(extra, f"pip install 'curbside[{extra}]'"),
        )


class BackendError(CurbsideError):
    """Something outside curbside failed: a server, a disk, a model runtime."""

    code = "backend"


class AgentUnavailable(BackendError):
    """An agent cannot be reached or loaded."""

    code = "agent-unavailable"


class StorageError(BackendError):
    """Writing or reading a store failed; what was stored before is untouched."""

    code = "storage"


class InternalError(CurbsideError):
    """A bug in curbside: an invariant that the code itself guarantees was broken."""

    code = "internal"
