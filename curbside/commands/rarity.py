"""Commands of ``curbside index`` that measure rarity: what is chosen, and what holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from curbside.commands.options import ConfigFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from curbside.cases import Cases
    from curbside.evals.familiarity import Band, Novel
    from curbside.evals.stability import Stability
    from curbside.router.workspace import Workspace

__all__ = ["add_to"]


def add_to(index: typer.Typer) -> None:
    """Add the commands to the group ``index``."""
    index.command("select-novelty")(select_novelty)
    index.command("stability")(stability)
    index.command("familiarity")(familiarity)
    index.command("targets")(targets)


def select_novelty(
    cases: Annotated[Path, typer.Option(help="Manifest; only train and tune cases are used.")],
    out: Annotated[Path, typer.Option(help="Folder for selection.json, .md and .html.")],
    source_column: Annotated[
        str, typer.Option(help="Column that says where a case comes from.")
    ] = "dataset",
    scores: Annotated[
        str, typer.Option(help="Scores to compare, joined by commas; default: all.")
    ] = "",
    config: ConfigFile = None,
) -> None:
    """Choose projection and novelty score by leaving out modalities, findings and sources.

    Nothing is changed: the evidence and the configuration it names are written to OUT.
    """
    from datetime import UTC, datetime

    import numpy as np

    from curbside.cases import read_cases
    from curbside.config import load_config
    from curbside.errors import UserError
    from curbside.home import config_path, home
    from curbside.indexes.novelty import SCORES
    from curbside.indexes.selection import folds_of, leave_out
    from curbside.indexes.selection_report import configuration, write_selection
    from curbside.indexes.standings import choose, standings
    from curbside.progress import bar
    from curbside.router.workspace import Workspace

    wanted = [s.strip() for s in scores.split(",") if s.strip()] or list(SCORES)
    unknown = sorted(set(wanted) - set(SCORES))
    if unknown:
        raise UserError(f"no novelty score {unknown[0]!r}; valid: {', '.join(SCORES)}")
    manifest = read_cases(cases)
    known = manifest.take(manifest.where(role=("train", "tune")))
    sources = np.array([c.attributes.get(source_column, "") for c in known], np.str_)
    folds = folds_of(known, sources)
    if not any(f.kind == "source" for f in folds):
        typer.echo(
            f"no modality has cases of two sources in column {source_column!r}: no source is "
            "left out (name another with --source-column)"
        )
    workspace = Workspace(home(), load_config(config or config_path()))
    features = workspace.features(known)
    views = workspace.views_for_selection(known, features)
    with bar("leaving out", len(folds)) as advance:
        results = leave_out(
            known,
            features,
            sources,
            views,
            scores=wanted,
            folder=workspace.cache_folder / "selection",
            advance=advance,
        )
    found = standings(results)
    choice = choose(found)
    provenance = {
        "command": "curbside index select-novelty",
        "cases": known.digest[:16],
        "train and tune cases": len(known),
        "encoder": features.fingerprint[:16],
        "folds": len(folds),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_selection(out, results, found, choice, provenance)
    typer.echo(
        "  projection        score                far    worst  near   shift flagged  unchanged"
    )
    for s in found:
        if s.served:
            mark = "▶" if s == choice.standing else " "
            typer.echo(
                f"{mark} {s.projection:<18}{s.score:<21}{s.far:.4f}  {s.far_worst:.3f}  "
                f"{s.near:.3f}  {s.shift_flagged:>12.1%}  {s.unchanged:>9.1%}"
            )
    best_pair = next((s for s in found if not s.served), None)
    if best_pair is not None:
        typer.echo(
            f"best pair of scores, ranks averaged (not served): {best_pair.projection} "
            f"{best_pair.score}, far {best_pair.far:.4f}"
        )
    typer.echo(f"chosen     {choice.why}")
    now = workspace.config
    same = (now.encoder.projection, now.index.novelty) == (choice.projection, choice.score)
    settings = configuration(choice)
    typer.echo(
        "configured already"
        if same
        else f"to set it   {settings} in curbside.yaml, then: curbside build --cases {cases}"
    )
    typer.echo(f"evidence   {out / 'selection.md'}")


def stability(
    cases: Annotated[Path, typer.Option(help="Manifest; rows of role test, or without a role.")],
    sample: Annotated[int, typer.Option(min=0, help="Cases drawn at random; 0 takes all.")] = 0,
    role: Annotated[str, typer.Option(help="Role whose cases are taken.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write the table as Markdown and JSON: FOLDER.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Route cases, change their pictures a little, route them again: how many routes stay?"""
    import json
    from dataclasses import asdict

    from curbside.evals.stability import FLOORS, stability_markdown
    from curbside.storage import write_text

    workspace, chosen = _evaluated(cases, role, sample, seed, config)
    found = _stability(workspace, chosen)
    typer.echo(f"{found[0].n} cases, policy {workspace.config.policy.kind}")
    typer.echo("  perturbation    same route  at least  gate   modality  to novel  from novel")
    for s in found:
        floor = "" if s.holds else f"  below {FLOORS[s.size]:.0%}"
        typer.echo(
            f"  {s.name:<15} {s.same:>10.1%}  {s.low:>8.1%}  {s.gate:>5.1%}  {s.modality:>8.1%}  "
            f"{s.to_novel:>8.1%}  {s.from_novel:>10.1%}{floor}"
        )
    if out is not None:
        write_text(out / "stability.md", stability_markdown(found))
        write_text(out / "stability.json", json.dumps([asdict(s) for s in found], indent=1) + "\n")
        typer.echo(f"written    {out / 'stability.md'}")


