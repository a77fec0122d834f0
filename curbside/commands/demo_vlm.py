"""``curbside demo-vlm``: train a small vision-language model, judge it, put it into the fleet."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from curbside.agents.small_vlm.making import Courses
    from curbside.cases import Cases
    from curbside.evals.small_vlm_run import Run
    from curbside.router.workspace import Workspace

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``demo-vlm`` to the command line."""
    app.command("demo-vlm")(demo_vlm)


def demo_vlm(
    cases: Annotated[
        Path | None, typer.Option(help="Manifest; default: the corpus of real images.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings, each of its seed.")] = 3,
    lessons: Annotated[
        int, typer.Option(min=8, help="Lessons to read from; with few, a rehearsal.")
    ] = 4_000,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes, 3 GiB each; 0: one a core, up to 4.")
    ] = 0,
    evaluate: Annotated[
        bool, typer.Option(help="Also evaluate the fleet with it, as curbside eval run does.")
    ] = True,
    phantoms: Annotated[bool, typer.Option(help="Label the cases as phantoms.")] = False,
) -> None:
    """Make a small vision-language model of packages and labelled cases, and measure it.

    SmolLM2-135M sees images through the default encoder and a trained projector.  Needs the
    extra ``vlm`` and what ``curbside demo`` builds.  Killed at any moment, it goes on.
    """
    from curbside import RESEARCH_USE
    from curbside.agents.small_vlm.language import language_file
    from curbside.cases import read_cases
    from curbside.errors import UserError
    from curbside.evals.small_vlm_table import lines, write_report
    from curbside.home import corpus_manifest, home, home_config
    from curbside.router.building import build_home
    from curbside.router.workspace import Workspace

    started = time.perf_counter()
    language_file()  # what is missing is said before anything is encoded
    typer.echo(RESEARCH_USE)
    manifest = cases or corpus_manifest()
    if manifest is None:
        raise UserError(
            "there are no real images to learn from",
            hint="set CURBSIDE_CORPUS, or give --cases MANIFEST (docs/cases.md)",
        )
    everything = read_cases(manifest)
    workspace = Workspace(home(), home_config())
    build_home(workspace, everything)
    folder = home() / "small-vlm"
    questions = _questions(manifest, folder)
    run = _made(workspace, everything, questions, folder, range(seeds), _courses(lessons), workers)
    g16 = workspace.fleet().agents.get("generalist-16")
    rows = run.table(range(seeds), {"G16": g16} if g16 is not None else {})
    agent = run.agent(0, rows)
    write_report(rows, run.facts(range(seeds)), folder)
    for line in lines(rows):
        typer.echo(line)
    typer.echo(f"table      {folder / 'results.md'}")
    typer.echo(f"agent      {agent}  (its card: {agent / 'README.md'})")
    _join(workspace, everything, agent, evaluate=evaluate, phantoms=phantoms)
    typer.echo(f"took       {time.perf_counter() - started:.0f} s")


def _courses(lessons: int) -> Courses:
    """As chosen on ``tune``, or shorter."""
    from curbside.agents.small_vlm.courses import ALIGNING, READING
    from curbside.agents.small_vlm.making import Courses

    align = replace(ALIGNING, count=round(ALIGNING.count * lessons / READING.count))
    return Courses(align=align, read=replace(READING, count=lessons))


def _made(
    workspace: Workspace,
    cases: Cases,
    questions: Cases | None,
    folder: Path,
    seeds: Sequence[int],
    courses: Courses,
    workers: int,
) -> Run:
    """The run, with all its adapters and answers made."""
    from functools import partial

    import torch

    from curbside.agents.small_vlm.language import load_language
    from curbside.evals.small_vlm_beside import make_parts
    from curbside.evals.small_vlm_run import Run, open_run

    run = Run(folder, cases, questions, workspace.source, load_language, courses=courses)
    missing = run.missing(seeds)  # encodes what is not encoded yet, before anybody shares it
    if missing:
        cores = max(1, min(4, os.cpu_count() or 1))
        at_once = workers or (1 if torch.cuda.is_available() else cores)
        typer.echo(f"  {len(missing)} parts to make, {at_once} at once")
        opening = partial(
            open_run,
            folder,
            cases.path,
            None if questions is None else questions.path,
            workspace.config.encoder,
            workspace.cache_folder,
            courses,
            load_language,
        )
        make_parts(opening, missing, at_once)
    return run


def _questions(manifest: Path, folder: Path) -> Cases | None:
    """VQA-RAD beside the corpus, where it is."""
    from curbside.evals.importers import import_cases

    path = manifest.parent / "vqa" / "vqa-rad"
    if not path.is_dir():
        typer.echo("  no VQA-RAD beside the manifest: visual questions are not learned")
        return None
    return import_cases("vqa-rad", path, folder / "vqa-rad.jsonl")


def _join(
    workspace: Workspace, cases: Cases, agent: Path, *, evaluate: bool, phantoms: bool
) -> None:
    """A fleet file with the small VLM beside the others, and a configuration that serves it."""
    from curbside.agents.small_vlm.joining import write_fleet
    from curbside.config import load_config, save_config
    from curbside.evals.session import evaluate_manifest
    from curbside.evals.small_vlm_table import place_lines
    from curbside.evals.table import print_summary
    from curbside.home import home
    from curbside.router.building import build_home
    from curbside.router.workspace import Workspace as Opened

    fleet = home() / "small-vlm.fleet.yaml"
    config = home() / "small-vlm.yaml"
    write_fleet(workspace.fleet_spec, agent, fleet)
    own = workspace.config
    stores = own.stores.model_copy(update={"index": "small-vlm/index"})
    there = own.fleet.model_copy(update={"file": fleet.name})
    save_config(own.model_copy(update={"stores": stores, "fleet": there}), config)
    typer.echo(f"fleet      {fleet}  (in use with --config {config})")
    if not evaluate:
        typer.echo(f"next       curbside build --cases {cases.path} --config {config}")
        return
    served = Opened(home(), load_config(config))
    build_home(served, cases)
    out = home() / "evaluation-vlm"
    _read_before(home() / "evaluation" / "responses", out / "responses")
    summary, _ = evaluate_manifest(served, cases, out, phantoms=phantoms)
    typer.echo()
    print_summary(summary)
    for line in place_lines(summary):
        typer.echo(line)
    typer.echo(f"report     {out / 'report.html'}")


def _read_before(there: Path, here: Path) -> None:
    """What the other agents said in the demo is not read again: a file knows agent and cases."""
    from curbside.storage import write_bytes

    for column in there.glob("*.parquet"):
        if not (here / column.name).is_file():
            write_bytes(here / column.name, column.read_bytes())
