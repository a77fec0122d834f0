"""``curbside route``: one image through the router, explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``route`` to the command line."""
    app.command("route")(route)


def route(
    image: Annotated[Path, typer.Argument(help="An image file (JPEG, PNG, TIFF, …).")],
    question: Annotated[str, typer.Option(help="The question in words.")] = "",
    options: Annotated[str, typer.Option(help="The answers to choose from, joined by '|'.")] = "",
    task: Annotated[str, typer.Option(help="A task that the fleet was trained on.")] = "",
    policy: Annotated[
        Path | None, typer.Option(help="Policy file instead of the configuration's.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration; default: curbside.yaml in CURBSIDE_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole record.")] = False,
) -> None:
    """Route one image: who reads it, what they say, and why; or why a person must.

    Without options and task, the task that the nearest training cases belong to is asked.
    """
    from curbside.config import load_config, load_policy
    from curbside.errors import ImageError, UserError
    from curbside.home import config_path, home
    from curbside.pixels import read_image
    from curbside.router.api import Router
    from curbside.router.explain import render
    from curbside.router.workspace import Workspace
    from curbside.study import Question, Study

    try:
        read_image(image)
    except ImageError as e:
        hint = "give an image file: curbside route IMAGE"
        raise ImageError(e.reason, f"{e.message} ({e.reason})", hint=hint) from None
    choices = tuple(o.strip() for o in options.split("|")) if options else ()
    if choices and (len(choices) < 2 or "" in choices or len(set(choices)) < len(choices)):
        raise UserError(
            f"--options {options!r} must hold at least two different answers joined by '|'",
            hint="for example: --options 'normal|abnormal'",
        )
    settings = load_config(config or config_path())
    router = Router(
        Workspace(home(), settings), policy=load_policy(policy) if policy is not None else None
    )
    if task and task not in router.tasks:
        raise UserError(
            f"--task {task!r} is unknown; known tasks: {', '.join(sorted(router.tasks))}",
            hint="leave --task out, or give --options",
        )
    asked = Question(
        options=choices or tuple(router.tasks.get(task, ())), text=question, task=task or None
    )
    record = router.read(Study.from_image(image, question=asked))
    typer.echo(json.dumps(record.to_json(), indent=1) if as_json else render(record))
