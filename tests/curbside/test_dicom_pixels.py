"""From stored values to what is seen: real objects of many encodings, and the standard's steps."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from curbside import decoding, dicom_pixels
from curbside.decoding_worker import serve
from curbside.dicom_pixels import missing_plugin, read_frame, read_values
from curbside.errors import ImageError, UserError
from curbside.phantom_dicom import as_dicom
from curbside.study import Instance
from curbside.windows import WINDOWS, window_values


def real(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"{name} is in none of pydicom's packages"
    return Path(path).read_bytes()


#: Object → shape and mean of each channel as it is seen.
SEEN = {
    "CT_small.dcm": ((128, 128, 3), (101.3, 101.3, 101.3)),
    "MR_small.dcm": ((64, 64, 3), (113.1, 113.1, 113.1)),
    "emri_small.dcm": ((64, 64, 3), (60.9, 60.9, 60.9)),
    "SC_rgb.dcm": ((100, 100, 3), (127.7, 127.7, 127.7)),
    "SC_rgb_16bit.dcm": ((100, 100, 3), (127.7, 127.7, 127.7)),
    "SC_rgb_jpeg_dcmtk.dcm": ((100, 100, 3), (127.7, 127.6, 127.8)),
    "SC_ybr_full_uncompressed.dcm": ((100, 100, 3), (127.7, 127.6, 127.8)),
    "SC_ybr_full_422_uncompressed.dcm": ((100, 100, 3), (127.7, 127.6, 127.8)),
    "examples_palette.dcm": ((350, 800, 3), (15.9, 20.1, 25.4)),
    "examples_ybr_color.dcm": ((240, 320, 3), (10.4, 10.7, 10.9)),
    "JPEG-LL.dcm": ((1024, 256, 3), (30.8, 30.8, 30.8)),
    "JPGExtended.dcm": ((1024, 256, 3), (32.2, 32.2, 32.2)),
    "693_J2KI.dcm": ((512, 512, 3), (44.3, 44.3, 44.3)),
    "vlut_04.dcm": ((512, 512, 3), (128.8, 128.8, 128.8)),
    "mlut_18.dcm": ((512, 512, 3), (128.8, 128.8, 128.8)),
    "image_dfl.dcm": ((512, 512, 3), (127.1, 127.1, 127.1)),
    "ExplVR_BigEnd.dcm": ((60, 80, 3), (251.0, 248.0, 15.7)),
    "J2K_pixelrep_mismatch.dcm": ((512, 512, 3), (63.2, 63.2, 63.2)),
}
#: Object → the same picture in another encoding, loss-free.
SAME = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_implicit.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "emri_small_RLE.dcm": "emri_small.dcm",
    "emri_small_jpeg_2k_lossless.dcm": "emri_small.dcm",
    "emri_small_jpeg_ls_lossless.dcm": "emri_small.dcm",
    "SC_rgb_rle.dcm": "SC_rgb.dcm",
    "SC_rgb_32bit.dcm": "SC_rgb.dcm",
    "OBXXXX1A_rle.dcm": "OBXXXX1A.dcm",
}


@pytest.mark.parametrize("name", SEEN)
def test_real_objects_look_as_they_did(name: str) -> None:
    found = read_frame(real(name))
    shape, means = SEEN[name]
    assert found.shape == shape and found.dtype == np.uint8
    np.testing.assert_allclose(found.reshape(-1, 3).mean(axis=0), means, atol=0.3)


@pytest.mark.parametrize("name", SAME)
def test_the_encoding_makes_no_difference(name: str) -> None:
    for frame in (0, None):
        np.testing.assert_array_equal(
            read_frame(real(name), frame), read_frame(real(SAME[name]), frame)
        )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtdose.dcm", "not_an_image"),
        ("liver.dcm", "not_an_image"),
        ("JPEG-lossy.dcm", "unreadable"),
        ("no_meta.dcm", "wrong_type"),
        ("rtplan.dcm", "not_an_image"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "too_large"),
    ],
)
def test_real_objects_that_cannot_be_seen(name: str, reason: str) -> None:
    with pytest.raises(ImageError) as e:
        read_frame(real(name))
    assert e.value.reason == reason


def test_ct_comes_in_hounsfield_units() -> None:
    raw = real("CT_small.dcm")
    ds = pydicom.dcmread(io.BytesIO(raw))
    found = read_values(raw)
    expected = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert -1100 < found.min() < -800


STORED = np.array([[-2000, -1000, -600, 0], [40, 240, 400, 3000]], np.int16)


def ct(stored: Any = STORED, **attributes: Any) -> bytes:
    attributes = {"RescaleSlope": 1, "RescaleIntercept": 0} | attributes
    return as_dicom(stored, modality="CT", **attributes)


def grey(raw: bytes, *args: Any, **options: Any) -> list[int]:
    found = read_frame(raw, *args, **options)
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 1] == found[..., 2]).all()
    return [int(v) for v in found[..., 0].ravel()]


@pytest.mark.parametrize("name", WINDOWS)
def test_each_named_window_ends_where_it_says(name: str) -> None:
    level, width = WINDOWS[name]
    ends = np.array([[level - (width + 1) // 2, level, level + (width + 1) // 2]], np.int16)
    found = Instance(ct(ends), window=name).pixels()[0, :, 0]
    assert (found[0], found[2]) == (0, 255)
    assert abs(int(found[1]) - 128) <= 1


def test_a_window_may_be_a_name_numbers_or_what_the_object_says() -> None:
    own = ct(WindowCenter=50, WindowWidth=350, VOILUTFunction="LINEAR_EXACT")
    assert grey(own) == grey(own, None, (50, 350))
    lung = grey(own, None, WINDOWS["lung"], hounsfield=True)
    assert lung != grey(own)
    with pytest.raises(ImageError) as e:
        read_frame(as_dicom(STORED, modality="MR"), None, WINDOWS["lung"], hounsfield=True)
    assert e.value.reason == "unsupported"
    for wrong in ("lungs", (40.0, 0.0)):
        with pytest.raises(UserError):
            window_values(wrong)
    assert window_values((40, 400)) == (40.0, 400.0)


def test_several_windows_mean_the_first() -> None:
    one = ct(WindowCenter=-600, WindowWidth=1500)
    several = ct(WindowCenter=[-600, 40], WindowWidth=[1500, 400])
    assert grey(several) == grey(one)


def test_a_ct_without_a_window_is_seen_as_soft_tissue() -> None:
    assert grey(ct()) == grey(ct(), None, WINDOWS["soft_tissue"])
    # as is one whose window has no width
    assert grey(ct(WindowCenter=0, WindowWidth=0)) == grey(ct())
    assert grey(ct(WindowCenter="", WindowWidth="")) == grey(ct())


def test_rescale_comes_before_the_window() -> None:
    shifted = ct((STORED + 1024).astype(np.int16), RescaleIntercept=-1024)
    assert grey(shifted, None, (40, 400)) == grey(ct(), None, (40, 400))
    np.testing.assert_array_equal(read_values(shifted), STORED)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", "UNKNOWN"])
def test_the_function_of_the_window_is_kept(function: str) -> None:
    found = grey(ct(WindowCenter=40, WindowWidth=400, VOILUTFunction=function))
    assert found == sorted(found)
    assert found[0] == 0 and found[-1] == 255
    linear = grey(ct(WindowCenter=40, WindowWidth=400))
    assert (found == linear) == (function in ("LINEAR", "UNKNOWN", "LINEAR_EXACT"))


def test_monochrome1_is_inverted_last() -> None:
    plain = grey(ct(WindowCenter=40, WindowWidth=400))
    inverted = grey(ct(WindowCenter=40, WindowWidth=400, PhotometricInterpretation="MONOCHROME1"))
    assert [255 - v for v in plain] == inverted
    shape = grey(ct(WindowCenter=40, WindowWidth=400, PresentationLUTShape="INVERSE"))
    assert shape == inverted


def test_a_voi_table_is_looked_up() -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 0, 8]
    item.LUTData = [0, 50, 100, 255]
    item["LUTData"].VR = "US"
    stored = np.array([[0, 1, 2, 3, 9]], np.uint8)
    raw = as_dicom(stored, modality="DX", VOILUTSequence=Sequence([item]))
    assert grey(raw) == [0, 50, 100, 255, 255]


def test_a_modality_table_is_looked_up() -> None:
    item = Dataset()
    item.LUTDescriptor = [3, 0, 16]
    item.LUTData = [10, 1000, 20]
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    stored = np.array([[0, 1, 2]], np.uint8)
    raw = as_dicom(stored, modality="DX", ModalityLUTSequence=Sequence([item]))
    assert read_values(raw).tolist() == [[10, 1000, 20]]


def test_frames_have_windows_and_scales_of_their_own() -> None:
    def item(level: float, slope: float) -> Dataset:
        voi, scale, group = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = level, 100
        scale.RescaleSlope, scale.RescaleIntercept = slope, 0
        group.FrameVOILUTSequence = Sequence([voi])
        group.PixelValueTransformationSequence = Sequence([scale])
        return group

    stored = np.full((2, 2, 2), 100, np.int16)
    raw = as_dicom(
        stored,
        frames=2,
        modality="MR",
        PerFrameFunctionalGroupsSequence=Sequence([item(100, 1), item(0, 2)]),
    )
    assert abs(grey(raw, 0)[0] - 128) <= 1
    assert grey(raw, 1)[0] == 255
    assert read_values(raw, 1)[0, 0] == 200
    assert (read_frame(raw) == read_frame(raw, 1)).all()
    for frame in (2, -1):
        with pytest.raises(ImageError, match="no frame"):
            read_frame(raw, frame)


def test_without_a_window_eight_bits_stay_and_more_are_stretched() -> None:
    few = np.array([[3, 40], [90, 200]], np.uint8)
    assert grey(as_dicom(few, modality="US")) == [3, 40, 90, 200]
    many = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    found = grey(as_dicom(many, modality="MR"))
    assert (found[0], found[-1]) == (0, 255)
    padded = many.copy()
    padded[:32] = 60000
    seen = read_frame(as_dicom(padded, modality="MR", PixelPaddingValue=60000))[32:, :, 0]
    assert seen.min() == 0 and seen.max() == 255
    assert set(grey(as_dicom(np.full((2, 2), 7, np.int16), modality="MR"))) == {0}


def test_what_old_scanners_leave_out_is_filled_in() -> None:
    few = np.array([[3, 40], [90, 200]], np.uint8)
    bare = as_dicom(
        few,
        modality="US",
        SamplesPerPixel=None,
        PhotometricInterpretation=None,
        PixelRepresentation=None,
        BitsStored=None,
    )
    assert grey(bare) == [3, 40, 90, 200]


def test_colour_has_no_units_and_four_samples_are_no_colour() -> None:
    colour = as_dicom(np.zeros((2, 2, 3), np.uint8), modality="XC")
    with pytest.raises(ImageError) as e:
        read_values(colour)
    assert e.value.reason == "unsupported"
    with pytest.raises(ImageError) as e:
        Instance(b"\x89PNG\r\n\x1a\n").values()
    assert e.value.reason == "unsupported"


def test_each_missing_plug_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_plugin(JPEG2000) == missing_plugin(RLELossless) == ""
    removed: list[str] = []
    monkeypatch.setattr(
        dicom_pixels,
        "get_decoder",
        lambda _: SimpleNamespace(available_plugins=("gdcm",), remove_plugin=removed.append),
    )
    missing_plugin(JPEG2000)
    # gdcm is never asked
    assert removed == ["gdcm"]
    monkeypatch.setattr(
        dicom_pixels, "get_decoder", lambda _: SimpleNamespace(available_plugins=())
    )
    assert missing_plugin(JPEG2000) == "pylibjpeg-openjpeg"
    assert missing_plugin(JPEGLSLossless) == missing_plugin(JPEGBaseline8Bit) == "pylibjpeg-libjpeg"
    with pytest.raises(ImageError, match="pylibjpeg-openjpeg, which is not installed") as e:
        read_frame(real("MR_small_jp2klossless.dcm"))
    assert e.value.reason == "unsupported"


def test_the_worker_answers_as_the_functions_do() -> None:
    """In this process; the real ones are in test_decoding."""
    asked, answered = io.BytesIO(), io.BytesIO()
    raw = real("CT_small.dcm")
    at = {"frame": None, "window": [40.0, 400.0], "named": True}
    picture = io.BytesIO()
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(picture, "BMP")
    decoding.send(asked, {"do": "header", "tags": ["Modality"]}, raw)
    decoding.send(asked, {"do": "pixels", **at}, raw)
    decoding.send(asked, {"do": "values", "frame": None}, raw)
    decoding.send(asked, {"do": "picture"}, picture.getvalue())
    decoding.send(asked, {"do": "values", "frame": None}, b"")
    decoding.send(asked, {"do": "header", "tags": [], "path": b"/no/such/file".hex()})
    decoding.send(asked, {"do": "pixels"}, raw)
    asked.seek(0)
    serve(asked, answered)
    answered.seek(0)
    header, _ = decoding.receive(answered)
    assert header["tags"] == {"Modality": "CT"} and header["unusable"] is None
    np.testing.assert_array_equal(
        decoding._array(decoding.receive(answered)), read_frame(raw, None, (40, 400))
    )
    np.testing.assert_array_equal(decoding._array(decoding.receive(answered)), read_values(raw))
    assert decoding._array(decoding.receive(answered)).shape == (3, 4, 3)
    reasons = [decoding.receive(answered)[0]["problem"][0] for _ in range(3)]
    assert reasons == ["empty", "unreadable", "unreadable"]
    with pytest.raises(EOFError):
        decoding.receive(answered)


@pytest.mark.parametrize(
    ("name", "marker", "at", "form"),
    [
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 8, ">II"),
        ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xc0", 5, ">HH"),
        ("JPEG-LL.dcm", b"\xff\xc3", 5, ">HH"),
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7", 5, ">HH"),
    ],
)
def test_a_frame_that_claims_more_than_its_object_is_not_decoded(
    name: str, marker: bytes, at: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytearray(real(name))
    struct.pack_into(form, raw, raw.index(marker) + at, 60000, 60000)
    monkeypatch.setattr(dicom_pixels, "pixel_array", lambda *_, **__: pytest.fail("was decoded"))
    with pytest.raises(ImageError) as e:
        read_frame(bytes(raw))
    assert e.value.reason == "too_large"
