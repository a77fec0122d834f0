"""Small changes of an image that must not change what is done with the study.

What happens to pictures between a scanner and an archive: compression, resampling, another
window, a trimmed or shifted frame, noise.  Each is a pure function of the pixels; noise is
seeded by them, so that equal images stay equal.  Knows no model and no decision.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["LARGER", "PERTURBATIONS", "SMALL", "Pixels"]

Pixels = NDArray[np.uint8]


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """JPEG at a quality in [1, 95], Pillow's default chroma subsampling."""

    def change(rgb: Pixels) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file).convert("RGB"))

    return change


def resize(factor: float) -> Callable[[Pixels], Pixels]:
    """Bilinear resampling to ``factor`` times the size."""

    def change(rgb: Pixels) -> Pixels:
        h, w = rgb.shape[:2]
        size = (max(1, round(w * factor)), max(1, round(h * factor)))
        return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))

    return change


def window(width: float) -> Callable[[Pixels], Pixels]:
    """The grey window widened by a share ``width`` about mid-grey (narrowed below 0)."""

    def change(rgb: Pixels) -> Pixels:
        return _clipped((rgb.astype(np.float32) - 127.5) / (1 + width) + 127.5)

    return change


def contrast(gain: float) -> Callable[[Pixels], Pixels]:
    """Differences from the image's mean multiplied by 1 + ``gain``."""

    def change(rgb: Pixels) -> Pixels:
        mean = rgb.mean(dtype=np.float64)
        return _clipped((rgb.astype(np.float32) - mean) * (1 + gain) + mean)

    return change


def crop(share: float) -> Callable[[Pixels], Pixels]:
    """A share of height and width taken off *each* side."""

    def change(rgb: Pixels) -> Pixels:
        h, w = rgb.shape[:2]
        y, x = min(round(h * share), (h - 1) // 2), min(round(w * share), (w - 1) // 2)
        return rgb[y : h - y, x : w - x]

    return change


def shift(pixels: int) -> Callable[[Pixels], Pixels]:
    """The picture moved right and down, black where nothing was."""

    def change(rgb: Pixels) -> Pixels:
        if min(rgb.shape[:2]) <= pixels:
            return rgb
        moved = np.zeros_like(rgb)
        moved[pixels:, pixels:] = rgb[:-pixels, :-pixels]
        return moved

    return change


def noise(sigma: float) -> Callable[[Pixels], Pixels]:
    """Gaussian noise of standard deviation ``sigma`` / 255, seeded by the pixels."""

    def change(rgb: Pixels) -> Pixels:
        rng = np.random.default_rng(zlib.crc32(rgb.tobytes()))
        drawn = rng.standard_normal(rgb.shape, np.float32)
        return _clipped(rgb.astype(np.float32) + sigma * drawn)

    return change


def _clipped(values: NDArray[np.float32]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


#: What every archive does: at least 97 % of routes must not move under any of them.  A crop
#: is of height and width, half on each side: crop-4% takes 8 % of the area.
SMALL: Mapping[str, Callable[[Pixels], Pixels]] = MappingProxyType(
    {
        "jpeg-75": jpeg(75),
        "resize-0.75": resize(0.75),
        "window+3%": window(0.03),
        "window-3%": window(-0.03),
        "crop-4%": crop(0.02),
        "shift-8px": shift(8),
        "noise-2": noise(2),
    }
)
#: What happens too, and more: reported as a curve, none below 90 %.
LARGER: Mapping[str, Callable[[Pixels], Pixels]] = MappingProxyType(
    {
        "jpeg-50": jpeg(50),
        "crop-8%": crop(0.04),
        "noise-5": noise(5),
        "contrast+10%": contrast(0.1),
        "contrast-10%": contrast(-0.1),
    }
)
PERTURBATIONS: Mapping[str, Callable[[Pixels], Pixels]] = MappingProxyType({**SMALL, **LARGER})
