"""``curbside config``: make, check and show the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_File = Annotated[
    Path | None, typer.Argument(help="Default: curbside.yaml in CURBSIDE_HOME.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add ``config`` to the command line."""
    group = typer.Typer(no_args_is_help=True, help="The configuration, curbside.yaml.")
    group.command("check")(check)
    group.command("init")(init)
    group.command("show")(show)
    group.command("schema")(schema)
    app.add_typer(group, name="config")


def check(file: _File = None) -> None:
    """Check a configuration; every problem is named with its line."""
    from curbside.config import load_config
    from curbside.dicom import check_tags
    from curbside.home import config_path

    path = file or config_path()
    config = load_config(path)
    check_tags(config.privacy.allowed_tags)
    typer.echo(f"{path} is valid (digest {config.digest[:12]})")


def init(file: _File = None) -> None:
    """Write a configuration with every key and its default; keeps one that is there."""
    from curbside.config import Config, save_config
    from curbside.errors import ConfigError
    from curbside.home import config_path

    path = file or config_path()
    if path.exists():
        raise ConfigError(f"{path} exists", hint=f"curbside config check {path}")
    save_config(Config(), path)
    typer.echo(f"wrote {path}")


def show(file: _File = None) -> None:
    """Print the configuration with all defaults filled in."""
    import yaml

    from curbside.config import load_config
    from curbside.home import config_path

    config = load_config(file or config_path())
    typer.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip())


def schema() -> None:
    """Print the JSON Schema of curbside.yaml."""
    from curbside.config import Config

    typer.echo(json.dumps(Config.model_json_schema(), indent=2))
