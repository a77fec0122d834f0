"""Where the images of a case are: kept apart, and only where that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from curbside.config import Config, PrivacyConfig
from curbside.errors import StorageError
from curbside.router.sources import SourceStore, open_sources
from curbside.study import Instance, Series, Study


def test_files_come_back_by_series_and_can_be_forgotten(tmp_path: Path) -> None:
    store = SourceStore(tmp_path / "sources.sqlite")
    assert store.files("a") == ()
    store.forget(["a"])
    one, two = Instance(tmp_path / "1.png"), Instance(tmp_path / "2.png")
    store.keep([Study("a", (Series((one, two)), Series((one,)))), Study.from_image(b"x", id="b")])
    assert store.files("a") == ((tmp_path / "1.png", tmp_path / "2.png"), (tmp_path / "1.png",))
    assert store.files("b") == ()
    store.keep([Study("a", (Series((two,)),))])
    assert store.files("a") == ((tmp_path / "2.png",),)
    store.forget(["a"])
    assert store.files("a") == ()


def test_none_is_kept_where_that_is_not_wanted(tmp_path: Path) -> None:
    assert open_sources(tmp_path, Config()) is not None
    assert open_sources(tmp_path, Config(privacy=PrivacyConfig(keep_sources=False))) is None


def test_a_store_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = SourceStore(tmp_path / "file" / "sources.sqlite")
    with pytest.raises(StorageError, match="keep_sources"):
        store.keep([Study.from_image(tmp_path / "1.png", id="a")])
