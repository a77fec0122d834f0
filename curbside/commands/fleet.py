"""``curbside fleet``: which agents there are, whether they work, how they are served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.agents.fleet_spec import FleetSpec

__all__ = ["fleet_file", "register"]

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
    group.command("check")(check)
    group.command("serve")(serve)
    group.command("card")(card)
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

    spec, _ = fleet_file(fleet)
    typer.echo(yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False).rstrip())


def check(fleet: _Fleet = "") -> None:
    """Ask every agent something, and say what works, what does not and what mends it.

    Exits with 1 when an agent does not work.
    """
    from curbside.agents.checking import check_agent
    from curbside.agents.serving import serve_commands
    from curbside.study import Question

    spec, path = fleet_file(fleet)
    this = f"curbside fleet serve --fleet {fleet or path} --start --only"
    commands = {c.endpoint: f"{this} {c.endpoint}" for c in serve_commands(spec, path.parent)}
    endpoint_of = {n: getattr(a, "endpoint", "") for n, a in spec.agents.items()}
    opened = _open(spec, path)
    questions = tuple(Question(options=o, task=t) for t, o in opened.tasks.items())
    broken = 0
    for name, agent in {**opened.agents, **opened.people}.items():
        typer.echo(f"{name}  ({agent.card.kind}, {agent.card.role})")
        serve_with = commands.get(endpoint_of.get(name, ""), "")
        for found in check_agent(agent, serve=serve_with, questions=questions):
            mark = {True: "ok", False: "NO", None: "–"}[found.ok]
            broken += found.ok is False
            typer.echo(f"  {mark:3} {found.check:18} {found.said}")
            if found.mend:
                typer.echo(f"      next: {found.mend}")
    if broken:
        raise typer.Exit(1)


def serve(
    fleet: _Fleet = "",
    start: Annotated[bool, typer.Option(help="Start the servers and keep them up.")] = False,
    only: Annotated[str, typer.Option(help="One endpoint of the fleet.")] = "",
    vllm: Annotated[
        str, typer.Option(help="The vllm to run, where it is not the one on the PATH.")
    ] = "vllm",
) -> None:
    """Print the vLLM commands of a fleet's endpoints, or start and supervise them.

    With --start until interrupted (Ctrl-C) or ended (SIGTERM); the servers end with it.
    """
    from curbside.agents.serving import check_ready, check_vllm, serve_commands
    from curbside.agents.supervising import supervise
    from curbside.errors import UserError
    from curbside.home import home

    spec, path = fleet_file(fleet)
    made = serve_commands(spec, path.parent, vllm)
    commands = [c for c in made if only in ("", c.endpoint)]
    if not commands:
        valid = ", ".join(n for n, e in spec.endpoints.items() if e.serve) or "none"
        raise UserError(
            f"no endpoint of {path} is to be served; those that say how: {valid}",
            hint="curbside fleet show",
        )
    if not start:
        for command in commands:
            typer.echo(f"# {command.endpoint}")
            typer.echo(str(command))
        return
    check_ready(commands)  # before seconds are spent on asking vLLM for its version
    program, version = check_vllm(vllm)
    typer.echo(f"vLLM {version} ({program})")
    commands = [c.run_by(program) for c in commands]
    supervise(commands, home() / "serve", say=typer.echo)


def card(
    name: Annotated[str, typer.Argument(help="An agent of the fleet.")], fleet: _Fleet = ""
) -> None:
    """Print an agent's model card: what it is, what it cost to build, what it got right."""
    from curbside.errors import UserError
    from curbside.home import home, home_config
    from curbside.router.model_cards import model_cards
    from curbside.router.workspace import Workspace

    pages = model_cards(Workspace(home(), home_config()), _open(*fleet_file(fleet)))
    if name not in pages:
        raise UserError(
            f"there is no agent {name!r}; agents: {', '.join(pages)}", hint="curbside fleet list"
        )
    typer.echo(pages[name].rstrip())


def _open(spec: FleetSpec, path: Path) -> Fleet:
    """The fleet of a file; tasks and trained agents come from what was built, if anything was."""
    from curbside.agents.opening import open_fleet
    from curbside.home import home, home_config
    from curbside.router.workspace import Workspace

    workspace = Workspace(home(), home_config())
    return open_fleet(spec, stored=workspace.trained, folder=path.parent)


def fleet_file(fleet: str) -> tuple[FleetSpec, Path]:
    """The fleet file that is meant, and where it is."""
    from curbside.agents.fleet_spec import fleet_path, load_fleet_spec
    from curbside.home import home, home_config

    path = fleet_path(fleet) if fleet else fleet_path(home_config().fleet.file, home())
    return load_fleet_spec(path), path
