"""curbside: route each imaging study to the model most likely to read it right.

This folder is the import name and the ground floor (study and record types, errors,
configuration, cases); the five floors above it are linked in.  Nothing here may import
from them, except the lazy names below.  Research software, not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curbside.readings import CaseRecord, Reading
    from curbside.router.api import Router
    from curbside.study import Question, Study

__version__ = "0.1.0"

RESEARCH_USE = "Research software, not a medical device. Not for clinical decisions."

__all__ = ["RESEARCH_USE", "CaseRecord", "Question", "Reading", "Router", "Study", "__version__"]

_LAZY = {
    "CaseRecord": "curbside.readings",
    "Question": "curbside.study",
    "Reading": "curbside.readings",
    "Router": "curbside.router.api",
    "Study": "curbside.study",
}


def __getattr__(name: str) -> Any:
    """Load public names on first use, so that importing curbside loads no model library."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'curbside' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
