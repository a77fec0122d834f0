"""``curbside demo``: build, route, evaluate, and say what to do next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``demo`` to the command line."""
    app.command("demo")(demo)


def demo(
    phantoms: Annotated[
        bool, typer.Option(help="Use phantoms even where real images are at hand.")
    ] = False,
    scale: Annotated[float, typer.Option(min=0.05, max=10, help="Size of the phantom set.")] = 1.0,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
) -> None:
    """From images to a verdict: index, agents, routing, evaluation, report.

    Runs on the corpus where there is one (CURBSIDE_CORPUS or ../shared/corpus), otherwise on
    phantoms.  What is still valid from an earlier run is reused.
    """
    from curbside import RESEARCH_USE
    from curbside.cases import read_cases
    from curbside.config import Config, load_config, save_config
    from curbside.evals.routing import routed
    from curbside.evals.session import evaluate_manifest
    from curbside.evals.table import print_summary
    from curbside.home import config_path, corpus_manifest, home
    from curbside.router.building import build_home
    from curbside.router.workspace import Workspace

    started = time.perf_counter()
    typer.echo(RESEARCH_USE)
    manifest = None if phantoms else corpus_manifest()
    made_up = manifest is None
    with _stage("cases"):
        if manifest is None:
            manifest = _phantoms(home() / "phantoms", scale)
        cases = read_cases(manifest)
        what = "phantoms: generated pictures, of nobody" if made_up else "real images"
        typer.echo(f"  {len(cases)} cases ({what})")
    if not config_path().is_file():
        save_config(Config(), config_path())
    config = load_config(config_path())
    workspace = Workspace(home(), config)
    with _stage("index, specialists, generalists"):
        build_home(workspace, cases)
    out = home() / ("evaluation-phantoms" if made_up else "evaluation")
    with _stage("routing the test cases through the graph"):
        routing = routed(workspace, config_path(), _test(cases), out / "routed.json")
        for line in routing.lines():
            typer.echo(f"  {line}")
    with _stage("the hybrid against each alone"):
        summary, reused = evaluate_manifest(
            workspace, cases, out, replicates=replicates, phantoms=made_up
        )
    typer.echo()
    print_summary(summary)
    typer.echo()
    if reused:
        typer.echo("nothing changed since the last run: its evaluation was reused")
    typer.echo(f"took       {time.perf_counter() - started:.0f} s")
    typer.echo(f"report     {out / 'report.html'}")
    typer.echo(f"summary    {out / 'summary.json'}")
    _next_steps(cases)


def _next_steps(cases: Cases) -> None:
    example = next((c.image for c in cases if c.role == "test"), Path("IMAGE"))
    typer.echo(f"next       curbside route {example}")
    typer.echo("           curbside route YOUR_IMAGE --question '…' --options 'yes|no'")
    typer.echo("           curbside console")


@contextmanager
def _stage(name: str) -> Iterator[None]:
    typer.echo(f"▸ {name}")
    start = time.perf_counter()
    yield
    typer.echo(f"  {time.perf_counter() - start:.1f} s")


def _phantoms(folder: Path, scale: float) -> Path:
    from curbside.phantoms import write_phantoms

    manifest = folder / f"scale-{scale:g}" / "manifest.csv"
    return manifest if manifest.is_file() else write_phantoms(manifest.parent, scale=scale)


def _test(cases: Cases) -> Cases:
    from curbside.evals.runner import evaluated

    return evaluated(cases)
