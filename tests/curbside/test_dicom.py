"""Headers, in this process: what is checked, in which order, and what is made of damage."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from curbside import dicom
from curbside.dicom import Header, functional_group, read_header
from curbside.errors import IMAGE_REASONS, ImageError
from curbside.phantom_dicom import as_dicom

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def header(raw: bytes, tags: tuple[str, ...] = ("Modality",)) -> Header:
    return read_header(io.BytesIO(raw), len(raw), tags)


def made(**attributes: Any) -> Header:
    return header(as_dicom(GREY, **{"modality": "US"} | attributes))


def reason(raw: bytes) -> str:
    """Why an object is unusable, whether or not its header can be read."""
    try:
        return (header(raw).unusable or ("usable",))[0]
    except ImageError as e:
        return e.reason


def real(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def test_a_header_has_what_grouping_needs() -> None:
    found = made(study=3, series=2, number=7, position=12.5, patient="P")
    assert (found.kind, found.syntax) == ("US", "Explicit VR Little Endian")
    assert found.study.endswith(".3") and found.series.endswith(".3.2")
    assert (found.series_number, found.number, found.frames) == (2, 7, 1)
    assert (found.patient, found.normal, found.positions) == ("P", (0.0, 0.0, 1.0), (12.5,))
    assert found.tags == {"Modality": "US"}
    assert found.unusable is None


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"Rows": 0}, "unreadable"),
        ({"Columns": None}, "unreadable"),
        ({"Rows": 9000, "Columns": 9000}, "too_large"),
        ({"NumberOfFrames": 30_000}, "too_large"),
        ({"NumberOfFrames": 2}, "truncated"),
        ({"PixelData": None}, "no_pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "not_an_image"),
        ({"SOPClassUID": None, "modality": "SEG"}, "not_an_image"),
        ({"SOPClassUID": None}, "usable"),
        ({"SamplesPerPixel": None}, "usable"),
    ],
)
def test_what_is_wrong_with_an_object_is_known_from_its_header(
    attributes: dict[str, Any], why: str
) -> None:
    assert (made(**attributes).unusable or ("usable",))[0] == why


def test_the_first_bytes_decide_and_a_preamble_may_be_missing() -> None:
    raw = as_dicom(GREY, modality="US")
    assert reason(b"") == "empty"
    assert reason(b"GIF89a" + bytes(300)) == "wrong_type"
    assert reason(raw[132:]) == "usable"
    assert reason(raw[:140]) == "truncated"
    # with the file meta information gone too, the data set's own encoding is guessed
    at = raw.index(b"\x08\x00\x16\x00UI")
    assert reason(raw[at:]) == "usable"


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("MR_small_bigendian.dcm", "Explicit VR Big Endian"),
        ("MR_small_implicit.dcm", "Implicit VR Little Endian"),
        ("image_dfl.dcm", "Deflated Explicit VR Little Endian"),
        ("JPEG-LL.dcm", "JPEG Lossless, Non-Hierarchical, First-Order"),
    ],
)
def test_every_encoding_of_a_header_is_read(name: str, syntax: str) -> None:
    found = header(real(name))
    assert found.syntax.startswith(syntax)
    assert found.unusable is None


def test_damage_of_deflated_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = real("image_dfl.dcm")
    assert reason(raw[:-500]) == "truncated"
    assert reason(raw[:400] + b"\xff" * 60 + raw[460:]) in ("unreadable", "truncated")
    monkeypatch.setattr(dicom, "MAX_BYTES", 1000)
    assert reason(raw) == "too_large"


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        inner = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, len(item)) + item
    raw = as_dicom(GREY, modality="US")
    at = raw.index(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 64))
    return raw[:at] + inner + raw[at:]


def test_the_limit_of_depth_is_where_it_says() -> None:
    assert reason(nested(dicom.MAX_DEPTH)) == "usable"
    assert reason(nested(dicom.MAX_DEPTH + 1)) == "too_deep"


def test_a_broken_private_sequence_spoils_no_picture() -> None:
    raw = as_dicom(GREY, modality="US")
    at = raw.index(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 64))
    broken = (
        struct.pack("<HH2sHI", 0x0009, 0x1001, b"SQ", 0, 12) + b"\xfe\xff\x00\xe0\xf0\0\0\0abcd"
    )
    assert reason(raw[:at] + broken + raw[at:]) == "usable"


def test_frames_have_positions_of_their_own() -> None:
    orientation, groups = Dataset(), []
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([orientation])
    for z in (5.0, 1.0):
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, z]
        group.PlanePositionSequence = Sequence([place])
        groups.append(group)
    found = header(
        as_dicom(
            np.stack([GREY, GREY]),
            frames=2,
            modality="MR",
            SharedFunctionalGroupsSequence=Sequence([shared]),
            PerFrameFunctionalGroupsSequence=Sequence(groups),
        )
    )
    assert (found.normal, found.positions) == ((0.0, 0.0, 1.0), (5.0, 1.0))
    ds = Dataset()
    assert functional_group(ds, 0, "PlanePositionSequence") is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0], "ImagePositionPatient": [0, 0, 1]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 1e12]},
        {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        {},
    ],
)
def test_without_a_place_there_is_none(attributes: dict[str, Any]) -> None:
    assert (made(**attributes).normal, made(**attributes).positions) == ((), ())


def test_tags_are_codes_or_short_texts() -> None:
    raw = as_dicom(
        GREY,
        BodyPartExamined="chest",
        ViewPosition="as Jane Doe wished",
        Manufacturer="x" * 100,
        ImageType=["ORIGINAL", "PRIMARY"],
    )
    names = ("BodyPartExamined", "ViewPosition", "Manufacturer", "ImageType", "KVP")
    assert header(raw, names).tags == {
        "BodyPartExamined": "CHEST",
        "Manufacturer": "x" * 64,
        "ImageType": "ORIGINAL",
    }


def test_an_element_of_no_value_representation_is_as_if_it_were_not_there() -> None:
    raw = bytearray(real("MR_small_bigendian.dcm"))
    raw[577] = 0  # 'TM' of (0008,0031) becomes 'T' and a zero byte
    assert reason(bytes(raw)) == "usable"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_header_or_a_reason(data: st.DataObject) -> None:
    names = ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "emri_small.dcm"]
    raw = bytearray(real(data.draw(st.sampled_from(names)))[:6000])
    for _ in range(data.draw(st.integers(0, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    found = reason(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    assert found == "usable" or found in IMAGE_REASONS
