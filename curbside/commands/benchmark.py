"""``curbside benchmark``: the whole protocol, with several few-shot draws and seeds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``benchmark`` to the command line."""
    app.command("benchmark")(benchmark)


def benchmark(
    draws: Annotated[int, typer.Option(min=1, max=50, help="Few-shot draws and seeds.")] = 5,
    cases: Annotated[
        Path | None, typer.Option(help="Manifest; default: the corpus, else phantoms.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: benchmark/ in CURBSIDE_HOME.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
) -> None:
    """Train every arm several times, evaluate all of them together; goes on where it stopped.

    Writes summary.json, report.html and benchmark.md (the page for the docs).
    """
    from curbside.cases import read_cases
    from curbside.commands.demo import _phantoms
    from curbside.config import Config, load_config, save_config
    from curbside.evals.markdown import benchmark_page
    from curbside.evals.session import evaluate_manifest, train_draws
    from curbside.evals.table import print_summary
    from curbside.home import config_path, corpus_manifest, home
    from curbside.router.building import build_home
    from curbside.router.workspace import Workspace
    from curbside.storage import write_text

    started = time.perf_counter()
    manifest = cases or corpus_manifest()
    made_up = manifest is None
    found = read_cases(manifest if manifest is not None else _phantoms(home() / "phantoms", 1.0))
    if not config_path().is_file():
        save_config(Config(), config_path())
    workspace = Workspace(home(), load_config(config_path()))
    build_home(workspace, found)
    folder = out or home() / "benchmark"
    fleets = train_draws(workspace, folder, draws)
    summary, reused = evaluate_manifest(
        workspace, found, folder, replicates=replicates, phantoms=made_up, fleets=fleets
    )
    print_summary(summary)
    page = folder / "benchmark.md"
    seconds = time.perf_counter() - started
    if not reused or not page.is_file():
        write_text(page, benchmark_page(summary, seconds))
    typer.echo(f"took       {seconds / 60:.0f} min")
    for name in ("report.html", "summary.json", "benchmark.md"):
        typer.echo(f"           {folder / name}")
