"""Images on their way to a model: re-encoded here, within dimensions, never as an address.

What leaves is a PNG made anew from pixels: no metadata, no bytes of the file, no URL that
a server would have to fetch.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.agents.fleet_spec import Limits
from curbside.errors import ImageError
from curbside.study import Instance, Study

__all__ = ["data_url", "encoded", "png", "shown"]


def shown(study: Study, most: int) -> tuple[Instance, ...]:
    """At most ``most`` images of a study, evenly spaced in reading order, ends included.

    Raises:
        ImageError: the study has no image.
    """
    every = study.instances
    if not every:
        raise ImageError("missing", "the study has no image")
    if len(every) <= most:
        return every
    if most == 1:
        return (every[len(every) // 2],)
    at = np.linspace(0, len(every) - 1, most).round().astype(int)
    return tuple(every[i] for i in at.tolist())


def encoded(study: Study, limits: Limits) -> tuple[bytes, ...]:
    """PNG bytes of what a model is shown of a study.

    Raises:
        ImageError: one of the images cannot be used; a study is read whole or not at all.
    """
    return tuple(png(i.pixels(), limits) for i in shown(study, limits.images))


def png(rgb: NDArray[np.uint8], limits: Limits) -> bytes:
    """uint8 (h, w, 3) as PNG bytes, resized so that its sides lie within the limits.

    The aspect ratio is kept unless it is so long that both limits cannot hold; then the
    longer side wins and the shorter one is stretched.
    """
    height, width = rgb.shape[:2]
    factor = 1.0
    if max(height, width) > limits.greatest_side:
        factor = limits.greatest_side / max(height, width)
    elif min(height, width) < limits.least_side:
        factor = limits.least_side / min(height, width)
        factor = min(factor, limits.greatest_side / max(height, width))
    size = [
        min(max(round(side * factor), limits.least_side), limits.greatest_side)
        for side in (width, height)
    ]
    image = Image.fromarray(rgb)
    if size != [width, height]:
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


@lru_cache(256)
def data_url(raw: bytes) -> str:
    """PNG bytes as a data URL; the orders of one question share it."""
    return "data:image/png;base64," + base64.b64encode(raw).decode("ascii")
