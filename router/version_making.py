"""Makes one index version: index and calibration fitted, tune read, competence learned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from curbside.agents.fleet import Fleet
from curbside.agents.read_all import read_all
from curbside.cases import Cases, read_cases
from curbside.errors import IndexCorrupt
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.features import Features
from curbside.indexes.outcomes import Outcomes
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.router.growth import Withheld
from curbside.router.versions import (
    CASES_FILE,
    TUNE_FILE,
    WITHHELD_FILE,
    VersionFacts,
    VersionStore,
)
from curbside.router.workspace import Workspace, tune_rows
from curbside.storage import write_text
from curbside.study import content_hash

__all__ = ["make_version", "manifest_of"]

#: What a reading depends on besides the fleet: id, image, label, options.
_Asked = tuple[str, str, str | None, tuple[str, ...]]


def make_version(
    workspace: Workspace,
    cases: Cases,
    features: Features,
    withheld: Withheld,
    *,
    made_of: str,
    parent: str | None = None,
    added: Cases | None = None,
    production: Outcomes | None = None,
) -> str:
    """Fit, calibrate, read tune, learn competence; write it all as one version.

    Args:
        cases: of train, tune and calibration; ``features`` are theirs, row by row.
        withheld: what no version may ever learn from.
        made_of: hash of all that goes in.
        parent, added: the version that this one grows from, and the cases that it has more.
        production: what reviewed production cases teach competence.

    Returns:
        The version's name.

    Raises:
        UserError: the cases cannot serve for a stage; says which and why.
        StorageError: the disk is full; the versions before still work.
    """
    assessor = Assessor.fit(cases, features, workspace.config, workspace.views(cases, features))
    rows = tune_rows(cases)
    tune, tune_features = cases.take(rows), features.take(rows)
    # where nothing is trained, tasks are those of the cases, and no version serves yet
    fleet = workspace.fleet() if workspace.fleet_spec.embedded else workspace.open_fleet(cases)
    matrix = _tune_readings(workspace.versions, tune, tune_features, fleet)
    also = workspace.out_of_fold(cases, features)
    if production is not None:
        also = production if also is None else also.joined(production)
    competence = Competence.fit(assessor, tune, tune_features, matrix, also=also)
    manifest = manifest_of(cases, features.digests)
    name = content_hash(
        "version", assessor.calibration_digest, competence.digest, manifest, made_of
    )[:16]
    facts = VersionFacts(
        name=name,
        parent=parent,
        made_of=made_of,
        fleet=fleet.fingerprint,
        cases=_by_role(cases),
        added={} if added is None else _by_role(added),
        outcomes=0 if production is None else len(production),
    )
    with workspace.versions.adding(facts) as folder:
        assessor.save(folder / "index")
        competence.save(folder / "competence")
        save_responses(matrix, folder / TUNE_FILE)
        write_text(folder / CASES_FILE, manifest)
        write_text(folder / WITHHELD_FILE, json.dumps(withheld.to_json()))
    return name


def _tune_readings(
    store: VersionStore, tune: Cases, features: Features, fleet: Fleet
) -> ResponseMatrix:
    """Every agent on every labelled tune case; what a version has of this fleet is kept."""
    old, place = _kept_readings(store, fleet)
    have = [
        place.get((c.id, d, c.label, c.options), -1)
        for c, d in zip(tune, features.digests, strict=True)
    ]
    fresh = [i for i, at in enumerate(have) if at < 0]
    if old is not None and not fresh:
        return old.take(np.array(have, np.intp))
    todo = tune.take(np.array(fresh, np.intp))
    new = read_all(fleet.agents, todo.studies(), [c.label for c in todo], "reading tune")
    if old is None:
        return new
    both = ResponseMatrix.concatenated([old, new])
    turn = {i: len(old) + at for at, i in enumerate(fresh)}
    return both.take(np.array([turn.get(i, at) for i, at in enumerate(have)], np.intp))


def _kept_readings(
    store: VersionStore, fleet: Fleet
) -> tuple[ResponseMatrix | None, dict[_Asked, int]]:
    """Tune readings of the latest version of this fleet, and the row of each case in them."""
    for name in reversed(store.names()):
        with suppress(IndexCorrupt):
            if store.facts(name).fleet == fleet.fingerprint:
                folder = store.check(name)
                matrix = load_responses(folder / TUNE_FILE)
                row = {c: i for i, c in enumerate(matrix.cases)}
                place = {
                    (c.id, c.attributes.get("sha256", ""), c.label, c.options): row[c.id]
                    for c in read_cases(folder / CASES_FILE)
                    if c.id in row
                }
                return matrix, place
    return None, {}


def _by_role(cases: Cases) -> dict[str, int]:
    return dict(sorted(Counter(cases.roles.tolist()).items()))


def manifest_of(cases: Cases, digests: Sequence[str]) -> str:
    """The cases as a JSON Lines manifest that is read from anywhere."""
    lines = []
    for c, digest in zip(cases, digests, strict=True):
        row = {
            "id": c.id,
            "image": str(c.image.absolute()),
            "modality": c.modality,
            "label": c.label,
            "task": c.task,
            "options": list(c.options),
            "question": c.question,
            "role": c.role,
            "tier": c.tier,
            "group": c.group,
            "sha256": digest,
        }
        lines.append(json.dumps({k: v for k, v in row.items() if v}, ensure_ascii=False))
    return "\n".join(lines) + "\n"
