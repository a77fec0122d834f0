"""``curbside route``: what is in a file, a folder or an archive through the router, explained."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curbside.commands.given import must_exist
from curbside.commands.options import AskedTask, ConfigFile, PolicyFile

if TYPE_CHECKING:
    from curbside.readings import CaseRecord
    from curbside.router.api import Router
    from curbside.study import Study

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``route`` to the command line."""
    app.command("route")(route)


def route(
    path: Annotated[
        Path, typer.Argument(help="An image, a DICOM file, a folder or zip archive of these.")
    ],
    question: Annotated[str, typer.Option(help="The question in words.")] = "",
    options: Annotated[str, typer.Option(help="The answers to choose from, joined by '|'.")] = "",
    task: AskedTask = "",
    policy: PolicyFile = None,
    config: ConfigFile = None,
    overlay: Annotated[
        Path | None,
        typer.Option(help="PNG to write: what in the first study's image the reading rests on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole record.")] = False,
) -> None:
    """Route each study: who reads it, what they say, and why; or why a person must.

    Without options and task, the task that the nearest training cases belong to is asked.
    --json prints one record, or a list of them where there are several studies.
    """
    from curbside.commands.asking import asked
    from curbside.config import load_config, load_policy
    from curbside.errors import ImageError
    from curbside.home import config_path, home
    from curbside.intake import studies_in
    from curbside.readings import Status
    from curbside.router.api import Router
    from curbside.router.render import render
    from curbside.router.workspace import Workspace
    from curbside.study import Study

    hint = "give an image, a DICOM file, a folder or a zip archive: curbside route PATH"
    must_exist(path, "curbside route PATH")
    settings = load_config(config or config_path())
    router = Router(
        Workspace(home(), settings), policy=load_policy(policy) if policy is not None else None
    )
    records: list[CaseRecord] = []
    refused = []
    with closing(router):
        wanted = asked(router.tasks, question, options, task)
        for found in studies_in(path, question=wanted, allowed_tags=settings.privacy.allowed_tags):
            if not isinstance(found, Study):
                refused.append(found)
                continue
            record = router.read(found)
            if overlay is not None and not records:
                typer.echo(_write_overlay(router, found, record, overlay), err=True)
            records.append(record)
            if not as_json:
                typer.echo(("\n" if len(records) > 1 else "") + render(record))
    if as_json and records:
        shown = [r.to_json() for r in records]
        typer.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=1))
    counts = Counter(r.reason for r in refused).most_common()
    unused = ", ".join(f"{n} {reason}" for reason, n in counts)
    if not records:
        only = refused[0] if len(refused) == 1 else None
        raise ImageError(
            counts[0][0] if counts else "missing",
            f"{only.message} ({only.reason})" if only else f"no study in it ({unused or 'empty'})",
            hint=hint,
        )
    if refused:
        typer.echo(f"\n{len(refused)} other files are in no study: {unused}", err=True)
    if all(r.outcome.status in (Status.NOT_ANALYSED, Status.QUARANTINED) for r in records):
        raise typer.Exit(2)


def _write_overlay(router: Router, study: Study, record: CaseRecord, path: Path) -> str:
    """Write the picture with its explanation over it; says what was written, or why not."""
    import io

    from PIL import Image

    from curbside.agents.activation import overlay
    from curbside.indexes.features import central_instance
    from curbside.storage import write_bytes

    found = router.explain(study, record)
    if not found.grid:
        said = "; ".join(found.citations)
        return f"no overlay: {found.note or 'cited: ' + said}"
    out = io.BytesIO()
    Image.fromarray(overlay(central_instance(study).pixels(), found)).save(out, "PNG")
    write_bytes(path, out.getvalue())
    return (
        f"{path}: orange speaks for {found.option!r}, blue against "
        f"({100 * found.share:.0f} % of the decision is shown)"
    )
