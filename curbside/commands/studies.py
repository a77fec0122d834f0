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
    find: Annotated[
        str, typer.Option(help="Print instead where a case or an object of errors.jsonl lies.")
    ] = "",
) -> None:
    """Count the objects that can be used, and the reasons against the others; names none.

    Every frame is decoded.  docs/studies.md says what each reason means.  With --find no frame
    is: files are printed, whose names may be a patient's.
    """
    from curbside.survey import survey

    must_exist(path, "curbside studies PATH")
    if find:
        from curbside.errors import UserError
        from curbside.intake import places_of

        places = places_of(path, find)
        if not places:
            raise UserError(
                f"nothing there has the id {find!r}",
                hint="give the folder that was read, with the same CURBSIDE_HOME: its key makes "
                "the ids; a case of a manifest is in the manifest",
            )
        for place in places:
            typer.echo(place)
        return
    counts = survey(path)
    rows = [("n", "modality", "transfer syntax", "result")]
    rows += [(str(n), k.modality, k.syntax, k.result) for k, n in sorted(counts.items())]
    width = [max(len(r[i]) for r in rows) for i in range(3)]
    for n, modality, syntax, result in rows:
        typer.echo(f"{n:>{width[0]}}  {modality:<{width[1]}}  {syntax:<{width[2]}}  {result}")
    typer.echo(f"{counts.total()} objects")
