"""``curbside policy``: fit a routing policy on tune cases and freeze it in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.options import ConfigFile

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``policy`` to the command line."""
    policies = typer.Typer(
        no_args_is_help=True, help="Fit routing policies and say what they may answer."
    )
    policies.command("fit")(policy_fit)
    policies.command("risk")(policy_risk)
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
    referral: Annotated[
        float,
        typer.Option(min=0, max=1, help="What a case left to a person is worth, in right answers."),
    ] = 0.0,
    risk: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Error rate that a certified floor must keep."),
    ] = None,
    role: Annotated[
        str, typer.Option(help="Role to fit on; anything but tune is refused.")
    ] = "tune",
    config: ConfigFile = None,
) -> None:
    """Choose a policy and its thresholds on tune, certify its floor, write both with provenance."""
    from curbside.config import load_config, save_policy
    from curbside.errors import UserError
    from curbside.evals.fit import KINDS, refuse, variant_of
    from curbside.evals.policy_session import fit_built
    from curbside.evals.probes import load_probes, run_probes
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    refuse(role, "tune")
    unknown = sorted(set(kind or ()) - set(KINDS))
    if unknown:
        raise UserError(f"no policy kind {unknown[0]!r}; valid: {', '.join(KINDS)}")
    workspace = Workspace(home(), load_config(config or config_path()))
    policy, provenance = fit_built(
        workspace,
        role=role,
        kinds=tuple(kind or KINDS),
        alpha=alpha,
        price=price,
        referral=referral,
        risk=risk,
    )
    save_policy(policy, provenance, out)
    typer.echo(f"fitted on {provenance.n_cases} tune cases in {provenance.n_groups} groups")
    typer.echo(f"  objective: {provenance.objective}")
    wide = max(map(len, provenance.compared))
    for name, value in sorted(provenance.compared.items(), key=lambda x: -x[1]):
        mark = "▶" if name == variant_of(policy) else " "
        typer.echo(f"{mark} {name:<{wide}}  {100 * value:.1f} %  cross-fitted")
    settings = policy.model_dump(exclude={"kind"})
    typer.echo("  " + ", ".join(f"{k} {_value(v)}" for k, v in settings.items()))
    typer.echo(f"  floor: {provenance.floor_from}")
    results = run_probes(load_probes(), policy)
    failed = [r.probe.name for r in results if not r.passed]
    said = f"; not {', '.join(failed)}" if failed else ""
    typer.echo(f"probes    {len(results) - len(failed)} of {len(results)} hold{said}")
    typer.echo(f"written   {out}")
    typer.echo(f"next      curbside eval run --cases MANIFEST --out DIR --policy {out}")


def _value(v: float | bool | tuple[str, ...]) -> str:
    if isinstance(v, bool):
        return "yes" if v else "no"
    if isinstance(v, tuple):
        return " + ".join(v)
    return str(v) if isinstance(v, int) else f"{v:g}"


def policy_risk(
    delta: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Chance that a certified rate is exceeded.")
    ] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Also write the curve as JSON.")] = None,
    config: ConfigFile = None,
) -> None:
    """How much the configured policy may answer at each certified error rate (Learn-then-Test).

    The floor at each rate comes from calibration cases; nothing is changed.
    """
    import json
    from dataclasses import asdict

    from curbside.config import load_config
    from curbside.evals.policy_session import risk_curve
    from curbside.home import config_path, home
    from curbside.indexes.risk import EPSILON
    from curbside.router.workspace import Workspace
    from curbside.storage import write_text

    workspace = Workspace(home(), load_config(config or config_path()))
    points = risk_curve(workspace, delta=delta)
    typer.echo(
        f"policy {workspace.config.policy.kind}, on calibration cases; 1 − δ = {1 - delta:g}"
    )
    typer.echo("    ε      floor  answered  observed error")
    for p in points:
        mark = "▶" if p.epsilon == EPSILON else " "
        if p.threshold is None:
            typer.echo(f"{mark} {p.epsilon:<6g}   none     0.0 %  nothing can be certified")
        else:
            typer.echo(
                f"{mark} {p.epsilon:<6g} {p.threshold:6.3f}  {p.coverage:7.1%}  {p.risk:7.1%}"
            )
    typer.echo("each line holds by itself: choose ε before looking at the curve")
    if out is not None:
        rows = [asdict(p) | {"risk": None if p.threshold is None else p.risk} for p in points]
        write_text(out, json.dumps({"delta": delta, "points": rows}, indent=1) + "\n")
        typer.echo(f"written   {out}")
