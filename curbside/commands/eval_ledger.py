"""``curbside eval ledger``: the production ledger as a response matrix; a policy on last month."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.options import ConfigFile

__all__ = ["eval_ledger"]


def eval_ledger(
    out: Annotated[Path, typer.Option(help="Folder for responses and assessments.")],
    since: Annotated[datetime | None, typer.Option(help="Received at or after.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Received before.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file to test against what happened.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Make a response matrix of the ledger; with --policy, say how that would have ended cases."""
    from curbside.agents.fleet import read_fleet_file
    from curbside.agents.fleet_spec import fleet_path, load_fleet_spec
    from curbside.config import load_config, load_policy
    from curbside.evals.ledger_matrix import from_ledger, save_logged, try_policy
    from curbside.home import config_path, home
    from curbside.router.ledger import open_ledger

    settings = load_config(config or config_path())
    fleet = read_fleet_file(home() / settings.stores.fleet)
    specialists = {a.modality: a.name for a in fleet.agents if a.modality is not None}
    tried = load_policy(policy) if policy else settings.policy
    able = load_fleet_spec(fleet_path(settings.fleet.file, home())).askable(
        [a.name for a in fleet.agents]
    )
    colleagues = [c for c in getattr(tried, "colleagues", ()) if c in able]
    ledger = open_ledger(home(), settings.stores.ledger)
    try:
        logged = from_ledger(
            ledger,
            specialists,
            fleet.generalist,
            colleagues=colleagues,
            since=since,
            until=until,
        )
    finally:
        ledger.close()
    save_logged(logged, out)
    typer.echo(f"{len(logged.matrix)} studies, {len(logged.matrix.agents)} agents: {out}")
    tested = try_policy(logged, tried)
    name = policy.name if policy else "as configured"
    typer.echo(f"{'':<16} answered   right   calls")
    for who, values in (
        ("what happened", (tested.then_answered, tested.then_right, tested.then_calls)),
        (name[:16], (tested.answered, tested.right, tested.calls)),
    ):
        share, right, calls = values
        right_text = "–" if right != right else f"{100 * right:.1f} %"
        typer.echo(f"{who:<16} {100 * share:6.1f} %  {right_text:>6}  {calls:6.2f}")
    typer.echo(
        f"right: among answered studies that a person answered too ({tested.with_truth} in all; "
        "persons mostly see what was held back, so these are not a fair sample)"
    )
    if tested.unseen:
        typer.echo(
            f"{tested.unseen} studies would ask an agent that was not asked then: they count as if "
            "it had failed"
        )
