"""What a file is, by its first bytes and never by its name."""

from __future__ import annotations

__all__ = ["PREFIX", "is_dicom", "is_zip"]

#: Bytes that are enough to tell.
PREFIX = 132

#: Elements with which a data set without a preamble begins (groups 2 and 8, either byte order).
_FIRST = frozenset(bytes((2, 0, e, 0)) for e in range(0x19)) | frozenset(
    tag
    for e in (0x00, 0x01, 0x05, 0x06, 0x08, 0x12, 0x14, 0x16, 0x18)
    for tag in (bytes((8, 0, e, 0)), bytes((0, 8, 0, e)))
)


def is_dicom(prefix: bytes) -> bool:
    """Whether a file that begins with these :data:`PREFIX` bytes is a DICOM object."""
    return prefix[128:132] == b"DICM" or (len(prefix) >= 8 and prefix[:4] in _FIRST)


def is_zip(prefix: bytes) -> bool:
    """Whether these first bytes are a zip archive's."""
    return prefix[:4] in (b"PK\x03\x04", b"PK\x05\x06")
