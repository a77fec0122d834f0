"""From an image file to RGB pixels, defensively and the same way everywhere.

What is done on purpose: the file's size and its header's dimensions are checked before
anything is decoded; EXIF orientation is applied; transparency is laid over black, the
background of medical pictures; images of more than 8 bits are stretched between their
0.5th and 99.5th percentile; grey becomes three equal channels; of an animation the first
frame is taken.  A plain JPEG or PNG of moderate size is decoded here, since its header says
what it will take and no process need be started; everything else is decoded in another one
(``curbside.decoding``).  DICOM objects are told by their first bytes and go there too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from curbside import decoding
from curbside.errors import ImageError
from curbside.sniffing import PREFIX, is_dicom
from curbside.windows import Window

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "check_image_header",
    "decode_image",
    "read_bytes",
    "read_image",
    "to_square",
]

#: Formats that are read; everything else is ``wrong_type``.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
#: Endings of such files; what a file is, its first bytes say.
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)
#: Largest file, bytes.
MAX_BYTES = 256 * 2**20
#: Most pixels (width × height) after decoding.
MAX_PIXELS = 64 * 10**6
#: What is decoded in this process: formats, most pixels, most bytes.
_HERE, _HERE_PIXELS, _HERE_BYTES = ("JPEG", "PNG"), 16 * 10**6, 16 * 2**20
#: Grey modes with more than eight bits a sample.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")


def read_image(
    source: Path | bytes, frame: int | None = None, window: Window = None
) -> NDArray[np.uint8]:
    """Decode one image, or one frame of a DICOM object.

    Args:
        frame: of a DICOM object, from 0; None takes the middle one.
        window: of a grey DICOM object; None as the object says.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        ImageError: with its reason.  The message names no path, since file names can name
            patients.
    """
    raw = read_bytes(source)
    if is_dicom(raw[:PREFIX]):
        return decoding.pixels(raw, frame, window)
    form, size = check_image_header(raw)
    if form in _HERE and size <= _HERE_PIXELS and len(raw) <= _HERE_BYTES:
        return decode_image(raw)
    return decoding.picture(raw)


def check_image_header(source: Path | bytes) -> tuple[str, int]:
    """Format and number of pixels of an image, from its header alone.

    Raises:
        ImageError: ``missing | empty | unreadable | wrong_type | too_large``; names no path.
    """
    with _checked(source) as image:
        return image.format or "", image.size[0] * image.size[1]


def decode_image(raw: bytes) -> NDArray[np.uint8]:
    """Decode an image in this process; :func:`read_image` chooses the process.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        ImageError: also ``truncated``; see :func:`check_image_header`.
    """
    with _checked(raw) as image:
        try:
            return _to_rgb(image)
        except (ImageError, MemoryError):
            raise
        except Exception as e:
            reason = "truncated" if "truncated" in str(e) or "EOF" in str(e) else "unreadable"
            raise ImageError(reason, f"the pixels cannot be decoded ({type(e).__name__})") from None


@contextmanager
def _checked(source: Path | bytes) -> Iterator[Image.Image]:
    """An image whose header is whole and claims few enough pixels; nothing is decoded yet."""
    with _opened(source) as f, warnings.catch_warnings():
        # our own limit below is stricter than the library's warning
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(f, formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError(
                "wrong_type", f"not an image of a known type; valid: {', '.join(FORMATS)}, DICOM"
            ) from None
        except Image.DecompressionBombError:
            raise _too_large("more than twice the library's limit of") from None
        except Exception as e:  # decoders raise many types on broken headers
            raise ImageError("unreadable", f"the header is broken ({type(e).__name__})") from None
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(f"{width} x {height}")
            yield image


def _opened(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        if not source:
            raise ImageError("empty", "the image file is empty (0 bytes)")
        return io.BytesIO(source)
    try:
        if not _size(source):
            raise ImageError("empty", "the image file is empty (0 bytes)")
        return source.open("rb")
    except OSError as e:
        raise _cannot_read(e) from None


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
        _size(path)
        return path.read_bytes()
    except OSError as e:
        raise _cannot_read(e) from None


def _size(path: Path) -> int:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(
            "too_large", f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read"
        )
    return size


def _cannot_read(e: OSError) -> ImageError:
    if isinstance(e, FileNotFoundError):
        return ImageError("missing", "the image file does not exist")
    if isinstance(e, IsADirectoryError):
        return ImageError("wrong_type", "the image is a folder, not a file")
    return ImageError("unreadable", f"the image file cannot be read ({e.strerror})")


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
