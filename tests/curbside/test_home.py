"""Where things are, by environment and by working folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from curbside.config import Config
from curbside.errors import ConfigError
from curbside.home import config_path, corpus_manifest, home, home_config


def test_home_is_what_the_environment_says(curbside_home: Path) -> None:
    assert home() == curbside_home
    assert config_path() == curbside_home / "curbside.yaml"
    assert not curbside_home.exists()


@pytest.mark.parametrize("value", [None, ""])
def test_home_by_default(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv("CURBSIDE_HOME")
    else:
        monkeypatch.setenv("CURBSIDE_HOME", value)
    assert home() == Path(".curbside")


def test_the_home_s_configuration_or_the_defaults(curbside_home: Path) -> None:
    assert home_config() == Config()
    curbside_home.mkdir(parents=True, exist_ok=True)
    config_path().write_text("policy: {kind: tier, floor: 0.7}\n")
    assert home_config().policy.floor == 0.7
    config_path().write_text("policy: {kind: guess}\n")
    with pytest.raises(ConfigError, match="guess"):
        home_config()


def test_no_corpus_is_none() -> None:
    assert corpus_manifest() is None


def test_a_corpus_beside_the_working_folder_is_found() -> None:
    folder = Path("..") / "shared" / "corpus"
    folder.mkdir(parents=True)
    (folder / "manifest.csv").touch()
    assert corpus_manifest() == folder / "manifest.csv"


def test_a_named_corpus_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifest.csv").touch()
    monkeypatch.setenv("CURBSIDE_CORPUS", str(tmp_path))
    assert corpus_manifest() == tmp_path / "manifest.csv"


def test_a_named_corpus_that_is_not_there_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_CORPUS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no manifest\.csv") as e:
        corpus_manifest()
    assert "unset CURBSIDE_CORPUS" in e.value.hint
