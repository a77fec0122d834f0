"""``curbside eval few-shot``: labels until the generalist matches the specialist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["eval_few_shot"]


def eval_few_shot(
    cases: Annotated[Path, typer.Option(help="Manifest whose test rows are read.")],
    out: Annotated[Path, typer.Option(help="Folder for points and readings; resumed.")],
    draws: Annotated[int, typer.Option(min=1, max=20, help="Few-shot draws and seeds.")] = 3,
    minutes: Annotated[
        float, typer.Option(min=0, help="No further generalist is begun after so long.")
    ] = 10.0,
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: curbside.yaml in CURBSIDE_HOME.")
    ] = None,
) -> None:
    """Curves over 1, 4, 16, 64 and all labels; where the generalist meets the specialist."""
    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.evals.few_shot import few_shot_curves, lines
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace
    from curbside.storage import write_text

    workspace = Workspace(home(), load_config(config or config_path()))
    curves = few_shot_curves(workspace, read_cases(cases), out, draws=draws, minutes=minutes)
    write_text(out / "few-shot.json", curves.model_dump_json(indent=1) + "\n")
    for line in lines(curves):
        typer.echo(line)
    typer.echo(f"written   {out / 'few-shot.json'}")
