"""``curbside eval``: does routing pay on these cases, and is one run better than another?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curbside.commands.eval_gate import eval_gate, eval_probes, eval_published, eval_report
from curbside.commands.eval_ledger import eval_ledger
from curbside.commands.options import ConfigFile

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``eval`` to the command line."""
    evals = typer.Typer(no_args_is_help=True, help="Measure the hybrid against each model alone.")
    evals.command("run")(eval_run)
    evals.command("compare")(eval_compare)
    evals.command("gate")(eval_gate)
    evals.command("probes")(eval_probes)
    evals.command("report")(eval_report)
    evals.command("published")(eval_published)
    evals.command("suites")(eval_suites)
    evals.command("bench")(eval_bench)
    evals.command("ledger")(eval_ledger)
    app.add_typer(evals, name="eval")


def eval_compare(
    a: Annotated[str, typer.Argument(help="Folder of a run, or FOLDER:ARM.")],
    b: Annotated[str, typer.Argument(help="What it is compared with: FOLDER or FOLDER:ARM.")],
    margin: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Differences below this do not matter.")
    ] = 0.02,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
) -> None:
    """Compare two runs, or two arms, case by case: better, worse, equivalent or inconclusive.

    Without an arm, the hybrid that the run put forward is compared.
    """
    from curbside.evals.compare import compare, lines
    from curbside.evals.runs import open_run
    from curbside.storage import write_text

    (first, one), (second, two) = open_run(a), open_run(b)
    found = compare(
        first,
        second,
        (one, two),
        titles=(f"{one} of {a.removesuffix(':' + one)}", f"{two} of {b.removesuffix(':' + two)}"),
        margin=margin,
        replicates=replicates,
        seed=seed,
    )
    for line in lines(found):
        typer.echo(line)
    typer.echo(f"VERDICT    {found.verdict} (a against b, margin {100 * margin:g} points)")
    if out is not None:
        write_text(out, found.model_dump_json(indent=1) + "\n")


def eval_run(
    out: Annotated[Path, typer.Option(help="Folder for summary.json, report.html, responses.")],
    suite: Annotated[
        str | None, typer.Argument(help="Suite, by name or file; see: curbside eval suites.")
    ] = None,
    cases: Annotated[
        Path | None, typer.Option(help="Manifest: CSV, JSONL or Parquet; instead of a suite.")
    ] = None,
    config: ConfigFile = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    phantoms: Annotated[bool, typer.Option(help="Label the cases as phantoms.")] = False,
    readings: Annotated[
        Path | None,
        typer.Option(help="Readings made elsewhere; with --team."),
    ] = None,
    team: Annotated[
        Path | None, typer.Option(help="YAML: who of them is generalist, who specialist.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file, as from curbside policy fit.")
    ] = None,
    index_version: Annotated[
        str | None,
        typer.Option(help="Evaluate this version of the index, not the one that serves."),
    ] = None,
) -> None:
    """Every agent reads every case once; arms, gates and the verdict by replay."""
    from curbside.cases import read_cases
    from curbside.config import load_config, load_policy_file
    from curbside.errors import UserError
    from curbside.evals.cards import CARDS
    from curbside.evals.session import evaluate_manifest, recorded_agents
    from curbside.evals.suite import EvaluationRun, load_suite, table_lines, write_result
    from curbside.evals.suite_cases import suite_cases
    from curbside.evals.suite_runs import run_table_suite
    from curbside.evals.table import print_summary
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    if (readings is None) != (team is None):
        raise UserError(
            "--readings and --team go together", hint="docs/evaluate-your-own.md has an example"
        )
    settings, provenance = load_config(config or config_path()), None
    if policy is not None:
        chosen, provenance = load_policy_file(policy)
        settings = settings.model_copy(update={"policy": chosen})
    workspace = Workspace(home(), settings, version=index_version)
    if (suite is None) == (cases is None):
        raise UserError(
            "give either a suite or --cases MANIFEST",
            hint="curbside eval run --cases cases.csv --out results, or curbside eval suites",
        )
    if suite is not None:
        found, path = load_suite(suite)
        if not isinstance(found.run, EvaluationRun):
            result = run_table_suite(found, workspace, out)
            write_result(result, out)
            for line in table_lines(result):
                typer.echo(line)
            typer.echo(f"table      {out / 'suite.md'}")
            return
        workspace, cases, phantoms = suite_cases(found.run, path, workspace)
        replicates, seed = found.run.replicates, found.run.seed
    manifest = read_cases(cases or Path())
    fleets = None
    if readings is not None and team is not None:
        fleets = [recorded_agents(workspace, manifest, readings, team)]
    summary, reused = evaluate_manifest(
        workspace,
        manifest,
        out,
        replicates=replicates,
        seed=seed,
        phantoms=phantoms,
        fleets=fleets,
        provenance=provenance,
    )
    print_summary(summary)
    if reused:
        typer.echo("nothing changed since this was evaluated: read from summary.json")
    typer.echo(f"summary    {out / 'summary.json'}")
    typer.echo(f"report     {out / 'report.html'}")
    typer.echo(f"agents     {out / CARDS}")


def eval_suites() -> None:
    """The suites that ship, and what each asks."""
    from curbside.evals.suite import load_suite, suite_names

    for name in suite_names():
        typer.echo(f"{name:<24} {load_suite(name)[0].about}")
    typer.echo("run one: curbside eval run NAME --out DIR; docs/suites.md has their form")


def eval_bench(
    cases: Annotated[int, typer.Option(min=100, help="Drawn cases.")] = 2933,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 5000,
) -> None:
    """Speed of replay and bootstrap here: every operating point, every replicate."""
    from curbside.evals.bench import measure

    speed = measure(cases=cases, replicates=replicates)
    for kind, rate in speed.decisions.items():
        typer.echo(f"{kind:<12} {rate / 1e6:6.2f} million case-decisions a second")
    every = speed.points * speed.cases / speed.replay_seconds
    typer.echo(
        f"replay       {speed.points} operating points x {speed.cases} cases in "
        f"{speed.replay_seconds:.1f} s, scored: {every / 1e6:.2f} million a second"
    )
    typer.echo(
        f"bootstrap    whole curve in each of {speed.replicates} replicates: "
        f"{speed.bootstrap_seconds:.1f} s"
    )
