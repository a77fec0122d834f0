"""Archives: what they claim is checked, members are read no further than that."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from curbside import archives
from curbside.archives import Member, members_of
from curbside.errors import ImageError


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, raw in files.items():
            z.writestr(name, raw)
    return out.getvalue()


def refused(archive: Path | bytes) -> str:
    with pytest.raises(ImageError) as e:
        list(members_of(archive))
    return e.value.reason


def test_members_come_by_name_and_are_read_whole(tmp_path: Path) -> None:
    raw = zipped(b=b"second", a=b"first", **{"folder/": b""})
    path = tmp_path / "x.zip"
    path.write_bytes(raw)
    for archive in (raw, path):
        found = list(members_of(archive))
        assert [m.name for m in found] == ["a", "b"]
        assert [m.read(100) for m in found] == [b"first", b"second"]
        assert found[0].prefix(3) == b"fir"
        assert "first" not in repr(found) and "a" not in repr(found[0]).removeprefix("Member")


def test_what_is_no_archive(tmp_path: Path) -> None:
    raw = zipped(a=b"first")
    assert refused(tmp_path / "none.zip") == "unreadable"
    assert refused(raw[:-30]) == "truncated"
    assert refused(raw[-22:][:4] + bytes(18)[:10]) == "truncated"
    broken = bytearray(raw)
    broken[raw.index(b"PK\x01\x02")] = 0
    assert refused(bytes(broken)) == "unreadable"


def test_an_archive_may_say_that_it_is_large_in_the_wide_record() -> None:
    raw = zipped(a=b"first")
    end = raw.index(b"PK\x05\x06")
    wide = b"PK\x06\x06" + bytes(20) + (10**9).to_bytes(8, "little") * 2 + bytes(16)
    narrow = bytearray(raw[end:])
    narrow[8:12] = b"\xff" * 4
    assert refused(raw[:end] + wide + bytes(narrow)) == "too_large"


def test_ratio_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = zipped(a=bytes(10**6))
    monkeypatch.setattr(archives, "FREE_BYTES", 10**5)
    assert refused(raw) == "too_large"
    monkeypatch.setattr(archives, "MAX_RATIO", 2000)
    (member,) = members_of(raw)
    assert len(member.read(10**6)) == 10**6
    with pytest.raises(ImageError) as e:
        member.read(10**6 - 1)
    assert e.value.reason == "too_large"


def test_members_that_are_gone_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(a=bytes(range(256)) * 40))
    (member,) = members_of(path)

    def reason() -> str:
        with pytest.raises(ImageError) as e:
            member.read(10**6)
        return e.value.reason

    raw = bytearray(path.read_bytes())
    raw[60:90] = bytes(30)
    path.write_bytes(bytes(raw))
    assert reason() in ("unreadable", "truncated")
    path.write_bytes(zipped(other=b""))
    assert reason() == "missing"
    with pytest.raises(ImageError):
        member.prefix(4)
    path.unlink()
    assert reason() == "missing"
    with pytest.raises(ImageError) as e:
        Member(b"PK\x03\x04", "a").read(10)
    assert e.value.reason == "unreadable"
