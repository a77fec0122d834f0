"""The production ledger as a response matrix, and a policy tested against what happened.

Each study's latest record becomes one row: what its agents said, what the index knew, and as
truth what a person answered (unknown where nobody has).  A policy that asks an agent which
was not asked then cannot be replayed there: such cases are counted and shown.  Holds no
pixel, no path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import AnyPolicy
from curbside.errors import UserError
from curbside.evals.arms import prices_of
from curbside.evals.assessment_file import ASSESSMENTS_FILE, Known, save_assessments
from curbside.evals.replay import Recording, right_of
from curbside.readings import CaseRecord, Status
from curbside.response_file import save_responses
from curbside.responses import ResponseMatrix, ResponseStatus
from curbside.router.ledger import Ledger
from curbside.router.policies import make_policy

__all__ = ["Logged", "Tested", "from_ledger", "save_logged", "try_policy"]


@dataclass(frozen=True)
class Logged:
    """n studies of a ledger.

    Args:
        matrix, known: as an evaluation keeps them; truth is a person's answer or -1.
        answered: bool (n,), how it ended at the time, before any person.
        answer: int16 (n,), the option answered then, -1 where none.
    """

    matrix: ResponseMatrix
    known: Known
    answered: NDArray[np.bool_]
    answer: NDArray[np.int16]


@dataclass(frozen=True)
class Tested:
    """A policy on a ledger's studies, beside what happened.  Shares in [0, 1]; NaN: unknown.

    Args:
        right: among answered studies that a person answered too.
        unseen: studies where the policy asks an agent that was not asked then; they count as
            if that agent had failed.
    """

    n: int
    with_truth: int
    answered: float
    right: float
    calls: float
    then_answered: float
    then_right: float
    then_calls: float
    unseen: int


def from_ledger(
    ledger: Ledger,
    specialists: Mapping[str, str],
    generalist: str,
    *,
    colleagues: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> Logged:
    """The studies that were assessed and read, in the ledger's order.

    Args:
        specialists: modality → agent; generalist: the agent that serves beside them.
        colleagues: agents that have a column even where none of these studies was given to them.
        since, until: of their reception.

    Raises:
        UserError: none is left.
    """
    low = since.astimezone(UTC).timestamp() if since else -np.inf
    high = until.astimezone(UTC).timestamp() if until else np.inf
    kept = [
        (e, r)
        for e, r in ledger.all()
        if low <= e.received_at < high and r.familiarity is not None and r.options
    ]
    if not kept:
        raise UserError(
            "the ledger holds no study of that time with options and an assessment",
            hint="curbside eval ledger --out DIR (without --since and --until)",
        )
    records = [r if e.truth is None else _before_review(ledger, r) for e, r in kept]
    serving = [*dict.fromkeys(specialists.values()), generalist]
    said = {x.agent for r in records for x in r.responses}
    agents = tuple(dict.fromkeys([*serving, *colleagues, *sorted(said)]))
    by_agent = [{x.agent: x for x in r.responses} for r in records]
    matrix = ResponseMatrix.from_responses(
        [r.case for r in records],
        agents,
        [r.options for r in records],
        [e.truth for e, _ in kept],
        [[by.get(a) for a in agents] for by in by_agent],
    )
    answered = [r.outcome.answer if r.outcome.status is Status.ANSWERED else None for r in records]
    answer = [
        r.options.index(a) if a in r.options else -1 for r, a in zip(records, answered, strict=True)
    ]
    known = Known(_assessments(records, agents, specialists), specialists, generalist)
    return Logged(
        matrix,
        known,
        np.array([a is not None for a in answered]),
        np.array(answer, np.int16),
    )


def save_logged(logged: Logged, folder: Path) -> None:
    """Write ``responses.parquet`` and ``assessments.safetensors``.  Raises StorageError."""
    save_responses(logged.matrix, folder / "responses.parquet")
    save_assessments(logged.known, folder / ASSESSMENTS_FILE)


def try_policy(logged: Logged, policy: AnyPolicy) -> Tested:
    """How a policy would have ended the same studies."""
    matrix, generalist = logged.matrix, logged.known.generalist
    recording = Recording.of(matrix, logged.known.assessments)
    costs = dict(zip(matrix.agents, prices_of(matrix).tolist(), strict=True))
    rule = make_policy(policy, agents=recording.agents, generalist=generalist, costs=costs)
    decided = recording.decide(rule)
    right = right_of(matrix, decided.weights) > 0
    then = (logged.answer == matrix.truth) & (matrix.truth >= 0)
    truth = matrix.truth >= 0
    asked_then = matrix.status != ResponseStatus.NOT_ASKED

    def share(values: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
        return float(values[among].mean()) if among.any() else float("nan")

    return Tested(
        n=len(matrix),
        with_truth=int(truth.sum()),
        answered=float(decided.answered.mean()),
        right=share(right, truth & decided.answered),
        calls=float(decided.asked.sum(axis=1).mean()),
        then_answered=float(logged.answered.mean()),
        then_right=share(then, truth & logged.answered),
        then_calls=float(asked_then.sum(axis=1).mean()),
        unseen=int((decided.asked & ~asked_then).any(axis=1).sum()),
    )


def _before_review(ledger: Ledger, last: CaseRecord) -> CaseRecord:
    """A reviewed study's latest record that no person has changed."""
    for _, record in reversed(ledger.history(last.case)):
        if all(reason.code != "person" for reason in record.outcome.reasons):
            return record
    return last


def _assessments(
    records: list[CaseRecord], agents: tuple[str, ...], specialists: Mapping[str, str]
) -> Assessments:
    n, a = len(records), len(agents)
    seen = {m for r in records for m in r.modality_probabilities}
    modalities = tuple(sorted({*seen, *specialists}))
    strata = tuple(sorted({r.familiarity.stratum for r in records if r.familiarity}))
    posterior = np.zeros((n, len(modalities)), np.float32)
    known = np.full((3, n, a), np.nan, np.float32)
    support = np.zeros((n, a), np.float32)
    for i, r in enumerate(records):
        for m, p in r.modality_probabilities.items():
            posterior[i, modalities.index(m)] = p
        for c in r.competence:
            if c.agent in agents:
                j = agents.index(c.agent)
                known[:, i, j] = c.estimate, c.low, c.high
                support[i, j] = c.support
    familiar = [r.familiarity for r in records]
    column = [agents.index(r.specialist) if r.specialist in agents else -1 for r in records]
    return Assessments(
        modalities=modalities,
        agents=agents,
        strata=strata,
        posterior=posterior,
        novelty=np.array([f.score if f else np.nan for f in familiar]),
        p_value=np.array([f.p_value if f else 1.0 for f in familiar]),
        stratum=np.array([strata.index(f.stratum) if f else 0 for f in familiar], np.int16),
        stratum_n=np.array([f.stratum_n if f else 0 for f in familiar], np.int32),
        support=np.array([r.support or 0 for r in records], np.int32),
        specialist=np.array(column, np.int16),
        # neighbours are rows of an index that may be gone; the record keeps their names
        neighbours=np.zeros((n, 0), np.int64),
        similarity=np.zeros((n, 0), np.float32),
        tag_disagreement=np.array([r.tag_disagreement for r in records], bool),
        competence=known[0],
        competence_low=known[1],
        competence_high=known[2],
        competence_support=support,
    )
