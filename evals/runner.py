"""From a manifest and what was built to a result: assess, read once, replay, write.

The only module of this floor that touches images and models.  ``train``, ``tune`` and
``calibration`` stay those that the fleet was built with, whatever manifest is evaluated.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from curbside import __version__
from curbside.assessments import Assessments
from curbside.config import Config, model_digest
from curbside.errors import NotBuilt, UserError
from curbside.evals.assessment_file import ASSESSMENTS_FILE, Known, save_assessments
from curbside.evals.cards import write_cards
from curbside.evals.evaluation import Result, evaluate
from curbside.evals.frame import (
    Frame,
    TaskBook,
    evaluated_rows,
    frame_of,
    label_counts,
    questions_for,
    truths_of,
)
from curbside.evals.gate import load_rules
from curbside.evals.matrix import question_digest, read_matrix, save_responses
from curbside.evals.outcome_file import OUTCOMES_FILE, save_outcomes
from curbside.evals.protocol import GFULL, Part, Trained, with_peers
from curbside.evals.schema import Control, Summary
from curbside.evals.subgroups import ATTRIBUTES, NORMAL, CaseFacts
from curbside.evals.summary import summarise, write_summary
from curbside.responses import ResponseMatrix
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.cases import Cases
    from curbside.indexes.assess import Assessor
    from curbside.indexes.competence import Competence
    from curbside.indexes.features import Features

__all__ = [
    "Built",
    "TunedFleet",
    "code_digest",
    "evaluated",
    "evaluation_digest",
    "run_evaluation",
    "tune_cases",
    "tune_part",
]

_FOLDS = 5
#: Said wherever source-confounded tasks are among the evaluated cases.
CAVEATS = (
    "classes of several sets come from different sources (both chest radiograph sets, "
    "mri_brain_tumor4, ct_covid, normals of ct_chest_cancer, us_lung_pocus, healthy cells of "
    "all_leukemia_pbs): accuracy there can come from the source and not from the disease, and "
    "accuracy_unconfounded leaves them out",
    "CT of the kidney and MRI of the brain hold many slices a patient without patient ids; "
    "labels of vqamed2019_modality are noisy; dermamnist_jpeg28 is 28 pixels wide",
    "most novel cases of this corpus are pictures of ECGs, which are easy: novel_answered is "
    "therefore macro over the novel modalities",
)
PHANTOM_CAVEAT = (
    "these cases are phantoms, generated pictures: the numbers say that the machinery runs and "
    "nothing about any image of a patient"
)


@dataclass(frozen=True)
class TunedFleet:
    """One trained draw: its agents, and what they said of the tune cases.

    Args:
        about: arm → what it is, for agents that were not built here.
        notes: what a reader must know of such agents; none for those built here.
        competence: that serves, where the fleet does: it may also know reviewed and
            out-of-fold readings; None: it is learned from ``tune``.
    """

    seed: int
    fleet: Fleet
    tune: ResponseMatrix
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    competence: Competence | None = None


@dataclass(frozen=True)
class Built:
    """What an evaluation stands on, besides the fleets.

    Args:
        cases: the manifest that everything was built from (roles train, tune, calibration).
        tune: its tune cases with a task, and their features.
        version: of the index, by name; "" where there are no versions.
    """

    assessor: Assessor
    cases: Cases
    tune: Cases
    tune_features: Features
    version: str = ""


def run_evaluation(
    built: Built,
    fleets: Sequence[TunedFleet],
    cases: Cases,
    features: Features,
    config: Config,
    out: Path,
    *,
    replicates: int = 2000,
    seed: int = 0,
    phantoms: bool = False,
    controls: Callable[[Result], list[Control]] | None = None,
) -> tuple[Summary, Result | None]:
    """Evaluate, or reuse what ``out`` holds of the very same evaluation.

    Args:
        cases: the evaluated cases alone; ``features`` one row each.
        out: gets ``summary.json``, ``responses.parquet`` and the columns of the matrix.
        controls: what else is measured once the arms are known; none without it.

    Returns:
        The summary; and the result it was made from, None where it was reused.

    Raises:
        UserError: nothing can be evaluated.
        StorageError: the disk is full; what was stored before is whole.
    """
    if not fleets:
        raise NotBuilt("there is no fleet to evaluate", hint="curbside build --cases MANIFEST")
    first = fleets[0].fleet
    book = TaskBook(first.tasks, first.commonest_task, first.specialists)
    base = built.assessor.assess(features.pooled)
    frame = frame_of(cases, base, features.usable, first.specialists, label_counts(built.cases))
    asked = np.flatnonzero(frame.asked)
    studies = questions_for(cases, frame, base, book)
    images = [features.digests[i] for i in asked]
    digest = evaluation_digest(
        built, fleets, config, question_digest(studies, images), cases.digest, replicates, seed
    )
    known = _reusable(out / "summary.json", digest)
    if known is not None:
        return known, None

    trained = []
    for t in fleets:
        matrix = read_matrix(
            t.fleet.agents,
            studies,
            truths_of(frame),
            images=images,
            folder=out / "responses",
            label=f"{len(t.fleet.agents)} agents read {len(studies)} cases",
        )
        trained.append(_trained(t, built, frame, base, features, asked, matrix))
        save_responses(matrix, out / _matrix_name(t, fleets))
    # replay needs one draw: the one that serves
    seen = Known(trained[0].test.assessments, first.specialists, first.generalist)
    save_assessments(seen, out / ASSESSMENTS_FILE)
    result = evaluate(
        frame,
        base,
        trained,
        config,
        replicates=replicates,
        seed=seed,
        facts=case_facts(cases.take(asked)),
    )
    summary = summarise(
        result,
        manifest=cases.path.name,
        digest=cases.digest,
        build_cost=first.build_cost,
        specialists=first.specialists,
        versions=versions(built, fleets, config) | {"evaluation": digest},
        notes=_notes(fleets, frame, phantoms=phantoms),
        phantoms=phantoms,
        attributes=any(c.attributes.keys() & set(ATTRIBUTES) for c in cases),
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        about=fleets[0].about,
        controls=[] if controls is None else controls(result),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    )
    save_outcomes(result.outcomes, out / OUTCOMES_FILE)
    write_cards(first, trained[0].test, out)
    write_summary(summary, out / "summary.json")
    return summary, result


def versions(built: Built, fleets: Sequence[TunedFleet], config: Config) -> dict[str, str]:
    """Hashes of everything that the numbers depend on."""
    return {
        "code": __version__,
        "config": config.digest,
        "policy": model_digest(config.policy),
        "embeddings": built.assessor.fingerprint,
        "index": built.assessor.index_digest,
        "calibration": built.assessor.calibration_digest,
        "fleet": content_hash(*(t.fleet.fingerprint for t in fleets)),
        # versions may share index and calibration, and differ in what they know of agents
        "index version": built.version,
    }


def evaluation_digest(
    built: Built,
    fleets: Sequence[TunedFleet],
    config: Config,
    questions: str,
    cases: str,
    replicates: int,
    seed: int,
) -> str:
    """Hash over all inputs and the evaluation's own code: equal hash, equal result."""
    parts: Mapping[str, object] = versions(built, fleets, config) | {
        "questions": questions,
        "cases": cases,
        "tune": built.tune.digest,
        "replicates": str(replicates),
        "seed": str(seed),
        "evals": code_digest(),
    }
    return content_hash(json.dumps(parts, sort_keys=True))


