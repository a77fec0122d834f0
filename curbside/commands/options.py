"""Options that several commands take, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AskedTask", "ConfigFile", "PolicyFile"]

ConfigFile = Annotated[
    Path | None, typer.Option(help="Configuration; default: curbside.yaml in CURBSIDE_HOME.")
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="Policy file instead of the configuration's.")
]
AskedTask = Annotated[str, typer.Option(help="A task that the fleet was trained on.")]
