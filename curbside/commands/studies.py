"""``curbside studies``: what is in a folder, before anything is routed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.given import must_exist

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``studies`` to the command line."""
    app.command("studies")(studies)


def studies(
    path: Annotated[
        Path, typer.Argument(help="An image, a DICOM file, a folder or zip archive of these.")
    ],
) -> None:
    """Count the objects that can be used, and the reasons against the others; names none.

    Every frame is decoded.  docs/studies.md says what each reason means.
    """
    from curbside.survey import survey

    must_exist(path, "curbside studies PATH")
    counts = survey(path)
    rows = [("n", "modality", "transfer syntax", "result")]
    rows += [(str(n), k.modality, k.syntax, k.result) for k, n in sorted(counts.items())]
    width = [max(len(r[i]) for r in rows) for i in range(3)]
    for n, modality, syntax, result in rows:
        typer.echo(f"{n:>{width[0]}}  {modality:<{width[1]}}  {syntax:<{width[2]}}  {result}")
    typer.echo(f"{counts.total()} objects")
