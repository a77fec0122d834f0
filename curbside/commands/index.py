"""``curbside index``: what the index can do, and how it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from curbside.commands import rarity
from curbside.commands.options import ConfigFile

if TYPE_CHECKING:
    from curbside.indexes.index_bench import SizeBench
    from curbside.router.reviewed import Reviewed
    from curbside.router.versions import VersionStore
    from curbside.router.workspace import Workspace

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group ``index`` to the command line."""
    index = typer.Typer(no_args_is_help=True, help="The index: its versions, growth and speed.")
    for command in (add, promote, rollback, list_versions, onboard, competence, drift_trial, bench):
        index.command(command.__name__.removesuffix("_versions").replace("_", "-"))(command)
    rarity.add_to(index)
    app.add_typer(index, name="index")


def add(
    manifest: Annotated[
        Path | None, typer.Argument(help="Manifest of cases; with --reviewed labels may be absent.")
    ] = None,
    reviewed: Annotated[
        bool, typer.Option("--reviewed", help="Labels and outcomes from the ledger's reviews.")
    ] = False,
    tune_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of new groups that agents are judged on.")
    ] = 0.3,
    config: ConfigFile = None,
) -> None:
    """Make a version with reviewed cases more: fitted, calibrated, competence learned again.

    A case joins train or tune with its whole group; never test, never both.  What serves
    stays until the new version is promoted.  With --reviewed, cases of the manifest get the
    answer that a person gave in the ledger, others are passed by, and what agents had said of
    any reviewed case teaches competence; without a manifest that alone.
    """
    from curbside.cases import read_cases
    from curbside.errors import UserError
    from curbside.router.adding import add_cases
    from curbside.router.reviewed import labelled_by_review

    if manifest is None and not reviewed:
        raise UserError(
            "there is nothing to add: name a manifest, or give --reviewed",
            hint="curbside index add MANIFEST, or curbside index add --reviewed",
        )
    workspace = _workspace(config)
    new = None if manifest is None else read_cases(manifest)
    answered: Reviewed = {}
    # what its parent learned from reviews, a version learns too
    if reviewed or workspace.versions.facts(workspace.version_folder.name).outcomes:
        answered = _reviewed(workspace)
        typer.echo(f"{len(answered)} reviewed cases in the ledger")
        if reviewed and new is not None:
            digests = workspace.features(new).digests
            new, _, left_out = labelled_by_review(new, digests, answered)
            for why, n in sorted(left_out.items()):
                typer.echo(f"  {n} passed by: {why}")
    name, admission = add_cases(workspace, new, tune_share=tune_share, reviewed=answered)
    for why, n in sorted(admission.refused.items()):
        typer.echo(f"  {n} refused: {why}")
    if name is None:
        typer.echo("no case joins and no outcome is new, so there is no new version")
        raise typer.Exit
    facts = workspace.versions.facts(name)
    joined = ", ".join(f"{n} to {role}" for role, n in facts.added.items()) or "no case more"
    learned = f", competence from {facts.outcomes} reviewed cases" if facts.outcomes else ""
    typer.echo(f"version {name}: {joined}{learned}")
    typer.echo(f"next: curbside eval run --index-version {name} --cases MANIFEST --out RUN")
    typer.echo("      curbside eval gate RUN --baseline RUN_OF_WHAT_SERVES")
    typer.echo(f"      curbside index promote {name}")


def promote(
    version: Annotated[str, typer.Argument(help="Name of a version; see curbside index list.")],
    without_gate: Annotated[
        str, typer.Option(metavar="REASON", help="Promote although no gate was passed; kept.")
    ] = "",
) -> None:
    """Serve a version that has passed the gate against the one that serves now."""
    store = _versions()
    store.promote(version, without_gate=without_gate)
    typer.echo(f"version {version} serves; curbside index rollback returns to the one before")


def rollback(
    why: Annotated[str, typer.Option(metavar="REASON", help="Kept in the history.")] = "",
) -> None:
    """Serve again what served before the last promotion."""
    typer.echo(f"version {_versions().rollback(why)} serves")