def familiarity(
    cases: Annotated[Path, typer.Option(help="Manifest; rows of role test, or without a role.")],
    role: Annotated[str, typer.Option(help="Role whose cases are taken.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Also write the tables as Markdown and a plot: FOLDER.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Novelty found by modality, and familiar cases flagged, against what chance allows."""
    from curbside.evals.band_plot import write_page
    from curbside.evals.familiarity import familiarity_markdown
    from curbside.storage import write_text

    workspace, chosen = _evaluated(cases, role, 0, 0, config)
    seen = _familiarity(workspace, chosen)
    text = familiarity_markdown(seen.bands, seen.novel)
    typer.echo(text, nl=False)
    typer.echo(
        f"\n{seen.known} known cases: {seen.flagged:.1%} flagged at 5 %, "
        f"modality right {seen.right:.1%}"
    )
    if out is not None:
        write_text(out / "familiarity.md", text)
        typer.echo(f"written    {out / 'familiarity.md'}")
        if seen.bands:
            write_page(seen.bands, out / "familiarity.html")
            typer.echo(f"           {out / 'familiarity.html'}")


def targets(
    cases: Annotated[Path, typer.Option(help="Manifest of all roles; test cases are reported on.")],
    sample: Annotated[
        int, typer.Option(min=0, help="Test cases whose routes are perturbed; 0 takes all.")
    ] = 0,
    config: ConfigFile = None,
) -> None:
    """Does the served index hold all it must, at once?  Exit code 3 where it does not."""
    import numpy as np

    from curbside.cases import read_cases
    from curbside.evals.targets import targets as compared
    from curbside.indexes.selection import leave_out

    workspace, chosen = _evaluated(cases, "test", 0, 0, config)
    _, few = _evaluated(cases, "test", sample, 0, config)
    manifest, settings = read_cases(cases), workspace.config
    known = manifest.take(manifest.where(role=("train", "tune")))
    features = workspace.features(known)
    left_out = leave_out(
        known,
        features,
        np.full(len(known), ""),
        workspace.views(known, features),
        projections={"served": settings.encoder.projection},
        scores=(settings.index.novelty,),
        kinds=("modality",),
        folder=workspace.cache_folder / "selection",
    )
    seen = _familiarity(workspace, chosen)
    found = compared(seen.novel, seen.flagged, seen.bands, _stability(workspace, few), left_out)
    typer.echo(f"{len(chosen)} test cases, {len(left_out)} modalities left out")
    for t in found:
        mark = "" if t.holds else "  does NOT hold"
        typer.echo(f"  {t.name:<38}{t.value:8.4f}   {t.limit}{mark}")
    if not all(t.holds for t in found):
        raise typer.Exit(3)


class _Seen(NamedTuple):
    bands: list[Band]
    novel: list[Novel]
    known: int
    flagged: float
    right: float


def _familiarity(workspace: Workspace, chosen: Cases) -> _Seen:
    import numpy as np

    from curbside.evals.familiarity import bands, novel_modalities

    features, assessor = workspace.features(chosen, "encoding cases"), workspace.assessor()
    rows = np.flatnonzero(features.usable & (chosen.modalities != ""))
    found = assessor.assess(features.pooled[rows])
    modalities, groups = chosen.modalities[rows], chosen.groups[rows]
    novel = ~np.isin(modalities, list(assessor.modalities))
    known = np.flatnonzero(~novel)
    held_out = workspace.built_cases()
    held_out = held_out.take(held_out.where(role="calibration"))
    right = np.array(found.modalities)[found.modality] == modalities
    return _Seen(
        bands(found.take(known), groups[known], groups_per_case=_groups_per_case(held_out)),
        novel_modalities(found, modalities, novel),
        len(known),
        float((found.p_value[known] <= 0.05).mean()),
        float(right[known].mean()),
    )


def _stability(workspace: Workspace, chosen: Cases) -> list[Stability]:
    from curbside.evals.stability import measure_stability
    from curbside.router.policies import make_policy

    fleet, served = workspace.fleet(), workspace.config.policy
    policy = make_policy(
        served,
        agents=fleet.serving,
        generalist=fleet.generalist,
        costs={a: fleet.agents[a].card.cost for a in fleet.serving},
    )
    return measure_stability(
        workspace.assessor(),
        policy,
        served.alpha,
        workspace.source.encoder,
        chosen.studies(),
        folder=workspace.cache_folder,
    )


def _groups_per_case(cases: Cases) -> dict[str, float]:
    """Modality, and ``"all"`` → groups per case; a case without a group is its own."""
    import numpy as np

    def ratio(groups: NDArray[np.str_]) -> float:
        named = groups[groups != ""]
        return (len(np.unique(named)) + len(groups) - len(named)) / max(1, len(groups))

    by = {str(m): ratio(cases.groups[cases.modalities == m]) for m in np.unique(cases.modalities)}
    return {**by, "all": ratio(cases.groups)}


def _evaluated(
    manifest: Path, role: str, sample: int, seed: int, config: Path | None
) -> tuple[Workspace, Cases]:
    """The workspace and the cases of a role, or a draw of them; those without one count as test."""
    import numpy as np

    from curbside.cases import ROLES, read_cases
    from curbside.config import load_config
    from curbside.errors import UserError
    from curbside.home import config_path, home
    from curbside.router.workspace import Workspace

    every = read_cases(manifest)
    if role not in ROLES:
        raise UserError(f"no role {role!r}; valid: {', '.join(ROLES)}")
    rows = every.where(role=(role, "") if role == "test" else role)
    if not len(rows):
        raise UserError(f"{manifest.name} has no case of role {role!r}")
    if 0 < sample < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    return Workspace(home(), load_config(config or config_path())), every.take(rows)
