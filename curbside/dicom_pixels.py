"""From a DICOM object's stored values to what a person would see: RGB, eight bits.

The order is the standard's (PS3.4, N.2): modality LUT or rescale, VOI LUT or window, then the
inversion of MONOCHROME1.  CT comes out of the first in Hounsfield units.  Values of up to 16
bits are looked up in one table of all of them, so a large image costs no floating point.
Decoding is pydicom's, with pylibjpeg; python-gdcm is never asked, since it crashes on broken
files.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi,
    apply_windowing,
)
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, UncompressedTransferSyntaxes

from curbside.dicom import check_image, functional_group, open_dataset, quiet
from curbside.errors import ImageError
from curbside.pixels import MAX_PIXELS
from curbside.windows import WINDOWS

__all__ = ["missing_plugin", "read_frame", "read_values"]

_GREY = ("MONOCHROME1", "MONOCHROME2")
#: How a grey image without a window of its own is stretched, as plain images of many bits are.
_STRETCH = (0.5, 99.5)
#: Pixels of which the percentiles are taken, at most.
_SAMPLED = 4_000_000
#: Pixels that are looked up at a time.
_LOOKED_UP = 2**20
_CUT_SHORT = (
    "truncat",
    "eof",
    "end of",
    "less than",
    "insufficient",
    "not enough",
    "unexpected end",
)
#: What the name of a transfer syntax holds → the distribution that decodes it.
_PLUGINS = {
    "JPEG 2000": "pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg-libjpeg",
}

#: JPEG markers (ISO 10918-1, table B.1; ISO 14495-1) that are followed by a frame's size.
_STARTS_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}

Values = NDArray[Any]


def read_frame(
    raw: bytes,
    frame: int | None = None,
    window: tuple[float, float] | None = None,
    *,
    hounsfield: bool = False,
) -> NDArray[np.uint8]:
    """One frame as it is looked at.

    Args:
        raw: the whole object.
        frame: from 0; None takes the middle one.
        window: (level, width) in the modality's units; None takes the object's own first VOI
            LUT or window, soft tissue for a CT without one, else percentiles.
        hounsfield: the window is meant for CT, and for nothing else.

    Returns:
        uint8 (height, width, 3), RGB.

    Raises:
        ImageError: with its reason, when the frame cannot be used.
    """
    ds, values, frame = _decode(raw, frame)
    with quiet():
        if hounsfield and str(ds.get("Modality")) != "CT":
            raise ImageError("unsupported", "named windows are for CT, and this is another kind")
        photometric = str(ds.PhotometricInterpretation)
        if photometric == "PALETTE COLOR":
            return _eight_bits(apply_color_lut(values, ds)[..., :3])
        if values.ndim == 3:
            if values.shape[2] != 3:
                raise ImageError(
                    "unsupported", f"pixels of {values.shape[2]} samples, which is no known colour"
                )
            return _eight_bits(values, int(ds.BitsStored))
        grey = _grey(ds, values, frame, window)
        return np.repeat(grey[:, :, None], 3, axis=2)


def read_values(raw: bytes, frame: int | None = None) -> NDArray[np.float32]:
    """One grey frame in the modality's units: Hounsfield for CT.

    Returns:
        float32 (height, width).

    Raises:
        ImageError: also ``unsupported`` for colour images, which have no such values.
    """
    ds, values, frame = _decode(raw, frame)
    if values.ndim != 2 or ds.PhotometricInterpretation not in _GREY:
        raise ImageError("unsupported", "a colour image has no values in units")
    with quiet():
        return np.asarray(_to_units(ds, frame)(values), np.float32)


def missing_plugin(syntax: UID) -> str:
    """What is not installed that this transfer syntax needs, or ``""``.

    Raises:
        ImageError: ``unsupported``: nothing decodes it, installed or not.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError("unsupported", f"nothing decodes {_named(syntax)}") from None
    if "gdcm" in decoder.available_plugins:
        decoder.remove_plugin("gdcm")
    if syntax in UncompressedTransferSyntaxes or decoder.available_plugins:
        return ""
    return next((p for part, p in _PLUGINS.items() if part in syntax.name), "pylibjpeg")