def list_versions(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Every version, what it has more than its parent, what the gate said, which one serves.

    Every file of every version is verified.
    """
    from curbside.errors import IndexCorrupt

    store = _versions()
    serving = store.serving()
    if as_json:
        rows = []
        for name in store.names():
            try:
                store.check(name)
                rows.append(store.facts(name).model_dump(mode="json"))
            except IndexCorrupt as e:
                rows.append({"name": name, "damaged": e.message})
        typer.echo(json.dumps({"serving": serving.model_dump(mode="json"), "versions": rows}))
        return
    now = serving.history[-1].version
    if now not in store.names():
        typer.echo(f"▶ {now}  serves, but it is not there any more")
    for name in store.names():
        mark = "▶" if name == now else " "
        try:
            store.check(name)
            facts, gate = store.facts(name), store.gate(name)
        except IndexCorrupt as e:
            typer.echo(f"{mark} {name}  {e.message}")
            continue
        cases = ", ".join(f"{n} {role}" for role, n in facts.cases.items())
        grown = " ".join(f"+{n} {role}" for role, n in facts.added.items())
        grown += f" +{facts.outcomes} reviewed outcomes" if facts.outcomes else ""
        said = "" if gate is None else f"  gate {'passed' if gate.passed else 'NOT passed'}"
        parent = f"  from {facts.parent} {grown.strip()}" if facts.parent else ""
        typer.echo(f"{mark} {name}  {facts.created[:16]}  {cases}{parent}{said}")
    typer.echo("history")
    for event in serving.history:
        why = f": {event.why}" if event.why else ""
        typer.echo(f"  {event.at[:16]}  {event.how} {event.version}{why}")


def onboard(
    modality: Annotated[str, typer.Argument(help="One that no indexed case has.")],
    cases: Annotated[Path, typer.Option(help="Manifest with the modality's cases, any role.")],
    shots: Annotated[str, typer.Option(help="Labels a class, joined by commas.")] = "0,1,4,16",
    draws: Annotated[int, typer.Option(min=1, max=100, help="Splits and draws of labels.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Default: onboard-MODALITY.html in CURBSIDE_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a draw.")] = False,
    config: ConfigFile = None,
) -> None:
    """What a few labels of a new modality change: familiarity, recognition, reading; a plot.

    An experiment: the modality's cases are split by group, labels come from one half and
    everything is measured on the other; nothing of it is kept.
    """
    from curbside.cases import read_cases
    from curbside.errors import UserError
    from curbside.home import home
    from curbside.progress import bar
    from curbside.router.onboard import onboard as run
    from curbside.router.onboard import page, summary
    from curbside.storage import write_text

    try:
        wanted = sorted({int(k) for k in shots.split(",") if k.strip()})
    except ValueError:
        wanted = []
    if not wanted or min(wanted) < 0:
        raise UserError(f"--shots {shots!r} is no list of numbers", hint="--shots 0,1,4,16")
    workspace, manifest = _workspace(config), read_cases(cases)
    with bar(f"onboarding {modality}", len(wanted) * draws) as advance:
        found = run(workspace, manifest, modality, shots=wanted, draws=draws, advance=advance)
    path = out or home() / f"onboard-{modality}.html"
    write_text(path, page(found))
    if as_json:
        for one in found:
            typer.echo(json.dumps(one.to_json()))
        return
    typer.echo(
        f"{modality}: mean of {draws} draws, {found[0].measured} cases measured\n"
        f"{'labels a class':>14}{'labelled':>10}{'novel':>8}{'recognised':>12}"
        f"{'generalist':>12}{'head':>7}{'answered':>10}{'right':>7}{'unguarded':>11}"
        f"{'known novel':>13}{'known recog.':>14}"
    )
    for r in summary(found):
        names = "novel recognised generalist head answered answered_right unguarded"
        parts = [r[name] for name in names.split()]
        cells = [f"{p:.0%}" if p == p else "–" for p in parts]
        typer.echo(
            f"{int(r['shots']):14}{r['labelled']:10.0f}{cells[0]:>8}{cells[1]:>12}{cells[2]:>12}"
            f"{cells[3]:>7}{cells[4]:>10}{cells[5]:>7}{cells[6]:>11}{r['known_novel']:13.1%}{r['known_recognised']:14.1%}"
        )
    typer.echo(f"plot: {path}")


def competence(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigFile = None,
) -> None:
    """How well P(correct) is estimated on tune: five folds by group, log-loss and Brier."""
    from curbside.indexes.competence_report import WAYS, competence_report
    from curbside.progress import bar

    workspace = _workspace(config)
    judged = workspace.tune_outcomes()
    with bar("competence by fold", 5) as advance:
        found = competence_report(
            workspace.assessor(), judged, also=workspace.other_outcomes(), advance=advance
        )
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    typer.echo(f"{'':24}{'':16}" + "".join(f"{way:>28}" for way in WAYS))
    typer.echo(f"{'agent':24}{'read':>5}{'right':>7}  " + "    log-loss   Brier" * len(WAYS))
    for row in found.rows:
        numbers = zip(row.log_loss, row.brier, strict=True)
        cells = "".join(f"{loss:20.4f}{score:8.4f}" for loss, score in numbers)
        typer.echo(f"{row.agent or 'all':24}{row.readings:5}{row.accuracy:7.1%}  {cells}")
    typer.echo(
        f"τ {found.temperature}, κ₁ {found.between}, κ₂ {found.by_task}, κ₃ {found.within} "
        "(chosen on all of it; docs/rarity.md)"
    )


def drift_trial(
    cases: Annotated[Path, typer.Option(help="Manifest of all roles with a column of sources.")],
    column: Annotated[str, typer.Option(help="Column that names a case's source.")] = "dataset",
    windows: Annotated[int, typer.Option(min=1, help="Windows drawn of each kind.")] = 20,
    size: Annotated[int, typer.Option(min=20, help="Cases of a window, at most.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
    config: ConfigFile = None,
) -> None:
    """Is drift seen?  Another source's images mixed in at 0, 10 and 50 %, and perturbed images."""
    from curbside.cases import read_cases
    from curbside.indexes.drift_trial import TrialRow
    from curbside.indexes.drift_trial import drift_trial as run

    def show(row: TrialRow) -> None:
        typer.echo(
            json.dumps(row.to_json())
            if as_json
            else f"{row.modality:16}{row.change:34}{row.cases:6}{row.windows:9}"
            f"{row.drifted:9.0%}{row.flagged:9.1%}{row.promise:9.0%}"
        )

    workspace, manifest = _workspace(config), read_cases(cases)
    views = workspace.views(manifest, workspace.features(manifest))
    if not as_json:
        names = ("cases", "windows", "drift", "p ≤ 5 %", "promise")
        widths = (6, 9, 9, 9, 9)
        head = "".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))
        typer.echo(f"{'modality':16}{'change':34}{head}")
    run(
        manifest,
        workspace.source,
        workspace.config,
        views=views,
        column=column,
        window=size,
        windows=windows,
        done=show,
    )


