"""``curbside policy``: fit a routing policy on tune cases and freeze it in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``policy fit`` to the command line."""
    policies = typer.Typer(no_args_is_help=True, help="Fit routing policies.")
    policies.command("fit")(policy_fit)
    # a group with one command would otherwise swallow the command's name
    policies.callback()(lambda: None)
    app.add_typer(policies, name="policy")


def policy_fit(
    out: Annotated[Path, typer.Option(help="Policy file to write (YAML).")],
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kinds to choose among; may be repeated. Default: all."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0, max=0.999, help="Novelty gate of the policy.")
    ] = 0.05,
    price: Annotated[
        float, typer.Option(min=0, help="Accuracy given up for a second call on a case.")
    ] = 0.0,
    risk: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Error rate that a certified floor must keep."),
    ] = None,
    role: Annotated[
        str, typer.Option(help="Role to fit on; anything but tune is refused.")
    ] = "tune",
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: curbside.yaml in CURBSIDE_HOME.")
    ] = None,
) -> None:
    """Choose a policy and its thresholds on tune, certify its floor, write both with provenance."""
    from curbside.config import load_config, save_policy
    from curbside.errors import UserError
    from curbside.evals.fit import KINDS, refuse
    from curbside.evals.policy_session import fit_built
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    refuse(role, "tune")
    unknown = sorted(set(kind or ()) - set(KINDS))
    if unknown:
        raise UserError(f"no policy kind {unknown[0]!r}; valid: {', '.join(KINDS)}")
    workspace = Workspace(home(), load_config(config or config_path()))
    policy, provenance = fit_built(
        workspace, role=role, kinds=tuple(kind or KINDS), alpha=alpha, price=price, risk=risk
    )
    save_policy(policy, provenance, out)
    typer.echo(f"fitted on {provenance.n_cases} tune cases in {provenance.n_groups} groups")
    for name, value in sorted(provenance.compared.items(), key=lambda x: -x[1]):
        mark = "▶" if name == policy.kind else " "
        typer.echo(f"{mark} {name:<12} {100 * value:.1f} %  cross-fitted")
    settings = policy.model_dump(exclude={"kind"})
    typer.echo("  " + ", ".join(f"{k} {v:g}" for k, v in settings.items()))
    typer.echo(f"  floor: {provenance.floor_from}")
    typer.echo(f"written   {out}")
    typer.echo(f"next      curbside eval run --cases MANIFEST --out DIR --policy {out}")