def _decode(raw: bytes, frame: int | None) -> tuple[Dataset, Values, int]:
    with BytesIO(raw) as f:
        checked = open_dataset(f, len(raw))
        with quiet():
            check_image(checked, f, len(raw))
        f.seek(0)
        ds = open_dataset(f, len(raw), pixels=True)
    with quiet():
        _fill_in(ds)
        syntax = UID(str(ds.file_meta.TransferSyntaxUID))
        missing = missing_plugin(syntax)
        if missing:
            raise ImageError(
                "unsupported", f"{_named(syntax)} needs {missing}, which is not installed"
            )
        frames = max(1, int(ds.get("NumberOfFrames") or 1))
        at = frames // 2 if frame is None else frame
        if not 0 <= at < frames:
            raise ImageError("missing", f"there is no frame {at}; the object has {frames}")
        try:
            if syntax.is_encapsulated:
                _check_claim(get_frame(ds.PixelData, at, number_of_frames=frames))
            return ds, pixel_array(ds, index=at), at
        except (ImageError, MemoryError):
            raise
        except Exception as e:  # decoders raise many types on broken pixels
            short = any(words in str(e).lower() for words in _CUT_SHORT)
            raise ImageError(
                "truncated" if short else "unreadable",
                f"the pixels cannot be decoded ({type(e).__name__}, {_named(syntax)})",
            ) from None


def _check_claim(stream: bytes) -> None:
    """The size that a compressed frame claims for itself, which its decoder will believe."""
    start, claim = 2, (0, 0)
    if stream[:2] == b"\xff\xd8":  # JPEG and JPEG-LS: segments up to a start of frame
        while len(stream) >= start + 9 and stream[start] == 0xFF:
            marker, length = struct.unpack(">xBH", stream[start : start + 4])
            if marker in _STARTS_OF_FRAME:
                claim = struct.unpack(">HH", stream[start + 5 : start + 9])
                break
            start += 1 if marker == 0xFF else 2 + length
    at = stream.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000, boxed or bare
    if at >= 0 and len(stream) >= at + 24:
        right, bottom, left, top = struct.unpack(">4I", stream[at + 8 : at + 24])
        claim = (bottom - top, right - left)
    if claim[0] * claim[1] > MAX_PIXELS:
        raise ImageError(
            "too_large",
            f"a frame claims {claim[0]} x {claim[1]} pixels; at most {MAX_PIXELS:,} are decoded",
        )


def _fill_in(ds: Dataset) -> None:
    """What old scanners leave out and can mean one thing only."""
    ds.SamplesPerPixel = ds.get("SamplesPerPixel") or 1
    if ds.SamplesPerPixel == 1 and not ds.get("PhotometricInterpretation"):
        ds.PhotometricInterpretation = "MONOCHROME2"
    if ds.SamplesPerPixel > 1 and ds.get("PlanarConfiguration") is None:
        ds.PlanarConfiguration = 0
    if ds.get("PixelRepresentation") is None:
        ds.PixelRepresentation = 0
    ds.BitsStored = ds.get("BitsStored") or ds.BitsAllocated


