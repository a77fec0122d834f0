"""``curbside drift``: are recent cases still like those that were calibrated on?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from curbside.commands.options import ConfigFile

if TYPE_CHECKING:
    from curbside.indexes.drift import DriftReport

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``drift`` to the command line."""
    app.command("drift")(drift)


def drift(
    last: Annotated[
        int, typer.Option(min=20, max=100_000, help="Most cases of the window, the latest.")
    ] = 500,
    level: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Chance of a false alarm, at most.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigFile = None,
) -> None:
    """Compare the ledger's last cases with calibration; records say so where they differ.

    Exit code 0 stable or too few cases to say, 3 drift.  Processes that serve take it up
    when they start.
    """
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.drift import watch
    from curbside.router.ledger import open_ledger
    from curbside.router.workspace import Workspace

    settings = load_config(config or config_path())
    ledger = open_ledger(home(), settings.stores.ledger)
    try:
        found = watch(Workspace(home(), settings), ledger, last=last, level=level)
    finally:
        ledger.close()
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        _show(found)
    if found.verdict == "drift":
        raise typer.Exit(3)


def _show(found: DriftReport) -> None:
    typer.echo(f"{found.window} cases against {found.calibration} that calibrate\n")
    typer.echo(
        f"{'modality':18}{'cases':>6}{'calibr.':>8}{'KS':>8}{'bets':>8}{'classif.':>9}"
        f"{'AUROC':>7}{'Holm':>8}  verdict"
    )
    for m in found.modalities:
        numbers = (
            f"{m.ks:8.3f}{m.martingale:8.3f}{m.classifier:9.3f}{m.auroc:7.2f}{m.adjusted:8.3f}"
        )
        blank = f"{'–':>8}{'–':>8}{'–':>9}{'–':>7}{'–':>8}"
        shown = blank if m.verdict == "insufficient" else numbers
        typer.echo(f"{m.modality:18}{m.window:6}{m.calibration:8}{shown}  {m.verdict}")
    typer.echo(f"{'mix (χ²)':72}{found.mix_adjusted:8.3f}  {found.mix}")
    share = f"{'share with p ≤ 5 %':18}{found.window:6}{found.strange:8.1%}"
    typer.echo(f"{share:72}{found.strange_adjusted:8.3f}  {found.promise}")
    typer.echo(f"\nverdict {found.verdict} at level {found.level}")
    if found.suspended:
        typer.echo(f"suspended guarantees: {', '.join(found.suspended)}")
