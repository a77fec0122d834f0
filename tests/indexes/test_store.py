"""The index on disk: verified before it is parsed, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.errors import IndexCorrupt, IndexMismatch, NotBuilt, StorageError
from curbside.indexes import store
from curbside.indexes.store import MANIFEST, read_store, tensor_bytes, write_store

FILES = {"a.bin": b"first", "b.json": b"[1, 2]", "c.safetensors": tensor_bytes({"x": np.eye(2)})}
FACTS = {"encoder": "one", "cases": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_store(tmp_path / "index", "index", FILES, FACTS)
    return tmp_path / "index"


def test_what_was_written_is_read(folder: Path) -> None:
    stored = read_store(folder, "index", expect={"encoder": "one"})
    assert dict(stored.files) == FILES
    assert stored.facts == FACTS
    assert stored.json("b.json") == [1, 2]
    assert (stored.tensors("c.safetensors")["x"] == np.eye(2)).all()


def test_the_manifest_names_every_file_and_when_and_by_what(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest["files"]) == set(FILES)
    assert {"created", "code_version", "facts", "digest", "kind", "format"} <= set(manifest)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, MANIFEST])


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    a = write_store(tmp_path / "a", "index", FILES, FACTS)
    b = write_store(tmp_path / "b", "index", dict(reversed(FILES.items())), FACTS)
    other = write_store(tmp_path / "c", "index", FILES | {"a.bin": b"other"}, FACTS)
    assert a == b != other
    assert read_store(tmp_path / "a", "index").digest == a


def test_not_built_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="curbside build"):
        read_store(tmp_path / "nowhere", "index")


def test_another_encoder_is_a_mismatch_that_says_what_differs(folder: Path) -> None:
    with pytest.raises(IndexMismatch) as e:
        read_store(folder, "index", expect={"encoder": "two"})
    assert "encoder: expected two, found one" in str(e.value)
    assert "curbside build" in e.value.hint
    assert e.value.exit_code == 2


def test_another_kind_is_a_mismatch(folder: Path) -> None:
    with pytest.raises(IndexMismatch, match="kind: expected competence, found index"):
        read_store(folder, "competence")


def test_a_later_format_is_a_mismatch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    with pytest.raises(IndexMismatch, match="format: expected 2, found 1"):
        read_store(folder, "index")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("store") / "index"
    write_store(folder, "index", FILES, FACTS)
    name = data.draw(st.sampled_from(sorted(FILES)))
    raw = bytearray((folder / name).read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(raw)
    with pytest.raises(IndexCorrupt, match=name):
        read_store(folder, "index")


@pytest.mark.parametrize("name", sorted(FILES))
def test_half_a_file_and_no_file_are_found(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(IndexCorrupt, match=f"{name} has other bytes"):
        read_store(folder, "index")
    (folder / name).unlink()
    with pytest.raises(IndexCorrupt, match=f"{name} is missing") as e:
        read_store(folder, "index")
    assert e.value.hint == "curbside build"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '{"facts": 1}', '{"facts": {}}'])
def test_a_manifest_that_is_none(folder: Path, text: str | None) -> None:
    if text is None:
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text(text)
    with pytest.raises(IndexCorrupt, match=r"half-written or damaged: manifest\.json"):
        read_store(folder, "index")


def test_a_manifest_with_an_edited_fact(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"one"', '"two"'))
    with pytest.raises(IndexCorrupt, match=r"manifest\.json was changed"):
        read_store(folder, "index", expect={"encoder": "two"})


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"first")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../secret"] = manifest["files"]["a.bin"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(IndexCorrupt, match=r"\.\./secret is missing"):
        read_store(folder, "index")


def test_a_full_disk_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as f:
            f.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        write_store(folder, "index", FILES | {"a.bin": b"new"}, FACTS)
    monkeypatch.undo()
    assert read_store(folder, "index").files["a.bin"] == b"first"
    assert [p.name for p in folder.parent.iterdir()] == ["index"]


def test_a_crash_between_the_renames_is_survived(folder: Path) -> None:
    folder.rename(folder.parent / ".index.old")
    assert read_store(folder, "index").files["a.bin"] == b"first"


def test_a_file_of_the_wrong_form_is_corrupt(folder: Path) -> None:
    stored = read_store(folder, "index")
    with pytest.raises(IndexCorrupt, match=r"a\.bin"):
        stored.json("a.bin")
    with pytest.raises(IndexCorrupt, match=r"a\.bin"):
        stored.tensors("a.bin")
    with pytest.raises(IndexCorrupt, match="absent"):
        stored.json("absent")