def _grey(
    ds: Dataset, values: Values, frame: int, window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    units, voi = _to_units(ds, frame), _voi(ds, frame)
    invert = ds.PhotometricInterpretation == "MONOCHROME1" or (
        str(ds.get("PresentationLUTShape")) == "INVERSE"
    )
    if window is None and voi is None and str(ds.get("Modality")) == "CT":
        window = WINDOWS["soft_tissue"]
    if window is not None:
        voi = Dataset()
        voi.WindowCenter, voi.WindowWidth = window
        voi.VOILUTFunction = "LINEAR_EXACT"
    low, high = (0.0, 0.0) if voi is not None else _range(ds, values, units)

    def shown(stored: Values) -> NDArray[np.uint8]:
        physical = units(stored)
        if voi is None:
            unit = (np.asarray(physical, np.float64) - low) / max(high - low, 1e-12)
        else:
            unit = _through(physical, voi)
        bytes_ = (np.clip(unit, 0, 1) * 255).round().astype(np.uint8)
        return 255 - bytes_ if invert else bytes_

    if values.dtype.kind in "iub" and values.dtype.itemsize <= 2:
        unsigned = np.dtype(f"u{values.dtype.itemsize}")
        every = np.arange(256**unsigned.itemsize).astype(unsigned).view(values.dtype)
        table = shown(every)
        grey = np.empty(values.shape, np.uint8)
        # some rows at a time, since an index takes eight bytes a pixel
        rows = max(1, _LOOKED_UP // max(1, values.shape[1]))
        for at in range(0, len(values), rows):
            stored = np.ascontiguousarray(values[at : at + rows])
            np.take(table, stored.view(unsigned), out=grey[at : at + rows], mode="clip")
        return grey
    if not np.isfinite(values).all():
        raise ImageError("unreadable", "the image holds values that are not finite")
    return shown(values)


def _to_units(ds: Dataset, frame: int) -> Callable[[Values], Values]:
    """The modality LUT or rescale that holds for a frame."""
    item = functional_group(ds, frame, "PixelValueTransformationSequence") or ds
    if item.get("RescaleSlope") is None or item.get("RescaleIntercept") is None:
        item = ds
    if not item.get("ModalityLUTSequence") and (
        item.get("RescaleSlope") is None or item.get("RescaleIntercept") is None
    ):
        return lambda stored: stored
    return lambda stored: apply_modality_lut(stored, item)


def _voi(ds: Dataset, frame: int) -> Dataset | None:
    """What the object says of how it wants to be seen: its first VOI LUT or window.

    A window of no width says nothing; scanners write 0 and 1 where they mean that.
    """
    item = functional_group(ds, frame, "FrameVOILUTSequence") or ds
    luts = item.get("VOILUTSequence")
    if luts and luts[0].get("LUTDescriptor") and luts[0].get("LUTData") is not None:
        return item
    level, width = _first(item.get("WindowCenter")), _first(item.get("WindowWidth"))
    if level is None or width is None or width <= 1:
        return None
    found = Dataset()
    found.WindowCenter, found.WindowWidth = level, width
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    known = function in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    found.VOILUTFunction = function if known else "LINEAR"
    return found


def _through(physical: Values, voi: Dataset) -> NDArray[np.float64]:
    """Values in units through a VOI LUT or window, in [0, 1]."""
    if voi.get("VOILUTSequence"):
        depth = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        seen = apply_voi(np.round(physical).astype(np.int32), voi)
        return np.asarray(seen, np.float64) / max(2.0**depth - 1, float(seen.max()))
    # eight bits without sign: pydicom then maps the window to 0 … 255
    voi.BitsStored, voi.PixelRepresentation = 8, 0
    voi.PhotometricInterpretation = "MONOCHROME2"
    return np.asarray(apply_windowing(physical, voi), np.float64) / 255


def _range(ds: Dataset, values: Values, units: Callable[[Values], Values]) -> tuple[float, float]:
    """Values in units that become black and white where the object does not say."""
    bits = int(ds.BitsStored)
    if values.dtype.kind in "ub" and bits <= 8:
        ends: Values = np.array([0, 2**bits - 1], values.dtype)
    else:
        padding = ds.get("PixelPaddingValue")
        # a part of a large image knows its percentiles as well as the whole
        some = values.ravel()[:: values.size // _SAMPLED + 1]
        inside = some if padding is None else some[some != padding]
        ends = np.percentile(inside if inside.size else some, _STRETCH)
        if values.dtype.kind in "iu":
            ends = ends.round().astype(values.dtype)
    low, high = sorted(float(v) for v in units(ends))
    return low, high


def _eight_bits(values: Values, bits: int = 0) -> NDArray[np.uint8]:
    bits = bits or values.dtype.itemsize * 8
    if bits > 8:
        values = values >> (bits - 8)
    elif bits < 8:
        values = values * (255 // (2**bits - 1))
    return np.ascontiguousarray(values.astype(np.uint8))


def _first(value: Any) -> float | None:
    """A window may be one number or several (MultiValue): the first is the default one."""
    try:
        if value is None or isinstance(value, str | int | float):
            return None if value in (None, "") else float(value)
        return float(value[0]) if len(value) else None
    except (TypeError, ValueError):
        return None


def _named(syntax: UID) -> str:
    """The name of a transfer syntax; one that is unknown goes unnamed, it could be anything."""
    return f"transfer syntax {syntax.name}" if syntax.name != str(syntax) else "its transfer syntax"
