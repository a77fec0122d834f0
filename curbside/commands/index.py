"""``curbside index``: what the index can do, and how it changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.indexes.index_bench import SizeBench

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group ``index`` to the command line."""
    index = typer.Typer(no_args_is_help=True, help="The index: its versions, growth and speed.")
    index.command("bench")(bench)
    # a group with one command would otherwise swallow the command's name
    index.callback()(lambda: None)
    app.add_typer(index, name="index")


def bench(
    sizes: Annotated[
        str, typer.Option(help="Numbers of vectors, joined by commas.")
    ] = "10000,50000,100000",
    dimensions: Annotated[int, typer.Option(min=8, max=1024, help="Of a vector.")] = 256,
    singles: Annotated[
        int, typer.Option(min=10, help="Cases taken one by one; a batch is six times as many.")
    ] = 1000,
    million: Annotated[
        bool, typer.Option("--million", help="A million vectors too: some 20 minutes, 5 GiB.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a size.")] = False,
) -> None:
    """Assess one case and a batch on planted vectors: speed, memory, build time, agreement."""
    from curbside.errors import UserError
    from curbside.indexes.index_bench import bench_sizes

    try:
        wanted = [int(s) for s in sizes.split(",") if s.strip()]
    except ValueError:
        wanted = []
    if not wanted or min(wanted) < 1000:
        raise UserError(
            f"--sizes {sizes!r} is no list of numbers from 1000 on",
            hint="curbside index bench --sizes 10000,50000",
        )
    if not as_json:
        typer.echo(
            "  vectors  kind  build s  index MiB  process MiB  p50 ms  p99 ms  cases/s   agree"
        )

    def show(b: SizeBench) -> None:
        typer.echo(
            json.dumps(b.to_json())
            if as_json
            else f"{b.vectors:>9,}  {b.kind}  {b.build_s:7.1f}  {b.index_mib:9.1f}  "
            f"{b.process_mib:11.0f}  {b.p50_ms:6.2f}  {b.p99_ms:6.2f}  {b.rate:7.0f}  "
            f"{b.agree:6.1%}"
        )

    bench_sizes(
        [*wanted, *([1_000_000] if million else [])],
        dimensions=dimensions,
        singles=singles,
        batch=6 * singles,
        done=show,
    )
