"""Watching for drift: the ledger's last cases against the calibration that serves.

What was found is kept in ``drift.json`` under the home folder, with the digest of the
calibration that it is about; a router that opens that calibration says in every record
whose stratum is suspended that its guarantee does not hold for now.  Routes stay as they
are: what to do about drift is for people to decide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.drift import DriftReport, Sample, drift
from curbside.indexes.leaks import near_duplicates
from curbside.readings import CaseRecord
from curbside.router.ledger import Ledger
from curbside.router.worklist import View, page
from curbside.router.workspace import Workspace
from curbside.storage import write_text

__all__ = [
    "EVERY",
    "STATE_FILE",
    "calibration_sample",
    "suspended_strata",
    "watch",
    "window_sample",
]

STATE_FILE = "drift.json"
#: Stands for all strata.
EVERY = "*"


def watch(workspace: Workspace, ledger: Ledger, *, last: int, level: float) -> DriftReport:
    """Compare the last cases of the ledger with calibration and keep what was found.

    Args:
        last: most cases of the window, the latest by when they were finished.
        level: see :func:`curbside.indexes.drift.drift`.

    Raises:
        UserError: no case in the ledger was decided with the calibration that serves.
    """
    assessor = workspace.assessor()
    entries = page(ledger, View(sort="finished", descending=True), limit=last).entries
    records = ledger.of_keys([e.key for e in entries])
    # oldest first: the martingale bets in the order in which cases came
    ordered = [records[e.key] for e in reversed(entries) if e.key in records]
    window = window_sample(workspace, assessor, ordered)
    if not len(window):
        raise UserError(
            f"none of the last {len(entries)} cases was decided with the calibration that "
            f"serves ({assessor.calibration_digest[:12]})",
            hint="curbside batch CASES, then curbside drift",
        )
    found = drift(window, calibration_sample(workspace, assessor), level=level)
    body = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "calibration_digest": assessor.calibration_digest,
        **found.to_json(),
    }
    write_text(workspace.home / STATE_FILE, json.dumps(body, indent=1) + "\n")
    return found


def suspended_strata(home: Path, calibration_digest: str) -> frozenset[str]:
    """Calibration strata whose guarantee is suspended; none where nobody has looked.

    A finding about another calibration is passed by.  Where the file cannot be read all
    strata are suspended: nobody knows that they hold.
    """
    path = home / STATE_FILE
    if not path.is_file():
        return frozenset()
    try:
        body = json.loads(path.read_bytes())
        if body["calibration_digest"] != calibration_digest:
            return frozenset()
        return frozenset(str(s) for s in body["suspended"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset([EVERY])


def window_sample(
    workspace: Workspace, assessor: Assessor, records: Sequence[CaseRecord]
) -> Sample:
    """The records that this calibration decided, in their order; no image is opened."""
    ours = [
        r
        for r in records
        if r.familiarity is not None
        and r.modality is not None
        and r.versions.calibration == assessor.calibration_digest
    ]
    pooled = workspace.source.kept([r.content for r in ours])
    known = np.isfinite(pooled).all(axis=1)
    vectors = np.full((len(ours), assessor.index.dimensions), np.nan, np.float32)
    vectors[known] = assessor.embed(pooled[known]).vectors
    seen = [r.familiarity for r in ours if r.familiarity is not None]
    return Sample(
        np.array([str(r.modality) for r in ours], np.str_),
        np.array([f.score for f in seen], float),
        vectors,
        np.array([f.p_value for f in seen], float),
        np.array([f.stratum for f in seen], np.str_),
        np.array([f.stratum_n for f in seen], np.int32),
    )


def calibration_sample(workspace: Workspace, assessor: Assessor) -> Sample:
    """The cases that calibrate, as the index sees them and without copies of them.

    A p-value may count with a stranger copy of each case and is then larger than it need
    be; only cases as they are can be compared with a window's.
    """
    cases = workspace.built_cases()
    features = workspace.features(cases)
    train = np.flatnonzero((cases.roles == "train") & features.usable)
    held = np.flatnonzero((cases.roles == "calibration") & features.usable)
    held = held[~near_duplicates(features.pooled[train], features.pooled[held])]
    pooled = features.pooled[held]
    facts = assessor.assess(pooled)
    names = np.array(assessor.modalities, np.str_)
    return Sample(names[facts.modality], facts.novelty, assessor.embed(pooled).vectors)
