"""Every kind of image and of damage, with what comes out of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from curbside import pixels
from curbside.errors import ImageError
from curbside.pixels import read_bytes, read_image, to_square

RAMP = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def grey(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, axis=2)


def palette_with_transparency() -> bytes:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    return encoded(image, transparency=0)


def animation() -> bytes:
    frames = [Image.new("L", (8, 6), v) for v in (50, 200)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


DEEP = np.linspace(1000, 3000, 48).reshape(6, 8)

#: name → (bytes, pixels expected, tolerance)
READABLE: dict[str, tuple[bytes, NDArray[np.uint8], int]] = {
    "grey": (encoded(Image.fromarray(RAMP)), grey(RAMP), 0),
    "rgb": (
        encoded(Image.new("RGB", (8, 6), (1, 2, 3))),
        np.full((6, 8, 3), (1, 2, 3), np.uint8),
        0,
    ),
    "one bit": (encoded(Image.new("1", (8, 6), 1)), grey(np.full((6, 8), 255)), 0),
    "bmp": (encoded(Image.fromarray(RAMP), "BMP"), grey(RAMP), 0),
    "tiff": (encoded(Image.fromarray(RAMP), "TIFF"), grey(RAMP), 0),
    "ppm": (encoded(Image.fromarray(RAMP), "PPM"), grey(RAMP), 0),
    "webp": (encoded(Image.fromarray(RAMP), "WEBP", lossless=True), grey(RAMP), 0),
    "jpeg": (encoded(Image.new("L", (8, 6), 77), "JPEG"), grey(np.full((6, 8), 77)), 2),
    "cmyk": (
        encoded(Image.new("CMYK", (8, 6), (0, 255, 255, 0)), "JPEG"),
        np.full((6, 8, 3), (255, 0, 0), np.uint8),
        6,
    ),
    "clear is black": (
        encoded(Image.new("RGBA", (8, 6), (200, 100, 50, 0))),
        np.zeros((6, 8, 3), np.uint8),
        0,
    ),
    "half clear is half dark": (
        encoded(Image.new("RGBA", (8, 6), (200, 100, 50, 128))),
        np.full((6, 8, 3), (100, 50, 25), np.uint8),
        1,
    ),
    "grey with alpha": (
        encoded(Image.new("LA", (8, 6), (80, 255))),
        grey(np.full((6, 8), 80)),
        0,
    ),
    "palette": (
        palette_with_transparency(),
        np.array([[[0, 0, 0], [0, 0, 255]]], np.uint8),
        0,
    ),
    "first frame": (animation(), grey(np.full((6, 8), 50)), 0),
    "16 bit": (
        encoded(Image.fromarray(DEEP.astype(np.uint16))),
        grey(np.linspace(0, 255, 48).reshape(6, 8)),
        3,
    ),
    "float": (
        encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF"),
        grey(np.linspace(0, 255, 48).reshape(6, 8)),
        3,
    ),
    "16 bit, flat": (
        encoded(Image.fromarray(np.full((6, 8), 900, np.uint16))),
        np.zeros((6, 8, 3), np.uint8),
        0,
    ),
}


@pytest.mark.parametrize("name", READABLE)
def test_it_is_read(name: str) -> None:
    raw, expected, tolerance = READABLE[name]
    found = read_image(raw)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_stands_upright(orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif.tobytes())
    np.testing.assert_array_equal(read_image(raw), grey(upright))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels are a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
WHOLE_PNG = encoded(Image.fromarray(NOISE))
WHOLE_JPEG = encoded(Image.fromarray(NOISE), "JPEG")
NOT_FINITE = encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")
PDF = b"%PDF-1.7 not an image"

BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"hello, I am a text", "wrong_type"),
    "pdf": (PDF, "wrong_type"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "wrong_type"),
    "icon, which is not on the list": (encoded(Image.fromarray(NOISE), "ICO"), "wrong_type"),
    "png cut in half": (WHOLE_PNG[: len(WHOLE_PNG) // 2], "truncated"),
    "jpeg cut in half": (WHOLE_JPEG[: len(WHOLE_JPEG) // 2], "truncated"),
    "png header alone": (WHOLE_PNG[:20], "unreadable"),
    "bomb": (png_of_size(20_000, 20_000), "too_large"),
    "bigger bomb": (png_of_size(2**31 - 1, 2**31 - 1), "too_large"),
    "just over": (png_of_size(8001, 8000), "too_large"),
    "not finite": (NOT_FINITE, "unreadable"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    raw, reason = BROKEN[name]
    path = tmp_path / "Doe^Jane.png"
    path.write_bytes(raw)
    for source in (raw, path):
        with pytest.raises(ImageError) as e:
            read_image(source)
        assert e.value.reason == reason
        assert "Doe" not in str(e.value)
        assert e.value.exit_code == 2


def test_a_wrong_type_names_the_valid_ones() -> None:
    with pytest.raises(ImageError, match="JPEG, PNG"):
        read_image(PDF)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.png", "missing"), (tmp_path, "wrong_type")):
        with pytest.raises(ImageError) as e:
            read_image(path)
        assert e.value.reason == reason
        assert str(tmp_path) not in str(e.value)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(WHOLE_PNG)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="Permission denied") as e:
        read_image(path)
    assert str(path) not in str(e.value)


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(WHOLE_PNG)
    monkeypatch.setattr(pixels, "MAX_BYTES", len(WHOLE_PNG) - 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("was read"))
    with pytest.raises(ImageError) as e:
        read_image(path)
    assert e.value.reason == "too_large"


def test_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"raw")
    assert read_bytes(tmp_path / "a") == read_bytes(b"raw") == b"raw"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_read_or_refused_and_never_anything_else(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([WHOLE_PNG, WHOLE_JPEG, READABLE["tiff"][0]])))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        found = read_image(bytes(raw[:cut] if data.draw(st.booleans()) else raw))
    except ImageError as e:
        assert e.reason in {"empty", "truncated", "unreadable", "wrong_type", "too_large"}
    else:
        assert found.dtype == np.uint8
        assert found.shape[2] == 3


def test_a_square_is_stretched_not_padded() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 200
    square = to_square(wide, 20)
    assert square.shape == (20, 20, 3)
    assert (square[:, :8] == 0).all()
    assert (square[:, 12:] == 200).all()
    assert to_square(square, 20) is square
