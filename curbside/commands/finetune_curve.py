"""``curbside finetune curve``: what 1, 4, 16, 64 and all labels buy, and at what price."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.options import ConfigFile

__all__ = ["finetune_curve"]


def finetune_curve(
    cases: Annotated[Path, typer.Option(help="Manifest whose test rows are read.")],
    out: Annotated[Path, typer.Option(help="Folder for points, readings and the plot; resumed.")],
    shots: Annotated[
        str, typer.Option(help="Labelled cases a finding, joined by commas; 'all' is every one.")
    ] = "1,4,16,64,all",
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Draws of cases, and seeds.")] = 3,
    minutes: Annotated[
        float, typer.Option(min=0, help="No further generalist is begun after so long.")
    ] = 30.0,
    config: ConfigFile = None,
) -> None:
    """Curves over 1, 4, 16, 64 and all labels; where the generalist meets each specialist.

    A generalist takes about a minute a point, so it may be stopped and run again: points
    that are done are kept.
    """
    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.evals.curve_plot import write_page
    from curbside.evals.curve_text import lines
    from curbside.evals.few_shot import few_shot_curves, parse_shots
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace
    from curbside.storage import write_text

    wanted = parse_shots(shots)
    workspace = Workspace(home(), load_config(config or config_path()))
    curves = few_shot_curves(
        workspace, read_cases(cases), out, shots=wanted, draws=seeds, minutes=minutes
    )
    write_text(out / "curve.json", curves.model_dump_json(indent=1) + "\n")
    write_page(curves, out / "curve.html")
    for line in lines(curves):
        typer.echo(line)
    typer.echo(f"plot      {out / 'curve.html'}")
    typer.echo(f"numbers   {out / 'curve.json'}")
