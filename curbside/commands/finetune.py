"""``curbside finetune``: adapt an agent to labelled cases, and see what labels buy."""

from __future__ import annotations

import typer

from curbside.commands.finetune_curve import finetune_curve

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``finetune`` to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Adapt an agent to your labelled cases.")
    group.command("curve")(finetune_curve)
    app.add_typer(group, name="finetune")
