"""The command line, on top of everything; loads no model library until a command needs one."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from curbside import RESEARCH_USE, __version__
from curbside.errors import CurbsideError

__all__ = ["COMMANDS", "app", "main"]

#: Modules of curbside.commands, in the order of the help text.
COMMANDS = (
    "demo",
    "demo_vlm",
    "build",
    "studies",
    "route",
    "batch",
    "review",
    "cases",
    "eval",
    "policy",
    "index",
    "drift",
    "benchmark",
    "config",
    "console",
    "fleet",
    "finetune",
    "bench",
)

#: Objects made and not freed before the collector of cycles looks for them.
_COLLECT_FROM = 50_000

app = typer.Typer(
    name="curbside",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=f"Route each imaging study to the model most likely to read it right. {RESEARCH_USE}",
)
for _name in COMMANDS:
    import_module(f"curbside.commands.{_name}").register(app)


def _print_version(asked: bool) -> None:
    # eager: a command need not follow
    if asked:
        typer.echo(f"curbside {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and stop.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; errors made on purpose print without a traceback, with their exit code."""
    # collections while libraries load find nothing and take a sixth of a start
    gc.set_threshold(_COLLECT_FROM)
    try:
        app(prog_name="curbside")
    except CurbsideError as e:
        typer.echo(f"error[{e.code}]: {e}", err=True)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, run it again to go on", err=True)
        sys.exit(130)
    except Exception as e:
        # a message of a library may hold a path or a name, so only the type is shown by default
        if os.environ.get("CURBSIDE_DEBUG"):
            traceback.print_exc()
        typer.echo(
            f"error[internal]: {type(e).__name__} inside curbside; this is a bug\n"
            "  next: run it again with CURBSIDE_DEBUG=1 and report the traceback",
            err=True,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
