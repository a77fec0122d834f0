"""``curbside fleet``: which agents there are, whether they work, how they are served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.agents.fleet_spec import FleetSpec

__all__ = ["register"]

_Fleet = Annotated[
    str,
    typer.Option(
        "--fleet",
        help="A fleet that ships, or a fleet file; default: fleet.file of curbside.yaml.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add ``fleet`` to the command line."""
    group = typer.Typer(no_args_is_help=True, help="The agents that read: a fleet is a file.")
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="fleet")


def list_() -> None:
    """Fleets that ship, kinds of agent, and which of them work here."""
    from curbside.agents.fleet_spec import load_fleet_spec, shipped_fleets
    from curbside.agents.kinds import KINDS, kind_problem, plugins

    typer.echo("fleets that ship (fleet.file in curbside.yaml, or a path of your own)")
    for name, path in shipped_fleets().items():
        spec = load_fleet_spec(path)
        typer.echo(f"  {name:14} {', '.join(spec.agents)}")
    typer.echo("kinds of agent")
    for name, kind in KINDS.items():
        typer.echo(f"  {name:14} {kind.what}: {kind_problem(name) or 'available'}")
    typer.echo(f"agents of other packages: {', '.join(plugins()) or 'none installed'}")


def show(fleet: _Fleet = "") -> None:
    """Print a fleet file with all defaults filled in."""
    import yaml

    spec, _ = _spec(fleet)
    typer.echo(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False).rstrip())


def _spec(fleet: str) -> tuple[FleetSpec, Path]:
    """The fleet file that is meant, and where it is."""
    from curbside.agents.fleet_spec import fleet_path, load_fleet_spec
    from curbside.config import Config, load_config
    from curbside.home import config_path, home

    if fleet:
        path = fleet_path(fleet)
    else:
        config = load_config(config_path()) if config_path().is_file() else Config()
        path = fleet_path(config.fleet.file, home())
    return load_fleet_spec(path), path
