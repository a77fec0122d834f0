"""From an image file to RGB pixels, defensively and the same way everywhere.

What is done on purpose: the file's size and its header's dimensions are checked before
anything is decoded; EXIF orientation is applied; transparency is laid over black, the
background of medical pictures; images of more than 8 bits are stretched between their
0.5th and 99.5th percentile; grey becomes three equal channels; of an animation the first
frame is taken.  Knows no DICOM and no model.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from curbside.errors import ImageError

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "read_bytes", "read_image", "to_square"]

#: Formats that are read; everything else is ``wrong_type``.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
#: Largest file, bytes.
MAX_BYTES = 256 * 2**20
#: Most pixels (width × height) after decoding.
MAX_PIXELS = 64 * 10**6
#: Grey modes with more than eight bits a sample.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")


def read_image(source: Path | bytes) -> NDArray[np.uint8]:
    """Decode one image.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        ImageError: ``missing | empty | truncated | unreadable | wrong_type | too_large``.
            The message names no path, since file names can name patients.
    """
    raw = source if isinstance(source, bytes) else _read(source)
    if not raw:
        raise ImageError("empty", "the image file is empty (0 bytes)")
    with warnings.catch_warnings():
        # our own limit below is stricter than the library's warning
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(raw), formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError(
                "wrong_type", f"not an image of a known type; valid: {', '.join(FORMATS)}"
            ) from None
        except Image.DecompressionBombError:
            raise _too_large("more than twice the library's limit of") from None
        except Exception as e:  # decoders raise many types on broken headers
            raise ImageError("unreadable", f"the header is broken ({type(e).__name__})") from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(f"{width} x {height}")
        try:
            return _to_rgb(image)
        except ImageError:
            raise
        except Exception as e:
            reason = "truncated" if "truncated" in str(e) or "EOF" in str(e) else "unreadable"
            raise ImageError(reason, f"the pixels cannot be decoded ({type(e).__name__})") from None


def read_bytes(source: Path | bytes) -> bytes:
    """The encoded bytes, not decoded, so that they can be named by their hash.

    Raises:
        ImageError: ``missing | unreadable | wrong_type | too_large``; names no path.
    """
    return source if isinstance(source, bytes) else _read(source)


def to_square(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Stretch to ``side`` × ``side`` (bilinear with antialiasing).

    Stretched, not padded: black bars would tell the encoder an image's aspect ratio, which
    differs between sources more than between findings.

    Returns:
        uint8 (side, side, 3).
    """
    if rgb.shape[:2] == (side, side):
        return rgb
    resized = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(
                "too_large", f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing", "the image file does not exist") from None
    except IsADirectoryError:
        raise ImageError("wrong_type", "the image is a folder, not a file") from None
    except OSError as e:
        raise ImageError("unreadable", f"the image file cannot be read ({e.strerror})") from None


def _too_large(what: str) -> ImageError:
    return ImageError("too_large", f"{what} pixels; at most {MAX_PIXELS:,} are decoded")


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ImageError("unreadable", "the image holds values that are not finite")
        low, high = np.percentile(values, (0.5, 99.5))
        scaled = (values - low) / max(high - low, 1e-12)
        grey = (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.asarray(image.convert("RGB"))
