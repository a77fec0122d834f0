"""Hostile files, made small: what intake must end with a reason and survive.

For tests and ``curbside bench studies``.  None of them holds anything of anybody.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from curbside.phantom_dicom import as_dicom

__all__ = ["ATTACKS", "GOOD", "big_png", "deflated", "nested", "run_length", "zip_bomb"]

#: A whole and harmless object.
GOOD = as_dicom(np.arange(64, dtype=np.uint8).reshape(8, 8), modality="US")
_EXPLICIT, _DEFLATED = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"


def deflated(megabytes: int) -> bytes:
    """An object whose data set is one element of zeros, compressed a thousand to one."""
    at = GOOD.index(_EXPLICIT) - 8
    meta = GOOD[:at] + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(_DEFLATED)) + _DEFLATED
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = pack.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, megabytes * 2**20))
    body += pack.flush(zlib.Z_FULL_FLUSH)
    # a block that refers to nothing before it can be repeated
    block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return meta + body + block * megabytes + pack.flush()


def nested(depth: int, *, undefined: bool) -> bytes:
    """An object with sequences in sequences, of undefined length or with every length given."""
    inner = b""
    for _ in range(depth):
        n = 0xFFFFFFFF if undefined else len(inner)
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", n) + inner
        item += b"\xfe\xff\x0d\xe0\0\0\0\0" if undefined else b""
        n = 0xFFFFFFFF if undefined else len(item)
        inner = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, n) + item
        inner += b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b""
    at = GOOD.index(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 64))
    return GOOD[:at] + inner + GOOD[at:]


def run_length(rows: int) -> bytes:
    """A few hundred bytes of RLE that claim rows × rows pixels."""
    plain = as_dicom(np.zeros((2, 2), np.uint8), modality="US", Rows=rows, Columns=rows)
    meta = plain.replace(_EXPLICIT, b"1.2.840.10008.1.2.5\0")
    at = meta.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    segment = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 60
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + struct.pack("<I", len(segment))
    return (
        meta[:at]
        + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + fragments
        + segment
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


def big_png(side: int) -> bytes:
    """A picture that is mostly its header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def zip_bomb(megabytes: int) -> bytes:
    """An archive of one file of zeros."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z, z.open("bomb.dcm", "w") as f:
        for _ in range(megabytes):
            f.write(bytes(2**20))
    return out.getvalue()


#: Name → what makes the file, and the reason that it must end in.
ATTACKS: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "inflates to 2 GB": (lambda: deflated(2048), "too_large"),
    "run lengths of 60000 x 60000": (lambda: run_length(60000), "too_large"),
    "sequences 500 deep": (lambda: nested(500, undefined=True), "too_deep"),
    "sequences 500 deep with lengths": (lambda: nested(500, undefined=False), "too_deep"),
    "PNG of 30000 x 30000": (lambda: big_png(30000), "too_large"),
    "zip bomb": (lambda: zip_bomb(300), "too_large"),
    "truncated": (lambda: GOOD[:-30], "truncated"),
    "truncated header": (lambda: GOOD[:140], "truncated"),
    "empty": (lambda: b"", "empty"),
    "no DICOM": (lambda: b"%PDF-1.4 and so on" * 40, "wrong_type"),
    "no pixels": (
        lambda: as_dicom(np.zeros((2, 2), np.uint8), modality="US", PixelData=None),
        "no_pixels",
    ),
    "a million frames": (
        lambda: as_dicom(np.zeros((2, 2), np.uint8), NumberOfFrames=10**6),
        "too_large",
    ),
}