def _workspace(config: Path | None) -> Workspace:
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    return Workspace(home(), load_config(config or config_path()))


def _reviewed(workspace: Workspace) -> Reviewed:
    from curbside.router.ledger import open_ledger
    from curbside.router.reviewed import reviewed_in

    ledger = open_ledger(workspace.home, workspace.config.stores.ledger)
    try:
        return reviewed_in(ledger)
    finally:
        ledger.close()


def _versions() -> VersionStore:
    from curbside.config import load_config
    from curbside.home import config_path, home
    from curbside.router.versions import VersionStore

    return VersionStore(home() / load_config(config_path()).stores.index)


def bench(
    sizes: Annotated[
        str, typer.Option(help="Numbers of vectors, joined by commas.")
    ] = "10000,50000,100000",
    dimensions: Annotated[int, typer.Option(min=8, max=1024, help="Of a vector.")] = 256,
    singles: Annotated[
        int, typer.Option(min=10, help="Cases taken one by one; a batch is six times as many.")
    ] = 1000,
    million: Annotated[
        bool, typer.Option("--million", help="A million vectors too: some 10 minutes, 6 GiB.")
    ] = False,
    kind: Annotated[
        Literal["auto", "flat", "hnsw"], typer.Option(help="As index.kind in the configuration.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a size.")] = False,
) -> None:
    """Assess one case and a batch on planted vectors: speed, memory, build time, agreement."""
    from curbside.errors import UserError
    from curbside.indexes.exchange import REQUIRED
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
            "  vectors  kind  width  build s  index MiB  process MiB  p50 ms  p99 ms  "
            "cases/s   agree"
        )

    def show(b: SizeBench) -> None:
        typer.echo(
            json.dumps(b.to_json())
            if as_json
            else f"{b.vectors:>9,}  {b.kind}  {b.width:5}  {b.build_s:7.1f}  {b.index_mib:9.1f}  "
            f"{b.process_mib:11.0f}  {b.p50_ms:6.2f}  {b.p99_ms:6.2f}  {b.rate:7.0f}  "
            f"{b.agree:6.1%}{'' if b.agree >= REQUIRED else '  may not serve: too few agree'}"
        )

    bench_sizes(
        [*wanted, *([1_000_000] if million else [])],
        dimensions=dimensions,
        singles=singles,
        batch=6 * singles,
        kind=None if kind == "auto" else kind,
        done=show,
    )
