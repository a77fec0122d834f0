"""``curbside eval gate``, ``probes`` and ``report``: what is done with runs that exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from curbside.config import AnyPolicy
    from curbside.evals.schema import Summary
    from curbside.evals.shown import Shown
    from curbside.router.versions import VersionStore

__all__ = ["eval_gate", "eval_probes", "eval_published", "eval_report"]

Policy = Annotated[
    Path | None, typer.Option(help="Policy file; default: the policy of curbside.yaml.")
]


def eval_gate(
    run: Annotated[Path, typer.Argument(help="Folder of the run that is judged.")],
    baseline: Annotated[Path, typer.Option(help="Folder of the run that it is held against.")],
    policy: Policy = None,
    rules: Annotated[Path | None, typer.Option(help="Limits; default: those that ship.")] = None,
    probes: Annotated[Path | None, typer.Option(help="Probes; default: those that ship.")] = None,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap replicates.")] = 2000,
) -> None:
    """May this run replace that one?  Exit code 0: every check passed, 1: one did not."""
    from curbside.config import model_digest
    from curbside.errors import UserError
    from curbside.evals.gate import RULES, judge, lines, load_rules
    from curbside.evals.outcome_file import load_outcomes
    from curbside.evals.probes import PROBES, load_probes
    from curbside.evals.runs import load_summary

    chosen = _policy(policy)
    summary = load_summary(run)
    if summary.versions.get("policy") != model_digest(chosen):
        raise UserError(
            f"{run} was made with another policy than the one given ({chosen.kind}): its probes "
            "would say nothing of it",
            hint="give the policy that it was run with: curbside eval gate RUN --policy FILE",
        )
    before = load_summary(baseline)
    checks = judge(
        (summary, load_outcomes(run)),
        (before, load_outcomes(baseline)),
        load_rules(rules or RULES),
        load_probes(probes or PROBES),
        chosen,
        replicates=replicates,
    )
    for line in lines(checks):
        typer.echo(line)
    failed = [c.name for c in checks if not c.passed]
    typer.echo(f"GATE       {'closed: ' + ', '.join(failed) if failed else 'open'}")
    store = _versions()
    kept = store and store.record_run(
        summary.versions.get("index version", ""),
        before.versions.get("index version", ""),
        passed=not failed,
        report=f"{len(checks) - len(failed)} of {len(checks)} checks",
    )
    if kept:
        typer.echo(f"recorded for index version {kept.version} against {kept.against}")
    if failed:
        raise typer.Exit(1)


def eval_probes(
    policy: Policy = None,
    probes: Annotated[Path | None, typer.Option(help="Probes; default: those that ship.")] = None,
) -> None:
    """Small cases whose route is known, under a policy.  Exit code 1: one takes another."""
    from curbside.evals.probes import PROBES, load_probes, run_probes

    chosen = _policy(policy)
    results = run_probes(load_probes(probes or PROBES), chosen)
    for r in results:
        said = "passed" if r.passed else f"FAILED  {'; '.join(r.wrong)}"
        typer.echo(f"{r.probe.sort:<10} {r.probe.name:<52} {said}")
    failed = sum(not r.passed for r in results)
    typer.echo(f"{len(results) - failed} of {len(results)} probes hold for policy {chosen.kind}")
    if failed or not results:
        raise typer.Exit(1)


def eval_report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File: .html, .md or .json; default: report.html in the run's folder."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, max=100, help="Cases whose images go into the HTML file.")
    ] = 0,
    cases: Annotated[
        Path | None, typer.Option(help="The run's manifest; needed for --images.")
    ] = None,
) -> None:
    """Write a run's report again: one HTML file with plots, or Markdown, or JSON.

    With --images the HTML file holds images of that many cases, read once more, and what the
    readings rest on: mind where it goes.
    """
    from curbside.errors import UserError
    from curbside.evals.cards import read_cards
    from curbside.evals.markdown import run_page
    from curbside.evals.outcome_file import load_outcomes
    from curbside.evals.report import novelty_histogram, write_report
    from curbside.evals.runs import load_summary
    from curbside.evals.summary import write_summary
    from curbside.storage import write_text

    path = out or run / "report.html"
    summary = load_summary(run)
    if path.suffix == ".html":
        f = (outcomes := load_outcomes(run)).frame
        histogram = novelty_histogram(outcomes.novelty, f.tier, f.usable)
        write_report(summary, path, histogram, read_cards(run), _shown(cases, images, summary))
    elif path.suffix == ".md":
        write_text(path, run_page(summary))
    elif path.suffix == ".json":
        write_summary(summary, path)
    else:
        raise UserError(
            f"{path.name} has the ending {path.suffix!r}; valid: .html, .md, .json",
            hint=f"curbside eval report {run} --out report.md",
        )
    typer.echo(f"report     {path}")


def eval_published(
    run: Annotated[
        Path | None, typer.Option(help="Folder of a run to put beside it; default: none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page with a plot.")] = None,
) -> None:
    """The published study's own numbers: what a rule, one model and an oracle reach there."""
    from curbside.evals.published import lines, load, write_page
    from curbside.evals.runs import load_summary

    table, ours = load(), load_summary(run) if run else None
    for line in lines(table, ours):
        typer.echo(line)
    if out is not None:
        write_page(table, ours, out)
        typer.echo(f"page       {out}")


def _shown(manifest: Path | None, images: int, summary: Summary) -> list[Shown]:
    """Cases for a report; none where no images were asked for."""
    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.errors import UserError
    from curbside.evals.runner import evaluated
    from curbside.evals.shown import shown_cases
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    if not images:
        return []
    if manifest is None:
        raise UserError(
            "--images needs the manifest that the run evaluated",
            hint="curbside eval report RUN --images 12 --cases MANIFEST",
        )
    cases = evaluated(read_cases(manifest))
    if cases.digest != summary.cases.digest:
        raise UserError(
            f"{manifest.name} is not the manifest of this run",
            hint=f"give the one that was evaluated: {summary.cases.manifest}",
        )
    return shown_cases(Workspace(home(), load_config(config_path())).fleet(), cases, images)


def _versions() -> VersionStore | None:
    """The versions of this home; None where there is no configuration (runs from elsewhere)."""
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.versions import VersionStore

    if not config_path().is_file():
        return None
    return VersionStore(home() / load_config(config_path()).stores.index)


def _policy(path: Path | None) -> AnyPolicy:
    from curbside.config import load_config, load_policy
    from curbside.home import config_path

    return load_policy(path) if path else load_config(config_path()).policy
