"""``curbside build``: index, fleet and calibration from a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.options import ConfigFile

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``build`` to the command line."""
    app.command("build")(build)


def build(
    cases: Annotated[Path, typer.Option(help="Manifest of train, tune and calibration cases.")],
    config: ConfigFile = None,
) -> None:
    """Build the index, train the embedded agents, calibrate; reuses what is still valid."""
    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.building import build_home
    from curbside.router.workspace import Workspace

    manifest = read_cases(cases)
    workspace = Workspace(home(), load_config(config or config_path()))
    build_home(workspace, manifest)
    fleet = workspace.fleet()
    typer.echo(
        f"built under {home()}: {len(workspace.assessor())} cases indexed, "
        f"{len(fleet.specialists)} specialists, serving generalist {fleet.generalist}"
    )
    typer.echo("next: curbside route IMAGE")