def code_digest() -> str:
    """Hash of this floor's source, so that a stored result is not taken for a newer one's."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return content_hash(*(f.read_bytes() for f in files))


def evaluated(cases: Cases) -> Cases:
    """The rows of a manifest that are evaluated.  Raises CasesError."""
    return cases.take(evaluated_rows(cases))


def tune_cases(cases: Cases) -> Cases:
    """Tune cases that can be asked something.

    Raises:
        UserError: none; then nothing could be chosen honestly.
    """
    has = np.array([bool(c.options) and (c.label in c.options) for c in cases], bool)
    rows = np.flatnonzero((cases.roles == "tune") & has)
    if not len(rows):
        raise UserError(
            "the manifest that was built from has no tune case with options and a label",
            hint="give some cases role tune, then: curbside build --cases MANIFEST",
        )
    return cases.take(rows)


def _trained(
    t: TunedFleet,
    built: Built,
    frame: Frame,
    base: Assessments,
    features: Features,
    asked: NDArray[np.intp],
    matrix: ResponseMatrix,
) -> Trained:
    from curbside.indexes.competence import Competence

    fleet = t.fleet
    tune, tune_features, responses = _tune_readings(built, t)
    competence = t.competence or Competence.fit(built.assessor, tune, tune_features, responses)
    bound = built.assessor.bind(fleet.names, fleet.specialists, competence)
    test = bound.assess(features.pooled[asked])
    trained = Trained(
        seed=t.seed,
        specialists=fleet.specialists,
        serving=fleet.generalist,
        colleagues=tuple(c for c in fleet.colleagues if c != GFULL),
        test=Part(replace(frame.take(asked), group=frame.group[asked]), test, matrix),
        tune=tune_part(built, t)[0],
    )
    vectors = [built.assessor.embed(f).vectors for f in (tune_features.pooled, features.pooled)]
    return with_peers(trained, vectors[0], vectors[1][asked])


def case_facts(cases: Cases) -> CaseFacts:
    """Attributes, "normal" options and what must not be missed, from the manifest.

    Where it has no column ``must_not_miss`` the labels that ``gate.yaml`` lists are meant.
    """
    declared = any("must_not_miss" in c.attributes for c in cases)
    listed = frozenset(load_rules().must_not_miss)
    normal = [next((i for i, o in enumerate(c.options) if o.lower() in NORMAL), -1) for c in cases]
    yes = ("1", "true", "yes")
    columns = {k for c in cases for k in c.attributes} & set(ATTRIBUTES)
    return CaseFacts(
        np.array(normal, np.int16).reshape(len(cases)),
        np.array(
            [
                c.attributes.get("must_not_miss", "").lower() in yes
                if declared
                else c.label in listed
                for c in cases
            ],
            bool,
        ),
        {k: np.array([c.attributes.get(k, "") for c in cases], np.str_) for k in sorted(columns)},
    )


def tune_part(built: Built, t: TunedFleet) -> tuple[Part, Cases]:
    """The tune cases that were read, with competence learned without each case's own fold."""
    tune, features, responses = _tune_readings(built, t)
    facts = _cross_fitted(built, t.fleet, tune, features, responses)
    frame = frame_of(tune, facts, features.usable, t.fleet.specialists, label_counts(built.cases))
    return Part(frame, facts, responses.select(t.fleet.names)), tune


