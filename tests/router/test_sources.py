"""Where the images of a case are: kept apart, and only where that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from curbside.archives import Member
from curbside.config import Config, PrivacyConfig
from curbside.errors import StorageError
from curbside.readings import CaseRecord, Outcome, Status, Versions
from curbside.router.sources import SourceStore, open_sources
from curbside.study import Instance, Series, Study


def test_files_come_back_by_series_and_can_be_forgotten(tmp_path: Path) -> None:
    store = SourceStore(tmp_path / "sources.sqlite")
    assert store.images("a") == ()
    store.forget(["a"])
    one, two = Instance(tmp_path / "1.png"), Instance(tmp_path / "2.png")
    store.keep([Study("a", (Series((one, two)), Series((one,)))), Study.from_image(b"x", id="b")])
    assert store.images("a") == ((one, two), (one,))
    assert store.images("b") == ()
    store.keep([Study("a", (Series((two,)),))])
    assert store.images("a") == ((two,),)
    store.forget(["a"])
    assert store.images("a") == ()


def test_none_is_kept_where_that_is_not_wanted(tmp_path: Path) -> None:
    assert open_sources(tmp_path, Config()) is not None
    assert open_sources(tmp_path, Config(privacy=PrivacyConfig(keep_sources=False))) is None


def test_a_store_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SourceStore(tmp_path / "file" / "sources.sqlite")
    with pytest.raises(StorageError, match="keep_sources"):
        store.keep([Study.from_image(tmp_path / "1.png", id="a")])


def test_frames_and_members_of_archives_come_back_as_such(tmp_path: Path) -> None:
    store = SourceStore(tmp_path / "sources.sqlite")
    frames = tuple(Instance(tmp_path / "many.dcm", k) for k in range(3))
    member = (Instance(Member(tmp_path / "x.zip", "folder/1.dcm")),)
    store.keep([Study("a", (Series(frames), Series(member)))])
    assert store.images("a") == (frames, member)
    store.keep([Study("b", (Series((Instance(Member(b"PK", "1.dcm")), Instance(b"x"))),))])
    assert store.images("b") == ()


def test_the_image_behind_a_record_is_found_only_while_it_is_the_same(tmp_path: Path) -> None:
    store, path = SourceStore(tmp_path / "sources.sqlite"), tmp_path / "1.png"
    path.write_bytes(b"pixels")
    store.keep([Study.from_image(path, id="a")])
    versions = Versions(code="1", encoder="e", index="i", calibration="c", policy="p", fleet="f")
    outcome = Outcome(status=Status.NOT_ANALYSED, reasons=())
    record = CaseRecord(
        case="a", content=Instance(path).digest(), outcome=outcome, versions=versions
    )
    assert store.standing_for(record) == Instance(path)
    assert store.standing_for(record.model_copy(update={"incomplete": ("truncated",)})) is None
    assert store.standing_for(record.model_copy(update={"case": "b"})) is None
    path.write_bytes(b"other pixels")
    assert store.standing_for(record) is None
    path.unlink()
    assert store.standing_for(record) is None
