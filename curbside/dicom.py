"""What a DICOM object says of itself, and what must hold before its pixels are decoded.

Meant for ``curbside.decoding_worker``: parsing is itself a risk.  Sizes are checked first, in
this order: the inflated size (counted while inflating), the depth of nested sequences, then
rows × columns × samples × bits × frames.  No value of an attribute gets into a message.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from curbside.archives import FREE_BYTES, MAX_RATIO
from curbside.errors import ConfigError, ImageError
from curbside.pixels import MAX_BYTES, MAX_PIXELS
from curbside.sniffing import PREFIX, is_dicom

__all__ = [
    "MAX_DEPTH",
    "MAX_FRAMES",
    "Header",
    "check_image",
    "check_tags",
    "functional_group",
    "open_dataset",
    "quiet",
    "read_header",
]

#: Deepest nesting of sequences; real objects stay below ten.
MAX_DEPTH = 32
#: Most frames of an object.
MAX_FRAMES = 20_000
#: Most bytes of all frames of an object, decoded; they are decoded one at a time.
MAX_DECODED = 16 * 2**30

_PIXELS = (b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00", b"\xe0\x7f\x10\x00")
_PIXELS_BIG = (b"\x7f\xe0\x00\x08", b"\x7f\xe0\x00\x09", b"\x7f\xe0\x00\x10")
_UNDEFINED = 0xFFFFFFFF
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
#: Attributes of the patient that tell no one who it is (PS3.15, table E.1-1, with cleaning).
_HARMLESS = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"})
#: Numbers outside the patient's module that a hospital's systems know one visit by (same table).
_VISIT = frozenset(
    {
        "AccessionNumber",
        "AdmissionID",
        "FillerOrderNumberImagingServiceRequest",
        "PerformedProcedureStepID",
        "PlacerOrderNumberImagingServiceRequest",
        "RequestedProcedureID",
        "ScheduledProcedureStepID",
        "ServiceEpisodeID",
        "StudyID",
    }
)


@dataclass(frozen=True)
class Header:
    """One object's place in its study, and whether its pixels can be asked for.

    UIDs and the patient's id are in here so that intake can group by them; they go no further.

    Args:
        kind: DICOM modality code; syntax: name of the transfer syntax.
        study, series, uid, patient: as in the object, ``""`` where absent.
        series_number, number: SeriesNumber and InstanceNumber, 0 where absent.
        frames: at least 1.
        normal: unit normal of the image plane, or empty.
        positions: distance along ``normal`` in mm, one a frame or one in all, or empty.
        tags: the allow-listed attributes.
        unusable: (reason, message) why its pixels cannot be used, or None.
    """

    kind: str
    syntax: str
    study: str
    series: str
    uid: str
    patient: str
    series_number: int = 0
    number: int = 0
    frames: int = 1
    normal: tuple[float, ...] = ()
    positions: tuple[float, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    unusable: tuple[str, str] | None = None


def check_tags(names: Sequence[str]) -> None:
    """Whether these attributes may be let through.

    Raises:
        ConfigError: a name is no DICOM keyword, or it says who the patient is.
    """
    for name in names:
        tag = tag_for_keyword(name)
        if tag is None:
            raise ConfigError(
                f"privacy.allowed_tags: {name!r} is no DICOM keyword",
                hint="for example Modality, BodyPartExamined, ViewPosition, Manufacturer",
            )
        vr, group = dictionary_VR(tag), tag >> 16
        patient = group == 0x10 and name not in _HARMLESS
        if vr in ("PN", "UI", "SQ") or patient or name in _VISIT:
            raise ConfigError(
                f"privacy.allowed_tags: {name} may say who the patient is and cannot be allowed",
                hint="take it out of curbside.yaml",
            )


def open_dataset(f: BinaryIO, size: int, *, pixels: bool = False) -> Dataset:
    """Parse an object whose sizes have been checked.

    Args:
        f: at its beginning; left at the pixel data's element where ``pixels`` is False.
        size: bytes of the file.

    Raises:
        ImageError: ``empty | wrong_type | truncated | unreadable | too_large | too_deep``.
    """
    if size == 0:
        raise ImageError("empty", "the file is empty (0 bytes)")
    if not is_dicom(f.read(PREFIX)):
        raise ImageError("wrong_type", "not a DICOM object")
    f.seek(0)
    with quiet():
        deflated = _is_deflated(f)
        if deflated:
            _count_inflated(f)
        f.seek(0)
        try:
            ds = pydicom.dcmread(f, force=True, stop_before_pixels=not (pixels or deflated))
        except RecursionError:
            raise _too_deep() from None
        except EOFError:
            raise ImageError("truncated", "the file ends within its header") from None
        except MemoryError:
            raise
        except Exception as e:  # the parser raises many types on broken headers
            raise ImageError("unreadable", f"the header is broken ({type(e).__name__})") from None
        _check_depth(ds)
    if len(ds) == 0:
        raise ImageError("truncated", "the file ends within its header")
    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    if not ds.file_meta.get("TransferSyntaxUID"):
        implicit, little = ds.original_encoding
        ds.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian
            if implicit
            else ExplicitVRLittleEndian
            if little
            else ExplicitVRBigEndian
        )
    return ds


def read_header(f: BinaryIO, size: int, allowed_tags: Sequence[str]) -> Header:
    """What an object says of itself.

    Args:
        f: at its beginning; size: bytes of the file.
        allowed_tags: DICOM keywords that may be kept.

    Raises:
        ImageError: nothing can be known of it; see :func:`open_dataset`.
    """
    ds = open_dataset(f, size)
    with quiet():
        syntax = UID(str(ds.file_meta.TransferSyntaxUID))
        try:
            check_image(ds, f, size)
            problem = None
        except ImageError as e:
            problem = (e.reason, e.message)
        normal, positions = _places(ds) if problem is None else ((), ())
        return Header(
            kind=_text(ds, "Modality").upper()[:16],
            syntax=syntax.name if syntax.name != syntax else "unknown",
            study=_text(ds, "StudyInstanceUID"),
            series=_text(ds, "SeriesInstanceUID"),
            uid=_text(ds, "SOPInstanceUID"),
            patient=_text(ds, "PatientID"),
            series_number=_number(ds, "SeriesNumber") or 0,
            number=_number(ds, "InstanceNumber") or 0,
            frames=max(1, _number(ds, "NumberOfFrames") or 1),
            normal=normal,
            positions=positions,
            tags=_allowed(ds, allowed_tags),
            unusable=problem,
        )


def functional_group(ds: Dataset, frame: int, name: str) -> Dataset | None:
    """The item of a functional group that holds for a frame: its own, else the shared one.

    (PS3.3, C.7.6.16.)  None where the object has none.
    """
    per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
    shared = ds.get("SharedFunctionalGroupsSequence") or []
    for group in (*per_frame[frame : frame + 1], *shared[:1]):
        items = group.get(name)
        if items:
            first: Dataset = items[0]
            return first
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom's warnings hold values of attributes; what is wrong is found by our own checks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_deflated(f: BinaryIO) -> bool:
    """Leaves ``f`` at the first byte after the file meta information."""
    start = 132 if f.read(132)[128:] == b"DICM" else 0
    f.seek(start)
    try:
        meta = read_dataset(f, False, True, stop_when=lambda tag, vr, length: tag >> 16 > 2)
        return bool(meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian)
    except Exception:  # the parse that follows says what is wrong
        return False


def _count_inflated(f: BinaryIO) -> None:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    total, taken, waiting = 0, 0, b""
    try:
        while not stream.eof:
            if not waiting:
                waiting = f.read(2**16)
                taken += len(waiting)
            if not waiting:
                raise ImageError("truncated", "the deflated data set ends too early")
            total += len(stream.decompress(waiting, 2**20))
            waiting = stream.unconsumed_tail
            if total > MAX_BYTES or total > max(FREE_BYTES, MAX_RATIO * taken):
                raise ImageError(
                    "too_large",
                    f"the data set inflates to more than {MAX_BYTES:,} bytes, or to more than "
                    f"{FREE_BYTES:,} and {MAX_RATIO} : 1",
                )
    except zlib.error:
        raise ImageError("unreadable", "the data set cannot be inflated") from None


def _check_depth(ds: Dataset) -> None:
    """Level by level: pydicom opens an item only when it is asked for."""
    level = [ds]
    for _ in range(MAX_DEPTH + 1):
        below: list[Dataset] = []
        for here in level:
            for tag in list(here.keys()):
                try:
                    element: Any = here.get_item(tag)
                except NotImplementedError:
                    # of a value representation that there is not: as if it were not there
                    del here[tag]
                    continue
                vr = element.VR or _likely_vr(tag, element.value)
                if vr == "SQ" or (vr == "UN" and _likely_vr(tag, element.value) == "SQ"):
                    try:
                        below += here[tag].value or []
                    except RecursionError:
                        raise _too_deep() from None
                    except MemoryError:
                        raise
                    except Exception:  # a broken private sequence spoils no picture
                        continue
        if not below:
            return
        level = [d for d in below if isinstance(d, Dataset)]
    raise _too_deep()


def _likely_vr(tag: Any, value: Any) -> str:
    if not tag.is_private:
        try:
            return dictionary_VR(tag)
        except KeyError:
            pass
    starts = isinstance(value, bytes) and value[:4] == b"\xfe\xff\x00\xe0"
    return "SQ" if starts else "UN"


def check_image(ds: Dataset, f: BinaryIO, size: int) -> None:
    """Whether there are pixels to decode, and few enough; ``f`` as :func:`open_dataset` left it.

    Raises:
        ImageError: ``not_an_image | no_pixels | unreadable | truncated | too_large``.
    """
    syntax = UID(str(ds.file_meta.TransferSyntaxUID))
    if not _is_picture(ds):
        raise ImageError("not_an_image", "an object of a kind that shows no picture of a patient")
    length = _pixel_length(ds, f, size, syntax)
    shape = {name: _number(ds, name) for name in ("Rows", "Columns", "BitsAllocated")}
    lacking = [name for name, value in shape.items() if not value or value < 1]
    if lacking:
        raise ImageError("unreadable", f"attributes are missing or 0: {', '.join(lacking)}")
    rows, columns, bits = (int(v or 0) for v in shape.values())
    samples = _number(ds, "SamplesPerPixel") or 1
    frames = _number(ds, "NumberOfFrames") or 1
    if rows * columns * max(samples, 1) > MAX_PIXELS * (3 if samples == 3 else 1):
        raise ImageError(
            "too_large",
            f"it claims {rows} x {columns} pixels of {samples} samples; at most {MAX_PIXELS:,} "
            "pixels are decoded",
        )
    total = rows * columns * samples * frames * bits / 8
    if frames > MAX_FRAMES or total > MAX_DECODED:
        raise ImageError(
            "too_large",
            f"it claims {frames:,} frames of {total:,.0f} bytes in all; at most {MAX_FRAMES:,} and "
            f"{MAX_DECODED:,} are opened",
        )
    if length is None:
        return
    photometric = _text(ds, "PhotometricInterpretation")
    halved = 2 / 3 if photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") else 1
    if length < int(total * halved):
        raise ImageError(
            "truncated", f"its pixels take {total * halved:,.0f} bytes and {length:,} are there"
        )


def _is_picture(ds: Dataset) -> bool:
    """By SOP class; where that is missing or unknown, by modality."""
    name = UID(_text(ds, "SOPClassUID")).name
    if "Storage" in name:
        return "Image Storage" in name
    return _text(ds, "Modality") not in ("SEG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SR", "PR", "KO")


def _pixel_length(ds: Dataset, f: BinaryIO, size: int, syntax: UID) -> int | None:
    """Bytes of native pixel data that are there, None where they are compressed.

    Raises:
        ImageError: ``no_pixels``, or ``truncated`` where fewer are there than the element says.
    """
    if syntax == DeflatedExplicitVRLittleEndian:
        found = [ds.get_item(k) for k in _KEYWORDS if k in ds]
        if not found:
            raise _no_pixels()
        return len(found[0].value or b"")
    implicit, little = ds.original_encoding
    element = f.read(12)
    if element[:4] not in (_PIXELS if little else _PIXELS_BIG):
        last: Any = ds.get_item(max(ds.keys()))
        said = getattr(last, "length", _UNDEFINED)
        if said not in (_UNDEFINED, len(last.value or b"")):
            raise ImageError("truncated", "the file ends within its header")
        raise _no_pixels()
    at = slice(4, 8) if implicit else slice(8, 12)
    length = int.from_bytes(element[at], "little" if little else "big")
    if length == _UNDEFINED:
        return None
    there = size - f.tell() + (4 if implicit else 0)
    if length > there:
        raise ImageError("truncated", f"its pixels take {length:,} bytes and {there:,} are there")
    return length


_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def _places(ds: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The normal of the image plane, and each frame's distance along it (PS3.3, C.7.6.2.1.1)."""
    try:
        frames = max(1, _number(ds, "NumberOfFrames") or 1)
        axes = _numbers(ds, "ImageOrientationPatient", 6)
        points = [_numbers(ds, "ImagePositionPatient", 3)]
        if axes is None or points[0] is None:
            axes = _numbers(
                functional_group(ds, 0, "PlaneOrientationSequence"), "ImageOrientationPatient", 6
            )
            groups = (functional_group(ds, i, "PlanePositionSequence") for i in range(frames))
            points = [_numbers(g, "ImagePositionPatient", 3) for g in groups]
        if axes is None or None in points:
            return (), ()
        (a, b, c), (d, e, g) = axes[:3], axes[3:]
        normal = (b * g - c * e, c * d - a * g, a * e - b * d)
        length = sum(x * x for x in normal) ** 0.5
        if not 0.5 < length < 2:
            return (), ()
        normal = (normal[0] / length, normal[1] / length, normal[2] / length)
        along = [sum(x * n for x, n in zip(p, normal, strict=True)) for p in points if p]
        return normal, tuple(along)
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return (), ()


