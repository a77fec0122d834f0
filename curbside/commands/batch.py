"""``curbside batch``: many studies through the router, into Parquet parts and the ledger."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curbside.commands.given import must_exist
from curbside.commands.options import AskedTask, ConfigFile, PolicyFile

if TYPE_CHECKING:
    from curbside.router.batch import BatchSummary

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``batch`` to the command line."""
    app.command("batch")(batch)


def batch(
    cases: Annotated[
        Path,
        typer.Argument(help="A manifest, or a folder or zip archive of images or DICOM."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for parts, errors and the summary.")],
    question: Annotated[str, typer.Option(help="Asked of studies that bring no question.")] = "",
    options: Annotated[str, typer.Option(help="Answers to choose from, joined by '|'.")] = "",
    task: AskedTask = "",
    policy: PolicyFile = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Read every study once: OUT/parts/*.parquet, errors.jsonl, summary.json.

    Killed at any moment, the same command goes on where it stopped; run again, it reads
    nothing twice.  Every outcome is also in the ledger.  Exit code 2 where no study was in CASES.
    """
    from curbside.case_stream import is_manifest
    from curbside.commands.asking import asked
    from curbside.config import load_config, load_policy
    from curbside.errors import UserError
    from curbside.home import config_path, home
    from curbside.progress import growing_steps
    from curbside.router.api import Router
    from curbside.router.batch import incoming, run_batch
    from curbside.router.workspace import Workspace

    # a manifest's own reader names it, line and column; its name is no patient's
    if not is_manifest(cases):
        must_exist(cases, "curbside batch CASES --out DIR, where CASES may be a manifest too")
        if cases.is_dir() and out.resolve().is_relative_to(cases.resolve()):
            raise UserError(
                "--out lies within CASES: what is written there would be taken for cases",
                hint="give a folder beside it: curbside batch CASES --out DIR",
            )
    settings = load_config(config or config_path())
    router = Router(
        Workspace(home(), settings), policy=load_policy(policy) if policy is not None else None
    )
    with closing(router):
        given = incoming(
            cases, asked(router.tasks, question, options, task), settings.privacy.allowed_tags
        )
        with growing_steps("reading", given.total) as (show, expect):
            summary = run_batch(router, given, out, show=show, expect=expect)
    if as_json:
        typer.echo(json.dumps(summary.model_dump(mode="json"), indent=1))
    else:
        _tell(summary, out)
    if not summary.cases:  # silence would look like a day without findings
        raise UserError(
            "no study in CASES: nothing was read",
            hint=f"{out / 'errors.jsonl'} says why of each object"
            if summary.objects_refused
            else "give a manifest, or a folder or archive with images: curbside batch CASES",
        )


def _tell(summary: BatchSummary, out: Path) -> None:
    typer.echo(
        f"{summary.cases} cases in {summary.parts} parts, {summary.new} of them new "
        f"({summary.rate:.1f}/s, {summary.seconds:.0f} s)"
    )
    for name in ("status", "tier", "route", "errors", "objects_refused"):
        counts = getattr(summary, name)
        if counts:
            said = ", ".join(f"{value} {n}" for value, n in counts.items())
            typer.echo(f"  {name.replace('_', ' '):<15} {said}")
    typer.echo(f"  parts           {out / 'parts'}")
    if summary.errors or summary.objects_refused:
        typer.echo(f"  what could not be used: {out / 'errors.jsonl'}")
    if summary.status.get("needs_review"):
        typer.echo("  next            curbside review list")
