"""Zip archives as containers of images: listed without inflating, read one member at a time.

Nothing is extracted to disk, so a member's name can point nowhere.  What an archive claims is
checked before a member is read, and a member is never read past its claim.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from curbside.errors import ImageError

__all__ = [
    "FREE_BYTES",
    "MAX_MEMBERS",
    "MAX_RATIO",
    "MAX_TOTAL_BYTES",
    "Member",
    "Source",
    "members_of",
]

#: Most members of an archive.
MAX_MEMBERS = 100_000
#: Most bytes of all members together, inflated.
MAX_TOTAL_BYTES = 32 * 2**30
#: Largest inflated : compressed size of a member above :data:`FREE_BYTES`, and of the whole.
MAX_RATIO = 200
#: Inflated size below which no ratio is suspicious: an empty picture compresses 1000 : 1.
FREE_BYTES = 64 * 2**20
#: Largest central directory, bytes: what listing an archive reads into memory.
_MAX_DIRECTORY = 64 * 2**20
_LITTER = ("__MACOSX/", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Member:
    """One file inside a zip archive, which is a file or the bytes of one."""

    archive: Path | bytes
    name: str

    def read(self, limit: int) -> bytes:
        """The member's bytes, inflated.

        Raises:
            ImageError: ``missing | unreadable | truncated | too_large``; names no member.
        """
        try:
            archive = _opened(self.archive, _stamp(self.archive))
            info = archive.getinfo(self.name)
            if info.file_size > limit:
                raise _too_large(f"a member of {info.file_size:,} bytes; at most {limit:,} are")
            with archive.open(info) as f:
                # one byte more than is claimed would show a claim that lies
                raw = f.read(info.file_size + 1)
        except ImageError:
            raise
        except (KeyError, FileNotFoundError):
            raise ImageError("missing", "the archive or its member does not exist") from None
        except (EOFError, zlib.error):
            raise ImageError("truncated", "the archive ends before its member does") from None
        except Exception as e:  # zipfile raises many types on broken members
            raise ImageError(
                "unreadable", f"the archive's member cannot be read ({type(e).__name__})"
            ) from None
        if len(raw) != info.file_size:
            raise ImageError("truncated", "the archive's member is shorter than it claims")
        return raw

    def prefix(self, n: int) -> bytes:
        """The first n bytes, for a look at what it is.  Raises ImageError."""
        try:
            with _opened(self.archive, _stamp(self.archive)).open(self.name) as f:
                return f.read(n)
        except Exception as e:
            raise ImageError(
                "unreadable", f"the archive's member cannot be read ({type(e).__name__})"
            ) from None

    def __repr__(self) -> str:  # names may hold a patient's
        return "Member(…)"


#: One file, the bytes of one, or one in an archive.
Source = Path | bytes | Member


def members_of(archive: Path | bytes) -> Iterator[Member]:
    """The members of an archive by name, without folders and without what systems leave there.

    Raises:
        ImageError: ``missing | unreadable | too_large``: it is no zip archive, is encrypted, or
            claims more members or bytes than are opened.
    """
    try:
        with _stream(archive) as f:
            _check_directory(f)
        infos = _opened(archive, _stamp(archive)).infolist()
    except ImageError:
        raise
    except OSError as e:
        raise ImageError("unreadable", f"the archive cannot be read ({e.strerror})") from None
    except Exception as e:
        raise ImageError("unreadable", f"not a whole zip archive ({type(e).__name__})") from None
    if any(i.flag_bits & 1 for i in infos):
        raise ImageError("unreadable", "the archive is encrypted")
    total = sum(i.file_size for i in infos)
    packed = sum(i.compress_size for i in infos)
    if total > MAX_TOTAL_BYTES:
        raise _too_large(f"an archive that claims {total:,} bytes; at most {MAX_TOTAL_BYTES:,} are")
    for size, small in [(i.file_size, i.compress_size) for i in infos] + [(total, packed)]:
        if size > FREE_BYTES and size > MAX_RATIO * small:
            ratio = size // max(small, 1)
            raise _too_large(f"an archive inflating {ratio:,} : 1; at most {MAX_RATIO} : 1 is")
    for info in sorted(infos, key=lambda i: i.filename):
        name = info.filename.rsplit("/", 1)[-1]
        if name and not name.startswith(".") and not info.filename.startswith(_LITTER):
            yield Member(archive, info.filename)


def _check_directory(f: BinaryIO) -> None:
    """The claims of the end record, before zipfile reads the directory into memory."""
    size = f.seek(0, 2)
    f.seek(max(0, size - 2**16 - 22))
    tail = f.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise ImageError("truncated", "the archive has no end record")
    count, directory = struct.unpack("<HI", tail[at + 10 : at + 16])
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and len(tail) >= wide + 48 and (count == 0xFFFF or directory == 0xFFFFFFFF):
        count, directory = struct.unpack("<QQ", tail[wide + 32 : wide + 48])
    if count > MAX_MEMBERS or directory > _MAX_DIRECTORY:
        raise _too_large(f"an archive of {count:,} members; at most {MAX_MEMBERS:,} are")


def _stream(archive: Path | bytes) -> BinaryIO:
    return BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")


def _stamp(archive: Path | bytes) -> tuple[int, int]:
    """So that an archive that was replaced is opened anew."""
    if isinstance(archive, bytes):
        return 0, len(archive)
    stat = archive.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4)
def _opened(archive: Path | bytes, stamp: tuple[int, int]) -> zipfile.ZipFile:
    return zipfile.ZipFile(BytesIO(archive) if isinstance(archive, bytes) else archive)


def _too_large(what: str) -> ImageError:
    return ImageError("too_large", f"{what} opened")
