"""``curbside console``: the worklist, cases, uploads, policy lab and fleet in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``console`` to the command line."""
    app.command("console")(console)


def console(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    address: Annotated[
        str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")
    ] = "127.0.0.1",
    headless: Annotated[
        bool, typer.Option("--headless/--browser", help="Open no browser, or open one.")
    ] = True,
    reader: Annotated[
        str, typer.Option(help="Who reads, where all who use this console are one person.")
    ] = "",
) -> None:
    """Open the console over the ledger and the evaluations of CURBSIDE_HOME.

    Usage statistics are off and nothing is fetched from the network. Stop it with Ctrl+C.
    """
    import os

    from curbside import RESEARCH_USE
    from curbside.config import load_config
    from curbside.home import config_path
    from curbside.ui.server import command_line, must_be_free

    load_config(config_path())  # what is missing or wrong is said here, not in the browser
    must_be_free(port, address)
    typer.echo(RESEARCH_USE)
    typer.echo(f"console    http://{address}:{port}")
    environment = os.environ | ({"CURBSIDE_READER": reader} if reader else {})
    # this process becomes the server, so that Ctrl+C and signals reach it alone
    command = command_line(port, address, headless=headless)
    os.execve(command[0], command, environment)
