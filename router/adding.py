"""Makes an index version with reviewed cases more than the one that is opened; it serves later."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from curbside.cases import Cases
from curbside.indexes.features import Features
from curbside.indexes.outcomes import Outcomes
from curbside.router.growth import TUNE_SHARE, Admission, Withheld, admit
from curbside.router.reviewed import Reviewed, production_outcomes
from curbside.router.version_making import make_version, manifest_of
from curbside.router.workspace import Workspace
from curbside.study import content_hash

__all__ = ["add_cases"]


def add_cases(
    workspace: Workspace,
    new: Cases | None,
    *,
    tune_share: float = TUNE_SHARE,
    reviewed: Reviewed = MappingProxyType({}),
) -> tuple[str | None, Admission]:
    """Make a version with reviewed cases more; what serves stays.

    The index is fitted and calibrated again and competence learned again, on the cases
    of the version opened here and the new ones.  Agents are not trained again.

    Args:
        new: labelled cases; see :func:`curbside.router.growth.admit` for who joins.
        tune_share: share of new groups that go to ``tune``.
        reviewed: production cases that a person has answered; what the agents that serve
            had said of them teaches competence.

    Returns:
        The version's name (None where nothing is new), and who joined.
    """
    known, withheld = workspace.built_cases(), workspace.withheld()
    features = workspace.features(known)
    admission = Admission(Cases([], known.path), (), {})
    if new is not None:
        more = workspace.features(new)
        admission = admit(
            known, features.digests, new, more.digests, withheld, tune_share=tune_share
        )
    both = Cases([*known, *admission.cases], known.path)
    # all of them at once: what was encoded is in the cache
    features = workspace.features(both)
    production = _production(workspace, reviewed, both, features, withheld)
    if not admission.rows and production is None:
        return None, admission
    parent, first = workspace.version_folder.name, len(known)
    made_of = content_hash(
        "grown",
        parent,
        manifest_of(admission.cases, features.digests[first:]),
        "" if production is None else production.digest,
    )
    known_by_now = workspace.versions.made_of(made_of)
    if known_by_now is not None:
        return known_by_now, admission
    name = make_version(
        workspace,
        both,
        features,
        withheld,
        made_of=made_of,
        parent=parent,
        added=admission.cases,
        production=production,
    )
    return name, admission


def _production(
    workspace: Workspace,
    reviewed: Reviewed,
    cases: Cases,
    features: Features,
    withheld: Withheld,
) -> Outcomes | None:
    """Outcomes of reviewed cases that no agent was trained on and that are not held out."""
    held_out = np.isin(cases.roles, ("tune", "calibration"))
    # agents are trained by a build alone: what joined train since, they have not seen
    built = workspace.trained_from()
    in_sample = np.isin(cases.ids, built.ids[built.roles == "train"])
    taken = {d for d, no in zip(features.digests, held_out | in_sample, strict=True) if no}
    contents = [
        record.content
        for record, _ in reviewed.values()
        if record.content not in taken and record.content not in withheld.images
    ]
    if not contents:
        return None
    pooled = workspace.source.kept(contents)
    there = zip(contents, pooled, strict=True)
    agents = {n: a.card.fingerprint for n, a in workspace.fleet().agents.items()}
    outcomes, _ = production_outcomes(
        reviewed, agents, ((c, x) for c, x in there if np.isfinite(x).all())
    )
    return outcomes
