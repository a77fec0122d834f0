"""Uploads are kept under names of our own, or not at all."""

from __future__ import annotations

import io
import stat

import pytest

from curbside.errors import StorageError
from curbside.ui.uploads import keep


class Named(io.BytesIO):
    def __init__(self, name: str, data: bytes) -> None:
        super().__init__(data)
        self.name = name


class Broken(Named):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(28, "No space left on device")


def test_no_name_is_kept(tmp_path):
    files = [Named("Doe^John.DCM", b"1" * 200_000), Named("a/b/Jane.exe", b"2")]
    folder, n = keep(files, tmp_path)
    kept = sorted((tmp_path / "uploads" / folder).iterdir())
    assert [p.name for p in kept] == ["00000.dcm", "00001"] and n == 2
    assert kept[0].read_bytes() == b"1" * 200_000
    assert stat.S_IMODE(kept[0].parent.stat().st_mode) == 0o700


def test_a_full_disk_leaves_nothing(tmp_path):
    with pytest.raises(StorageError, match="nothing of it is left"):
        keep([Named("a.png", b"1"), Broken("b.png", b"")], tmp_path)
    assert list((tmp_path / "uploads").iterdir()) == []
