"""The image viewer: what a window makes of the pixels, and the part that zooms in the browser.

Window, slice and inversion are drawn here, by the server, from the full range of values;
zoom and pan happen in the browser and tell nobody, the wheel asks for another slice.  No pixel
is written to a file or a log.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Stage", "Window", "drawn", "full_window", "show", "thumbnail"]

_SIDE = 1024
_KEY = "cb_viewer"

_HTML = """<div class="stage" tabindex="0" role="img"><img draggable="false" alt="">
<div class="corner place"></div><div class="corner window"></div><div class="problem"></div>
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


@dataclass(frozen=True)
class Stage:
    """What stands around an image.

    Args:
        stack: names the images that are leafed through; zoom and pan last as long as it does.
        at, count: which of them is shown, from 0.
        alt: says in words what is shown.
        place, window: the corners' texts.
        problem: why there is no image.
    """

    stack: str
    at: int
    count: int
    alt: str
    place: str = ""
    window: str = ""
    problem: str = ""


def show(png: bytes | None, stage: Stage, leafed: Callable[[int], None]) -> None:
    """Mount the viewer.

    Args:
        png: None where there is no image; then the stage has a problem.
        leafed: called with the image of the stack that the wheel asks for, from 0.
    """
    width, height = Image.open(io.BytesIO(png)).size if png else (1, 1)
    src = "data:image/png;base64," + base64.b64encode(png).decode() if png else ""
    said = asdict(stage)
    data = {**said, "image": said.pop("stack"), "src": src, "width": width, "height": height}

    def changed() -> None:
        import streamlit as st

        wanted = st.session_state[_KEY].get("leaf")
        # from a browser: anything may come
        if isinstance(wanted, int) and 0 <= wanted < stage.count:
            leafed(wanted)

    _component()(data=data, key=_KEY, on_leaf_change=changed)


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
