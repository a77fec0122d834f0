"""``curbside bench``: how fast the parts are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``bench`` to the command line."""
    bench = typer.Typer(no_args_is_help=True, help="Measure the parts on this machine.")
    bench.command("encoder")(bench_encoder)
    bench.command("ledger")(bench_ledger)
    bench.command("batch")(bench_batch)
    bench.command("fleet")(bench_fleet)
    bench.command("folder")(bench_folder)
    bench.command("console")(bench_console)
    bench.command("studies")(bench_studies)
    bench.command("agent")(bench_agent)
    bench.command("finetune-kill")(bench_finetune_kill)
    bench.command("small-vlm")(bench_small_vlm)
    app.add_typer(bench, name="bench")


def bench_encoder(
    images: Annotated[int, typer.Option(min=1, max=4096, help="Images of one round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds, taken in turn.")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads of both.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Images per second of the encoder and of the same network in eager torch, and parity."""
    from curbside.home import home
    from curbside.indexes.encoder_bench import bench_encoder as run
    from curbside.progress import bar

    with bar("encoder against eager torch", rounds) as advance:
        result = run(
            images=images, rounds=rounds, threads=threads, cache=home() / "cache", advance=advance
        )
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"EfficientNet-Lite0, {result.images} images, {result.threads} threads, "
        f"median of {result.rounds} rounds"
    )
    typer.echo(f"  eager torch (the package's model)  {result.eager_rate:7.1f} images/s")
    typer.echo(f"  curbside (ONNX Runtime)            {result.rate:7.1f} images/s")
    typer.echo(f"  ratio                              {result.ratio:7.1f} x")
    typer.echo(f"  least cosine between the two       {result.cosine:.7f}")


def bench_ledger(
    cases: Annotated[int, typer.Option(min=1, max=10**7, help="Synthetic cases.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Times each view is asked.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Milliseconds of the worklist's pages, filters and counts over a ledger of many cases."""
    from curbside.router.ledger_bench import bench_ledger as run

    result = run(cases, rounds=rounds)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"{result.cases} synthetic cases, written in {result.write_seconds:.0f} s; "
        f"median of {result.rounds} rounds, ms"
    )
    typer.echo(f"  {'view':<20} {'page':>8} {'next':>8} {'counts':>8}")
    for name, (first, then, counts) in result.views.items():
        typer.echo(f"  {name:<20} {first:8.1f} {then:8.1f} {counts:8.1f}")
    typer.echo(f"  slowest page with its counts {result.worst:.1f} ms")


def bench_batch(
    cases: Annotated[int, typer.Option(min=1, max=10**7, help="Cases decided.")] = 4096,
    images: Annotated[int, typer.Option(min=1, max=10**5, help="Images encoded and read.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds beside the encoder.")] = 3,
    memory: Annotated[
        str, typer.Option(help="Stream these many cases and say the memory, e.g. 10000,1000000.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A batch beside its encoder, a reading beside its agents, memory by size; on what is built."""
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.batch_bench import bench_batch as run

    sizes = _numbers("--memory", memory) if memory else []
    result = run(
        home(),
        load_config(config_path()),
        cases=cases,
        images=images,
        rounds=rounds,
        memory=sizes,
    )
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"decide and explain, features at hand  {result.decide_rate:8.0f} cases/s "
        f"({result.decide_cpu:.0f} a CPU second), {result.decided} cases\n"
        f"network alone, images decoded before  {result.network_rate:8.1f} images/s\n"
        f"files to features                     {result.encoder_rate:8.1f} images/s\n"
        f"files to explained decisions          {result.batch_rate:8.1f} images/s "
        f"({100 * result.ratio:.0f} % of it), {result.images} images\n"
        f"read beyond its agents' time          {result.read_p50:8.1f} ms median, "
        f"{result.read_p95:.1f} ms at 95 %, {result.reads} studies"
    )
    for n, mib in result.memory.items():
        typer.echo(f"peak memory after a stream of {n:>9} cases  {mib:8.0f} MiB")


def bench_fleet(
    studies: Annotated[int, typer.Option(min=1, max=10**6, help="Studies read, each once.")] = 200,
    warm: Annotated[int, typer.Option(min=0, max=10**4, help="Read before, unmeasured.")] = 16,
    alone: Annotated[int, typer.Option(min=0, max=10**4, help="More, read one by one.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Studies per second with encoder and agents, on what is built and wherever it runs.

    Exit code 1: a call of an agent failed, so the rate is not that of readings.
    """
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.fleet_bench import bench_fleet as run

    result = run(home(), load_config(config_path()), studies=studies, warm=warm, alone=alone)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        typer.echo(
            f"{result.machine}\n"
            f"  encoder           {result.encoder}; alone {result.encoder_rate:.1f} images/s\n"
            f"  studies           {result.studies} in {result.seconds:.1f} s, "
            f"{result.rate:.1f} studies/s"
        )
        if result.alone_p50 is not None:
            typer.echo(
                f"  one by one        {result.alone_p50:.0f} ms a study, median; "
                f"{result.alone_p95:.0f} ms at 95 %"
            )
        width = max([17, *map(len, result.agents)])
        for name, where in sorted(result.agents.items()):
            read, failed = result.readings.get(name, 0), result.failures.get(name, 0)
            typer.echo(f"  {name:<{width}} {where}; {read} readings, {failed} failed")
        ended = ", ".join(f"{n} {status}" for status, n in result.status.items())
        typer.echo(f"  ended             {ended}")
        if result.gpu_mib is not None:
            typer.echo(f"  memory of the GPU {result.gpu_mib:.0f} MiB at most, of this process")
    if result.failures:
        raise typer.Exit(1)


def bench_folder(
    sizes: Annotated[
        str, typer.Option(help="Cases done at which to look, joined by commas; at most 10^7.")
    ] = "5000,30000",
    repeated: Annotated[
        bool,
        typer.Option(help="Features of 64 images again and again instead of an encoder: faster."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Memory of a batch on a folder of as many small files, by cases done; on what is built.

    Takes some 50 kB of the temporary folder a case.
    """
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.progress import steps
    from curbside.router.folder_bench import bench_folder as run

    wanted = _numbers("--sizes", sizes)
    with steps("reading", max(wanted)) as show:
        result = run(home(), load_config(config_path()), sizes=wanted, repeated=repeated, show=show)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    for n, mib in result.memory.items():
        typer.echo(f"resident memory after {n:>9} cases  {mib:8.0f} MiB")
    typer.echo(f"rate  {result.rate:.1f} cases/s")


def _numbers(option: str, said: str) -> list[int]:
    from curbside.errors import UserError

    numbers = [int(n) for n in said.split(",") if n.strip().isdecimal()]
    if len(numbers) < len(said.split(",")) or not all(1 <= n <= 10**7 for n in numbers):
        raise UserError(
            f"{option} {said!r} is not a list of numbers from 1 to 10000000",
            hint=f"for example {option} 5000,30000",
        )
    return sorted(numbers)


def bench_console(
    cases: Annotated[int, typer.Option(min=100, max=10**7, help="Synthetic cases.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Visits.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Milliseconds until a browser shows the worklist of many cases, and after a filter."""
    from curbside.ui.console_bench import bench_console as run

    result = run(cases, rounds=rounds)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    told = result.to_json()
    typer.echo(f"{result.cases} synthetic cases, Chromium, 1280 x 720; ms")
    typer.echo(f"  first visit after the start  {result.cold:8.0f}")
    typer.echo(f"  first paint, median of {rounds:<4}  {told['first_paint_median']:8.0f}")
    typer.echo(f"  filter, median               {told['filter_median']:8.0f}")


def bench_studies(
    objects: Annotated[int, typer.Option(min=25, max=10**6, help="Objects of the folder.")] = 1000,
    frames: Annotated[int, typer.Option(min=1, max=10**5, help="Frames that are decoded.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """DICOM headers and frames a second, and what each hostile file costs.

    A folder of 10^6 objects takes 4 GB of the temporary folder.
    """
    from curbside.studies_bench import bench_studies as run

    result = run(objects, frames)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"headers {result.headers:7.0f} a second, {objects} objects in one folder"
        f"  +{result.memory / 2**20:.0f} MiB"
    )
    typer.echo(f"frames  {result.frames:7.0f} a second, CT of 512 x 512, one after the other")
    for name, cost in result.attacks.items():
        typer.echo(
            f"  {name:<32} {cost.size:>10,} B  {cost.reason:<12} {cost.seconds * 1e3:7.0f} ms"
            f"  +{cost.memory / 2**20:.0f} MiB"
        )


def bench_agent(
    calls: Annotated[int, typer.Option(min=10, help="Calls of one round.")] = 640,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds, taken in turn.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Calls at once.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """An agent's call against the bare HTTP call, to a fake server that takes 20 ms."""
    from curbside.agents.agent_bench import bench_agent as run

    result = run(calls=calls, rounds=rounds, concurrency=concurrency)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(
        f"closed question, {result.body_bytes:,} bytes a call, {rounds} rounds of {calls} calls, "
        "medians; the server is a process of its own"
    )
    typer.echo(f"  one at a time   bare {result.bare_ms:7.2f} ms   agent {result.agent_ms:7.2f} ms")
    typer.echo(f"  above bare      {result.overhead_ms:7.2f} ms")
    for side in ("bare", "agent"):
        rate, cpu, busy = (result.median(side, w) for w in ("rate", "cpu_us", "server_busy"))
        typer.echo(
            f"  {result.concurrency} at once, {side:<5} {rate:9.1f} /s   {cpu:5.0f} us of processor"
            f" time a call ({rate * cpu / 1e4:.0f} % of a core; the server's process {busy:.0%})"
        )
    typer.echo(
        f"  throughput lost {100 * result.throughput_lost:7.1f} %    "
        f"processor time more {100 * result.cpu_more:.1f} %"
    )
    typer.echo(
        f"  a whole reading, image decoded and encoded anew: {result.reading_ms:.2f} ms one at a "
        f"time, {result.reading_rate:.1f} studies/s in a batch"
    )


def bench_finetune_kill(
    points: Annotated[int, typer.Option(min=1, max=1000, help="Trainings to kill.")] = 20,
    agent: Annotated[str, typer.Option(help="lite0, or the folder of a model.")] = "lite0",
    cases: Annotated[
        Path | None, typer.Option(help="Manifest to train on; default: phantoms.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill -9 at random points of a training: the adapter that it ends with, byte for byte.

    Exit code 1: an adapter differs from that of an undisturbed training.
    """
    import tempfile

    from curbside.agents.finetuning.kill_drill import kill_drill
    from curbside.phantoms import write_phantoms
    from curbside.progress import bar

    with tempfile.TemporaryDirectory() as name, bar("killing trainings", points) as advance:
        folder = Path(name)
        manifest = cases or write_phantoms(folder / "phantoms", scale=0.12)
        found = kill_drill(agent, manifest, folder, points=points, seed=seed, advance=advance)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        typer.echo(
            f"an undisturbed training takes {found.seconds:.1f} s\n"
            f"{found.points} trainings killed, {found.kills} times in all; a checkpoint was there "
            f"to go on from after {found.went_on}\n"
            f"{found.same} of {found.points} ended with the same adapter, byte for byte"
        )
    if found.same < found.points:
        raise typer.Exit(1)


def bench_small_vlm(
    lessons: Annotated[int, typer.Option(min=10, max=10**6, help="Images learned from.")] = 200,
    visual: Annotated[int, typer.Option(min=1, max=1024, help="Visual tokens an image.")] = 16,
    hidden: Annotated[int, typer.Option(min=1, max=65536, help="Width of the projector.")] = 768,
    entry: Annotated[int, typer.Option(min=0, max=29, help="Layer that sees the image.")] = 26,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How fast the small VLM learns and answers: on a GPU where there is one, else on this CPU.

    Needs the extra ``vlm``.  ``CUDA_VISIBLE_DEVICES=`` before it measures the CPU beside a GPU.
    """
    from curbside.agents.small_vlm.bench import bench_small_vlm as run
    from curbside.agents.small_vlm.language import load_language
    from curbside.agents.small_vlm.model import Plan

    plan = Plan(visual=visual, hidden=hidden, entry=entry)
    result = run(load_language(), plan, lessons=lessons)
    told = result.to_json()
    if as_json:
        typer.echo(json.dumps(told))
        return
    typer.echo(f"{result.machine}; on {result.device}")
    typer.echo(
        f"  learning   {told['lessons_rate']:8.1f} lessons/s  {told['tokens_rate']:8.0f} tokens/s"
        f"  peak {result.peak_mib:.0f} MiB"
    )
    typer.echo(f"  answering  {result.answers_rate:8.1f} closed questions/s, eight images at once")
