"""Opening what was built, evaluating a manifest on it, and the benchmark of several draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from curbside.config import Config, PolicyProvenance
from curbside.errors import UserError
from curbside.evals.cards import read_cards
from curbside.evals.control_run import run_controls
from curbside.evals.evaluation import Result
from curbside.evals.matrix import read_matrix
from curbside.evals.protocol import GFULL, TWIN
from curbside.evals.report import novelty_histogram, write_report
from curbside.evals.runner import Built, TunedFleet, evaluated, run_evaluation, tune_cases
from curbside.evals.schema import Summary
from curbside.responses import ResponseMatrix

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.router.workspace import Workspace

__all__ = [
    "evaluate_manifest",
    "open_built",
    "recorded_agents",
    "refuse_seen",
    "served_fleet",
    "train_draws",
]


def open_built(workspace: Workspace) -> Built:
    """What an evaluation stands on.

    Raises:
        NotBuilt, IndexMismatch, IndexCorrupt: names what is missing or differs.
    """
    assessor = workspace.assessor()
    cases = workspace.built_cases()
    tune = tune_cases(cases)
    features = workspace.features(tune, "encoding tune cases")
    return Built(assessor, cases, tune, features, workspace.version_folder.name)


def refuse_seen(
    provenance: PolicyProvenance | None, built: Built, images: Sequence[str], role: str
) -> None:
    """Raise where a policy would be reported on what it was fitted on.

    Args:
        images: SHA-256 of the evaluated images; role: of the evaluated rows.

    Raises:
        UserError: the same role, or an image that is among the fitted cases.
    """
    if provenance is None:
        return
    again = "evaluate it on other cases, or fit it again: curbside policy fit --out FILE"
    if role and role == provenance.role:
        raise UserError(
            f"this policy was fitted on role {provenance.role!r} and is not reported on it",
            hint=again,
        )
    if provenance.cases != built.tune.digest:
        return
    both = {d for d in built.tune_features.digests if d} & set(images)
    if both:
        raise UserError(
            f"{len(both)} of the {len(images)} evaluated images are among the "
            f"{provenance.n_cases} that this policy was fitted on; results there would be too good",
            hint=again,
        )


def served_fleet(workspace: Workspace) -> TunedFleet:
    """The fleet that serves, what it said of the tune cases, and what is known of its agents."""
    return TunedFleet(
        workspace.config.fleet.seed,
        workspace.fleet(),
        workspace.tune_responses(),
        competence=workspace.competence(),
    )


def recorded_agents(workspace: Workspace, cases: Cases, readings: Path, team: Path) -> TunedFleet:
    """Agents whose answers are known already, from a file of readings and a team file.

    Args:
        cases: the manifest that is evaluated, all roles.

    Raises:
        CasesError, ConfigError: one of the files is wrong; all problems are named.
        UserError: nothing on tune was read, so nothing could be chosen honestly.
    """
    from curbside.evals.recorded import about_team, load_team, read_readings, recorded_fleet

    built = workspace.built_cases()
    who, found = load_team(team), read_readings(readings, (cases, built))
    fleet = recorded_fleet(found, who, built)
    tune = tune_cases(built)
    if not found.cases & set(tune.ids.tolist()):
        raise UserError(
            f"{readings.name} has no reading of a tune case, and what is chosen is chosen on tune",
            hint="add readings of the cases with role tune, then run it again",
        )
    said = {name: agent.read_batch(tune.studies()) for name, agent in fleet.agents.items()}
    matrix = ResponseMatrix.from_responses(
        tune.ids.tolist(),
        list(said),
        [c.options for c in tune],
        [c.label for c in tune],
        list(zip(*said.values(), strict=True)),
    )
    about, notes = about_team(who, found, readings.name)
    return TunedFleet(0, fleet, matrix, about, notes)


def evaluate_manifest(
    workspace: Workspace,
    cases: Cases,
    out: Path,
    *,
    replicates: int = 2000,
    seed: int = 0,
    phantoms: bool = False,
    fleets: Sequence[TunedFleet] | None = None,
    provenance: PolicyProvenance | None = None,
) -> tuple[Summary, bool]:
    """Evaluate the cases of a manifest; writes ``summary.json`` and ``report.html`` to ``out``.

    Args:
        cases: the whole manifest; rows of role test are evaluated, or rows without a role.
        fleets: several trained draws; by default the fleet that serves.
        provenance: of the configured policy, where it was fitted: it is not reported on the
            cases that it was fitted on.

    Returns:
        The summary, and whether it was there already.

    Raises:
        UserError: the policy was fitted on some of these cases.
    """
    test = evaluated(cases)
    built = open_built(workspace)  # what is missing is said before anything is encoded
    features = workspace.features(test, "encoding evaluated cases")
    refuse_seen(provenance, built, features.digests, str(test.roles[0]))
    trained = [served_fleet(workspace)] if fleets is None else fleets
    summary, result = run_evaluation(
        built,
        trained,
        test,
        features,
        workspace.config,
        out,
        replicates=replicates,
        seed=seed,
        phantoms=phantoms,
        controls=lambda found: run_controls(workspace, test, features, trained[0], found),
    )
    report = out / "report.html"
    if result is not None or not report.is_file():
        write_report(summary, report, _histogram(result), read_cards(out))
    return summary, result is None


def _histogram(result: Result | None) -> dict[str, tuple[list[float], list[float]]] | None:
    if result is None:
        return None
    f = result.frame
    return novelty_histogram(result.novelty_score, f.tier, f.usable)


def train_draws(workspace: Workspace, folder: Path, draws: int) -> list[TunedFleet]:
    """Train ``draws`` fleets, each with a few-shot draw and seed of its own; resumable.

    The twin of a draw's full generalist is the next draw's: two seeds of one recipe.  Agents of
    the fleet that serves, and those that no seed changes, are taken over, not trained again.

    Args:
        folder: gets ``fleet-0`` … and the tune readings.

    Raises:
        NotBuilt: there is no index yet.
    """
    from curbside.agents.fleet import Fleet
    from curbside.agents.train import train_fleet

    cases = workspace.built_cases()
    features = workspace.features(cases, "encoding training cases")
    tune = tune_cases(cases)
    tune_features = workspace.features(tune, "encoding tune cases")
    loaded: list[tuple[int, Fleet]] = []
    for seed in range(draws):
        config = workspace.config
        config = config.model_copy(update={"fleet": config.fleet.model_copy(update={"seed": seed})})
        where = folder / f"fleet-{seed}"
        train_fleet(
            cases,
            features,
            Config.model_validate(config.model_dump()),
            where,
            source=workspace.source,
            text=workspace.text,
            twin=draws == 1,
            others=(workspace.fleet_folder, *(folder / f"fleet-{s}" for s in range(seed))),
        )
        loaded.append((seed, Fleet.load(where, workspace.source, workspace.text)))
    out = []
    for i, (seed, fleet) in enumerate(loaded):
        if draws > 1:
            other = loaded[(i + 1) % draws][1].agents[GFULL]
            fleet = replace(fleet, agents={**fleet.agents, TWIN: other})
        matrix = read_matrix(
            fleet.agents,
            tune.studies(),
            [c.label for c in tune],
            images=tune_features.digests,
            folder=folder / "tune",
            label=f"draw {seed}: reading tune",
        )
        out.append(TunedFleet(seed, fleet, matrix))
    return out
