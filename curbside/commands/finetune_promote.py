"""``curbside finetune promote``: an adapter joins a fleet when it has passed the gate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.agents.contract import Agent
    from curbside.agents.finetuning.card import AdapterCard
    from curbside.agents.fleet_spec import AgentSpec, FleetSpec

__all__ = ["finetune_promote"]


def finetune_promote(
    adapter: Annotated[Path, typer.Argument(help="Folder that curbside finetune wrote.")],
    cases: Annotated[Path, typer.Option(help="Manifest; rows of role tune are read.")],
    fleet: Annotated[Path, typer.Option(help="Fleet file that it joins.")],
    name: Annotated[str, typer.Option(help="Of the new agent; default: the folder's.")] = "",
    against: Annotated[
        str,
        typer.Option(
            help="Agent that it is held against; default: the one that it was made from, "
            "else the generalist that serves.",
            show_default=False,
        ),
    ] = "",
    base: Annotated[
        Path | None, typer.Option(help="Folder of its base, where the fleet does not name it.")
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="Limits; default: those that ship.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
) -> None:
    """Read tune with an adapter, judge it, and enter it in the fleet if every check passed.

    Exit code 1: a check did not pass, and the fleet file is as it was.
    """
    from curbside.agents.finetuning.adaptable import report_of
    from curbside.agents.finetuning.card import read_card, write_card
    from curbside.agents.finetuning.material import material_of
    from curbside.agents.fleet_spec import load_fleet_spec
    from curbside.agents.opening import open_agent
    from curbside.cases import read_cases
    from curbside.errors import UserError
    from curbside.evals.gate import RULES, lines, load_rules
    from curbside.evals.promotion import entry_for, judge_adapter, measured, write_entry

    card, spec = read_card(adapter), load_fleet_spec(fleet)
    called = name or adapter.absolute().name
    if called in spec.agents:
        raise UserError(f"{fleet} has an agent {called!r} already", hint="--name ANOTHER")
    entry = entry_for(card, adapter, spec, fleet, _base(card, base))
    _check_base(card, adapter, entry, spec, fleet.parent)
    new = open_agent(called, entry, spec, fleet.parent)
    held = against or (card.agent if card.agent in spec.agents else "")
    title, old = _held_against(held, spec, fleet.parent)
    manifest = read_cases(cases)
    material = partial(
        material_of,
        manifest,
        held_out=0.0,
        report=report_of(card.agent, spec, fleet.parent),
        closed_only=card.kind == "encoder",
    )
    found, by_task = measured(new, old, material().train, material(role="tune"))
    checks = judge_adapter(found, title, load_rules(rules or RULES), replicates=replicates)
    for line in lines(checks):
        typer.echo(line)
    failed = [c.name for c in checks if not c.passed]
    typer.echo(f"GATE       {'closed: ' + ', '.join(failed) if failed else 'open'}")
    if failed:
        typer.echo(f"{fleet} is as it was")
        raise typer.Exit(1)
    metrics = {f"tune, {t}": value for t, value in by_task.items()}
    write_card(card.model_copy(update={"metrics": card.metrics | metrics}), adapter)
    write_entry(fleet, called, entry)
    typer.echo(f"entered    {called} in {fleet}")
    typer.echo(f"next: curbside fleet check --fleet {fleet}")


def _base(card: AdapterCard, base: Path | None) -> str:
    """What an entry of its own names as base."""
    if base is not None:
        return str(base.absolute())
    return card.base


def _check_base(
    card: AdapterCard, adapter: Path, entry: AgentSpec, spec: FleetSpec, folder: Path
) -> None:
    """The base is here, and it is the one that the adapter was made on."""
    from curbside.agents.finetuning.adaptable import encoder_base, local_folder, vlm_base
    from curbside.agents.finetuning.export import base_digest, check_adapter
    from curbside.agents.fleet_spec import EncoderSpec, TransformersSpec
    from curbside.errors import UserError

    try:
        if isinstance(entry, EncoderSpec):
            where = encoder_base(entry.base)[1]
        elif isinstance(entry, TransformersSpec):
            where = local_folder(entry.base, folder)
        else:
            found = vlm_base(card.agent, spec, folder)
            where = found.folder if found else None
    except UserError as e:
        raise UserError(
            f"the adapter's base: {e.message}", hint=f"--base FOLDER (of {card.base})"
        ) from None
    if where is not None:
        check_adapter(adapter, where, base_digest(where))


def _held_against(name: str, spec: FleetSpec, folder: Path) -> tuple[str, Agent]:
    """An agent of the fleet by name, or the generalist that serves."""
    from curbside.agents.opening import open_agent
    from curbside.errors import UserError
    from curbside.home import home, home_config
    from curbside.router.workspace import Workspace

    wanted = name or spec.generalist
    if wanted in spec.agents and spec.agents[wanted].kind not in ("embedded", "person"):
        return wanted, open_agent(wanted, spec.agents[wanted], spec, folder)
    if not spec.embedded:
        raise UserError(
            f"there is no agent {wanted!r} to hold it against; agents: {', '.join(spec.agents)}",
            hint="--against AGENT",
        )
    trained = Workspace(home(), home_config()).trained()
    wanted = wanted or trained.generalist
    if wanted not in trained.agents:
        raise UserError(
            f"there is no agent {wanted!r} to hold it against; agents: "
            f"{', '.join([*spec.agents, *trained.agents])}",
            hint="--against AGENT",
        )
    return wanted, trained.agents[wanted]
