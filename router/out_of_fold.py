"""Readings of ``train`` cases by agents that were trained without them.

The train cases are split by group into k folds; k fleets are trained, each without one fold,
and each reads the fold that it has not seen.  Competence then has as many outcomes as there
are train cases, and none of them is in-sample.  Costs about k − 1 times the fleet's training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curbside.agents.fleet import Fleet
from curbside.cases import Cases
from curbside.errors import IndexCorrupt
from curbside.indexes.features import Features
from curbside.indexes.join import folds_of
from curbside.indexes.outcomes import Outcomes
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.storage import new_folder

__all__ = ["OutOfFold", "load_out_of_fold", "out_of_fold_outcomes", "read_out_of_fold"]


@dataclass(frozen=True)
class OutOfFold:
    """Readings, and by id of a train case the fold that its readers had not seen."""

    responses: ResponseMatrix
    fold: Mapping[str, int]


def read_out_of_fold(
    cases: Cases,
    features: Features,
    k: int,
    folder: Path,
    *,
    train: Callable[[Cases, Features, Path], Fleet],
    read: Callable[[Fleet, Cases, str], ResponseMatrix],
) -> None:
    """Train k fleets, let each read the fold it has not seen, and keep that under ``folder``.

    Args:
        cases, features: train and tune cases, row by row.
        train: trains a fleet on these cases in a folder; what is there already is reused.
        read: the responses of all agents of a fleet on cases, with a progress label.

    Raises:
        StorageError: the disk is full; a run goes on with the fold that it stopped in.
    """
    rows = np.flatnonzero(
        (cases.roles == "train") & (cases.tasks != "") & (cases.labels != "") & features.usable
    )
    fold = np.full(len(cases), -1, np.intp)
    fold[rows] = folds_of(cases.groups[rows], k)
    # a group without labelled cases is in no fold; one with some takes its other cases along
    of_group = {str(cases.groups[r]): int(fold[r]) for r in rows if cases.groups[r]}
    for r in np.flatnonzero((cases.roles == "train") & (fold < 0)):
        fold[r] = of_group.get(str(cases.groups[r]), -1)
    parts = []
    for f in range(k):
        rest, own = np.flatnonzero(fold != f), rows[fold[rows] == f]
        fleet = train(cases.take(rest), features.take(rest), folder / "fleets" / str(f))
        parts.append(read(fleet, cases.take(own), f"reading fold {f + 1} of {k}"))
    agents = tuple(a for a in parts[0].agents if all(a in p.agents for p in parts))
    matrix = ResponseMatrix.concatenated([p.select(agents) for p in parts])
    with new_folder(folder / "readings") as temporary:
        save_responses(matrix, temporary / "responses.parquet")
        body = {str(cases.ids[r]): int(fold[r]) for r in rows}
        (temporary / "folds.json").write_text(json.dumps(body), encoding="utf-8")


def load_out_of_fold(folder: Path) -> OutOfFold:
    """What :func:`read_out_of_fold` kept.  Raises IndexCorrupt, StorageError."""
    try:
        fold = json.loads((folder / "readings" / "folds.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise IndexCorrupt(
            f"the out-of-fold readings in {folder.name} cannot be used ({type(e).__name__})",
            hint="curbside build",
        ) from None
    return OutOfFold(load_responses(folder / "readings" / "responses.parquet"), fold)


def out_of_fold_outcomes(folder: Path, cases: Cases, features: Features) -> Outcomes:
    """What the readings under ``folder`` teach competence; cases without one are passed by.

    Raises:
        IndexCorrupt, StorageError: see :func:`load_out_of_fold`.
    """
    kept = load_out_of_fold(folder)
    rows = np.flatnonzero(np.isin(cases.ids, list(kept.fold)) & (cases.roles == "train"))
    there = set(cases.ids[rows].tolist())
    known = [i for i, c in enumerate(kept.responses.cases) if c in there]
    return Outcomes.of(
        cases.take(rows),
        features.take(rows),
        kept.responses.take(np.array(known, np.intp)),
        fold=kept.fold,
    )
