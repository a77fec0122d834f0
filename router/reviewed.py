"""What reviewed cases of the ledger teach: labels for new cases, outcomes for competence.

Records hold no file, no group and no confirmed modality; those come from the manifest that
the cases were read from, matched by id and by the content of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from curbside.cases import Cases
from curbside.indexes.outcomes import Outcomes, reviewed_responses
from curbside.readings import CaseRecord
from curbside.router.ledger import Ledger

__all__ = ["Reviewed", "labelled_by_review", "production_outcomes", "reviewed_in"]

#: Case → its record and the person's answer.
Reviewed = Mapping[str, tuple[CaseRecord, str]]


def reviewed_in(ledger: Ledger) -> Reviewed:
    """Every case of a ledger that a person has answered."""
    return {e.study: (record, e.truth) for e, record in ledger.all() if e.truth is not None}


def labelled_by_review(
    cases: Cases, digests: Sequence[str], reviewed: Reviewed
) -> tuple[Cases, NDArray[np.intp], Mapping[str, int]]:
    """The cases that a person has answered, labelled with the answer.

    Args:
        cases: of a manifest; ``digests`` are of their images, row by row.

    Returns:
        Those cases, their rows, and why others are left out: reason → how many.
    """
    kept, rows = [], []
    left_out: Counter[str] = Counter()
    for row, (case, digest) in enumerate(zip(cases, digests, strict=True)):
        if case.id not in reviewed:
            left_out["not reviewed"] += 1
            continue
        record, truth = reviewed[case.id]
        if record.content != digest:
            left_out["its image is not the one that was reviewed"] += 1
            continue
        task = record.task or case.task
        kept.append(replace(case, label=truth, task=task, options=record.options))
        rows.append(row)
    return Cases(kept, cases.path), np.array(rows, np.intp), dict(left_out)


def production_outcomes(
    reviewed: Reviewed,
    agents: Mapping[str, str],
    pooled_of: Iterable[tuple[str, NDArray[np.float32]]],
) -> tuple[Outcomes | None, Mapping[str, int]]:
    """Outcomes of reviewed cases whose features are given.  Pure.

    Args:
        agents: name → fingerprint of those that serve; readings of others are left out.
        pooled_of: digest of an image → its raw features, float32 (d,), of images that may teach.

    Returns:
        The outcomes, None where there is none, and why cases are left out.
    """
    features = dict(pooled_of)
    matrix, contents, left_out = reviewed_responses(reviewed.values(), agents)
    keep = np.array([i for i, c in enumerate(contents) if c in features], np.intp)
    more = {"its image is held out, known otherwise or no longer kept": len(contents) - len(keep)}
    told = dict(left_out) | {k: n for k, n in more.items() if n}
    if not len(keep):
        return None, told
    part = matrix.take(keep)
    read = part.read & (part.truth >= 0)[:, None]
    records = [reviewed[c][0] for c in part.cases]
    return (
        Outcomes(
            part.agents,
            np.stack([features[contents[i]] for i in keep]),
            np.full(len(part), "", np.str_),
            np.array([r.task or "" for r in records], np.str_),
            part.correct & read,
            read,
            np.where(read, part.confidence, np.float32(np.nan)),
        ),
        told,
    )
