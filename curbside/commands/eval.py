"""``curbside eval run``: does routing pay on these cases?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``eval run`` to the command line."""
    evals = typer.Typer(no_args_is_help=True, help="Measure the hybrid against each model alone.")
    evals.command("run")(eval_run)
    # a group with one command would otherwise swallow the command's name
    evals.callback()(lambda: None)
    app.add_typer(evals, name="eval")


def eval_run(
    cases: Annotated[Path, typer.Option(help="Manifest: CSV, JSONL or Parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for summary.json, report.html, responses.")],
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: curbside.yaml in CURBSIDE_HOME.")
    ] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    phantoms: Annotated[bool, typer.Option(help="Label the cases as phantoms.")] = False,
) -> None:
    """Every agent reads every case once; arms, gates and the verdict by replay."""
    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.evals.session import evaluate_manifest
    from curbside.evals.table import print_summary
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    workspace = Workspace(home(), load_config(config or config_path()))
    summary, reused = evaluate_manifest(
        workspace, read_cases(cases), out, replicates=replicates, seed=seed, phantoms=phantoms
    )
    print_summary(summary)
    if reused:
        typer.echo("nothing changed since this was evaluated: read from summary.json")
    typer.echo(f"summary    {out / 'summary.json'}")
    typer.echo(f"report     {out / 'report.html'}")
