"""``curbside cases import``: published data sets as manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``cases`` to the command line."""
    cases = typer.Typer(no_args_is_help=True, help="Manifests of cases.")
    cases.command("import")(cases_import)
    # a group with one command would otherwise swallow the command's name
    cases.callback()(lambda: None)
    app.add_typer(cases, name="cases")


def cases_import(
    kind: Annotated[
        str, typer.Argument(help="vqa-rad, vqa-med-2019, medmnist, folder or datasets.")
    ],
    path: Annotated[Path, typer.Argument(help="Folder or file of the set, as published.")],
    out: Annotated[Path, typer.Option(help="The manifest to write, ending in .jsonl.")],
    modality: Annotated[str, typer.Option(help="Modality, where the set names none.")] = "",
    task: Annotated[str, typer.Option(help="Task's name; default: the file's.")] = "",
    labels: Annotated[
        str, typer.Option(help="Names of classes 0, 1, … joined by ',', where only numbered.")
    ] = "",
) -> None:
    """Write a manifest of a published set; nothing is downloaded."""
    from collections import Counter

    from curbside.evals.importers import import_cases

    names = tuple(n.strip() for n in labels.split(",")) if labels else ()
    found = import_cases(kind, path, out, modality=modality, task=task, labels=names)
    roles = Counter(r or "no role" for r in found.roles.tolist())
    closed = sum(bool(c.options) for c in found)
    typer.echo(f"{len(found)} cases: " + ", ".join(f"{n} {r}" for r, n in roles.most_common()))
    if closed < len(found):
        typer.echo(
            f"{closed} have options to choose from; {len(found) - closed} are open or for routing "
            "only: agents that choose among options abstain on those"
        )
    typer.echo(f"manifest   {out}")
