"""Where things are: ``CURBSIDE_HOME`` (default ``.curbside``) and ``CURBSIDE_CORPUS``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from curbside.errors import ConfigError

if TYPE_CHECKING:
    from curbside.config import Config

__all__ = ["config_path", "corpus_manifest", "home", "home_config"]


def home() -> Path:
    """The folder for everything that curbside makes; not created here."""
    return Path(os.environ.get("CURBSIDE_HOME") or ".curbside")


def config_path() -> Path:
    """``curbside.yaml`` in the home folder."""
    return home() / "curbside.yaml"


def home_config() -> Config:
    """What ``curbside.yaml`` in the home folder says; the defaults where it is not there.

    Raises:
        ConfigError: the file is wrong.
    """
    from curbside.config import Config, load_config

    path = config_path()
    return load_config(path) if path.is_file() else Config()


def corpus_manifest() -> Path | None:
    """The real corpus's manifest: ``CURBSIDE_CORPUS``, else ``../shared/corpus``, else None.

    Raises:
        ConfigError: ``CURBSIDE_CORPUS`` is set but holds no ``manifest.csv``.
    """
    named = os.environ.get("CURBSIDE_CORPUS")
    folder = Path(named) if named else Path("..") / "shared" / "corpus"
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    if named:
        raise ConfigError(
            f"CURBSIDE_CORPUS={named} has no manifest.csv",
            hint="unset CURBSIDE_CORPUS to run on phantoms, or point it at the corpus",
        )
    return None