def _tune_readings(built: Built, t: TunedFleet) -> tuple[Cases, Features, ResponseMatrix]:
    """Tune cases, their features and what the fleet said of them, row by row the same."""
    place = {c: i for i, c in enumerate(t.tune.cases)}
    order = np.array([place[str(i)] for i in built.tune.ids if str(i) in place], np.intp)
    rows = np.array([j for j, i in enumerate(built.tune.ids) if str(i) in place], np.intp)
    return built.tune.take(rows), built.tune_features.take(rows), t.tune.take(order)


def _cross_fitted(
    built: Built, fleet: Fleet, tune: Cases, features: Features, responses: ResponseMatrix
) -> Assessments:
    """Assessments of tune cases whose competence was learned without their own fold.

    A policy that uses competence would otherwise look better on tune than it is, and be
    chosen for it.  Groups stay together.
    """
    from curbside.indexes.competence import Competence

    named = np.array([g or f"case {i}" for g, i in zip(tune.groups, tune.ids, strict=True)])
    group = np.unique(named, return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % _FOLDS
    whole = built.assessor.bind(fleet.names, fleet.specialists, None).assess(features.pooled)
    columns = ("competence", "competence_low", "competence_high", "competence_support")
    arrays = {c: getattr(whole, c).copy() for c in columns}
    for k in range(_FOLDS):
        rest, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if not len(own) or not len(rest):
            continue
        learned = Competence.fit(
            built.assessor, tune.take(rest), features.take(rest), responses.take(rest)
        )
        part = built.assessor.bind(fleet.names, fleet.specialists, learned).assess(
            features.pooled[own]
        )
        for c in columns:
            arrays[c][own] = getattr(part, c)
    return replace(whole, **arrays)


def _matrix_name(t: TunedFleet, fleets: Sequence[TunedFleet]) -> str:
    return "responses.parquet" if len(fleets) == 1 else f"responses-{t.seed}.parquet"


def _reusable(path: Path, digest: str) -> Summary | None:
    """A summary of the same inputs and code; one that cannot be read is made again."""
    try:
        found = Summary.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.versions.get("evaluation") == digest else None


def _notes(fleets: Sequence[TunedFleet], frame: Frame, *, phantoms: bool) -> list[str]:
    notes = list(fleets[0].notes) or _about_draws(fleets, int(frame.asked.sum()))
    if phantoms:
        notes.append(PHANTOM_CAVEAT)
    if not frame.usable.all():
        failed = int((~frame.usable).sum())
        notes.append(f"{failed} images could not be read; they count as not answered")
    if frame.confounded.any():
        notes += CAVEATS
    return notes


def _about_draws(fleets: Sequence[TunedFleet], asked: int) -> list[str]:
    if len(fleets) == 1:
        draws = (
            f"one few-shot draw and one seed of each arm (seed {fleets[0].seed}): intervals hold "
            "for these trained models; make benchmark resamples five draws and seeds"
        )
    else:
        draws = (
            f"{len(fleets)} few-shot draws and seeds, resampled in every replicate; with so few "
            "the share of variation between them is itself uncertain"
        )
    latency = (
        f"latency is wall time a case in batches on this machine, over {asked} cases, features "
        "cached; cost is calls"
    )
    return [draws, latency]
