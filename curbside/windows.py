"""Named windows for CT, and what a window may be.

A window (level, width) maps values in Hounsfield units to grey: ``level - width / 2`` and
below is black, ``level + width / 2`` and above is white (DICOM PS3.3, C.11.2.1.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from curbside.errors import UserError

__all__ = ["WINDOWS", "Window", "window_values"]

#: A name of :data:`WINDOWS`, (level, width) in the object's own units (Hounsfield for CT), or
#: None: as the file says.
Window = str | tuple[float, float] | None

#: Name → (level, width) in Hounsfield units, the usual settings of radiology practice.
WINDOWS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "abdomen": (50.0, 400.0),
        "angiography": (300.0, 600.0),
        "bone": (400.0, 1800.0),
        "brain": (40.0, 80.0),
        "liver": (60.0, 160.0),
        "lung": (-600.0, 1500.0),
        "mediastinum": (50.0, 350.0),
        "soft_tissue": (40.0, 400.0),
        "stroke": (35.0, 30.0),
        "subdural": (75.0, 215.0),
        "temporal_bone": (600.0, 2800.0),
    }
)


def window_values(window: str | tuple[float, float]) -> tuple[float, float]:
    """(level, width) of a window.

    Raises:
        UserError: no such name, or a width that is not above 0.
    """
    if isinstance(window, str):
        if window not in WINDOWS:
            raise UserError(f"window {window!r} is unknown; valid: {', '.join(WINDOWS)}")
        return WINDOWS[window]
    level, width = map(float, window)
    if not width > 0:
        raise UserError(f"a window's width must be above 0, not {width:g}")
    return level, width