def _allowed(ds: Dataset, names: Sequence[str]) -> dict[str, str]:
    """Codes only as codes: a code with small letters or 40 characters is somebody's note."""
    found = {}
    for name in names:
        text = _text(ds, name)
        if dictionary_VR(name) == "CS":
            text = text.upper() if _CODE.fullmatch(text.upper()) else ""
        if text:
            found[name] = text[:64]
    return found


def _text(ds: Dataset, name: str) -> str:
    try:
        value = ds.get(name)
        if isinstance(value, MultiValue | list | tuple):
            value = value[0] if value else None
        return "" if value is None else str(value).strip().strip("\0")
    except Exception:  # an attribute that cannot be parsed is one that is not there
        return ""


def _number(ds: Dataset, name: str) -> int | None:
    try:
        return int(float(_text(ds, name)))
    except (ValueError, OverflowError):
        return None


def _numbers(ds: Dataset | None, name: str, n: int) -> tuple[float, ...] | None:
    value = None if ds is None else ds.get(name)
    if value is None or len(value) != n:
        return None
    numbers = tuple(float(v) for v in value)
    return numbers if all(abs(v) < 1e7 for v in numbers) else None


def _too_deep() -> ImageError:
    return ImageError("too_deep", f"its sequences are nested deeper than {MAX_DEPTH}")


def _no_pixels() -> ImageError:
    return ImageError("no_pixels", "an image without pixel data")
