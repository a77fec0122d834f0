"""The image viewer: what a window makes of the pixels, and the part that zooms in the browser.

Window, slice and inversion are drawn here, by the server, from the full range of values;
zoom and pan happen in the browser and tell nobody.  No pixel is written to a file or a log.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Window", "drawn", "full_window", "show", "thumbnail"]

_SIDE = 1024

_HTML = """<div class="stage" tabindex="0" role="img"><img draggable="false" alt="">
<div class="bar"><button data-z="out" title="Smaller">−</button><span>100 %</span>
<button data-z="in" title="Larger">+</button>
<button data-z="fit" title="Whole image">Fit</button></div></div>"""


@dataclass(frozen=True)
class Window:
    """What of the range of values is shown: ``centre`` ± ``width`` / 2, in the image's unit."""

    name: str
    centre: float
    width: float


def full_window(values: NDArray[np.generic]) -> Window:
    """The whole range of an image's values."""
    low, high = float(np.min(values)), float(np.max(values))
    return Window("full range", (low + high) / 2, max(high - low, 1.0))


def drawn(values: NDArray[np.generic], window: Window | None, *, invert: bool) -> bytes:
    """A PNG of one image under a window.

    Args:
        values: (height, width) in the image's unit, or uint8 (height, width, 3) RGB.
        window: None leaves RGB values as they are.
    """
    scaled = np.asarray(values, np.float32)
    if window is not None:
        low = window.centre - window.width / 2
        scaled = (scaled - low) / max(window.width, 1e-6) * 255
    out = np.clip(scaled, 0, 255).round().astype(np.uint8)
    if invert:
        out = np.asarray(255 - out, np.uint8)
    image = Image.fromarray(out)
    image.thumbnail((_SIDE, _SIDE))
    return _png(image)


def thumbnail(rgb: NDArray[np.uint8], side: int = 220) -> bytes:
    """A small square PNG, padded with black, for images side by side."""
    image = Image.fromarray(rgb)
    factor = side / max(image.size)
    image = image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    )
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return _png(square)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def show(png: bytes, *, image: str, alt: str) -> None:
    """Mount the viewer.

    Args:
        image: names what is shown; zoom and pan start anew when it changes.
        alt: says in words what is shown.
    """
    width, height = Image.open(io.BytesIO(png)).size
    src = "data:image/png;base64," + base64.b64encode(png).decode()
    data = {"src": src, "image": image, "alt": alt, "width": width, "height": height}
    _component()(data=data, key="cb_viewer")


_MADE: list[Any] = []


def _component() -> Any:
    # registered once a process: again would be a warning and a new element
    if not _MADE:
        import streamlit as st

        css, js = (
            Path(__file__).with_name(f"viewer.{x}").read_text("utf-8") for x in ("css", "js")
        )
        made = st.components.v2.component("curbside.viewer", html=_HTML, css=css, js=js)
        _MADE.append(made)
    return _MADE[0]
