"""Outcomes that may teach competence: readings with a known truth by agents that had not seen it.

Three sources: cases of role ``tune``; cases of role ``train`` read by agents that were
trained without their fold; and production cases that a person has reviewed.  A reading of a
case that the agent was trained on looks perfect and is refused.  Knows no kernel and no rate.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import InternalError, UserError
from curbside.indexes.features import Features
from curbside.readings import CaseRecord, Reading
from curbside.responses import ResponseMatrix
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["Outcomes", "reviewed_responses"]


@dataclass(frozen=True)
class Outcomes:
    """n cases × a agents.

    Args:
        agents: columns.
        pooled: float32 (n, d), raw features.
        groups, tasks: (n,); ``""`` where there is none.
        correct, read: bool (n, a); correct only where read.
        confidence: float32 (n, a), the agent's own; NaN where there is no reading.
    """

    agents: tuple[str, ...]
    pooled: NDArray[np.float32]
    groups: NDArray[np.str_]
    tasks: NDArray[np.str_]
    correct: NDArray[np.bool_]
    read: NDArray[np.bool_]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        arrays = (self.pooled, self.correct, self.read, self.confidence)
        words = json.dumps([self.agents, self.groups.tolist(), self.tasks.tolist()])
        return content_hash("outcomes", words, *(np.ascontiguousarray(a).tobytes() for a in arrays))

    @classmethod
    def of(
        cls,
        cases: Cases,
        features: Features,
        responses: ResponseMatrix,
        *,
        fold: Mapping[str, int] | None = None,
    ) -> Self:
        """From cases of role ``tune``, or of role ``train`` with the fold that was left out.

        Args:
            features: one row a case; images that failed are left out.
            responses: of some or all of the cases, named by id.
            fold: id of a ``train`` case → the fold whose agents had not been trained on it.

        Raises:
            UserError: a case of another role, a ``train`` case of no fold or whose group is
                in two folds (its readings would be in-sample), or no outcome at all.
        """
        known = fold or {}
        _refuse_in_sample(cases, known)
        row = {str(name): i for i, name in enumerate(cases.ids)}
        unknown = [c for c in responses.cases if c not in row]
        if unknown or len(features) != len(cases):
            raise InternalError(
                f"{len(unknown)} responses are of no case given; "
                f"{len(features)} features for {len(cases)} cases"
            )
        at = np.array([row[c] for c in responses.cases], np.intp)
        read = responses.read & (responses.truth >= 0)[:, None]
        keep = np.flatnonzero(features.usable[at] & read.any(axis=1))
        if not len(keep):
            raise UserError(
                "no agent has read a tune case whose truth is known, so nothing is known of "
                "their competence",
                hint="give some cases of role 'tune' a task, a label and options",
            )
        at, read = at[keep], read[keep]
        return cls(
            responses.agents,
            features.pooled[at],
            cases.groups[at],
            cases.tasks[at],
            responses.correct[keep] & read,
            read,
            np.where(read, responses.confidence[keep], np.float32(np.nan)),
        )

    def joined(self, other: Outcomes) -> Outcomes:
        """Both; an agent that one does not know has not read its cases."""
        agents = tuple(dict.fromkeys((*self.agents, *other.agents)))

        def both(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(self, name), getattr(other, name)])

        def columns(name: str, absent: Any) -> NDArray[Any]:
            parts = []
            for part in (self, other):
                values = getattr(part, name)
                wide = np.full((len(part), len(agents)), absent, values.dtype)
                wide[:, [agents.index(a) for a in part.agents]] = values
                parts.append(wide)
            return np.concatenate(parts)

        return Outcomes(
            agents,
            both("pooled"),
            both("groups"),
            both("tasks"),
            columns("correct", False),
            columns("read", False),
            columns("confidence", np.nan),
        )


def _refuse_in_sample(cases: Cases, fold: Mapping[str, int]) -> None:
    roles, ids = cases.roles, cases.ids
    folded = np.array([str(i) in fold for i in ids], bool)
    wrong = (roles != "tune") & ~((roles == "train") & folded)
    if wrong.any():
        others = sorted({str(r) or "none" for r in roles[wrong]})
        in_sample = (
            "; readings of train cases by agents that were trained on them look perfect"
            if "train" in others
            else ""
        )
        raise UserError(
            f"competence is learned from role 'tune' only, but {wrong.sum()} of {len(cases)} "
            f"cases have another role: {', '.join(others)}{in_sample}",
            hint="pass the cases of role 'tune', or readings of agents trained without the case",
        )
    fold_of: dict[str, int] = {}
    split = 0
    for i in np.flatnonzero((roles == "train") & folded):
        group = str(cases.groups[i])
        if group:
            mine = fold[str(ids[i])]
            split += fold_of.setdefault(group, mine) != mine
    tuned = {str(g) for g in cases.groups[roles == "tune"] if g}
    split += len(tuned & fold_of.keys())
    if split:
        raise UserError(
            f"{split} train cases share a group with another fold or with tune, so the agents "
            "that read them have seen the like of them: those readings are in-sample",
            hint="make folds by group",
        )


def reviewed_responses(
    reviewed: Iterable[tuple[CaseRecord, str]], agents: Mapping[str, str]
) -> tuple[ResponseMatrix, tuple[str, ...], Mapping[str, int]]:
    """What serving agents had said of cases that a person has answered since.  Pure.

    Args:
        reviewed: records with the person's answer.
        agents: name → fingerprint of the agents that serve.

    Returns:
        The matrix (cases named by their records, truth from the person), the digest of each
        case's image, and why readings or cases were left out: reason → how many.
    """
    cases, contents, options, labels, said = [], [], [], [], []
    left_out: Counter[str] = Counter()
    for record, truth in reviewed:
        if truth not in record.options:
            left_out["an answer that is none of the options"] += 1
            continue
        own: list[Any] = []
        for name, fingerprint in agents.items():
            response = next((r for r in record.responses if r.agent == name), None)
            if response is not None and response.fingerprint != fingerprint:
                left_out["a reading of an earlier agent"] += 1
                response = None
            own.append(response)
        if not any(isinstance(r, Reading) for r in own):
            left_out["no reading of a serving agent"] += 1
            continue
        cases.append(record.case)
        contents.append(record.content)
        options.append(record.options)
        labels.append(truth)
        said.append(own)
    matrix = ResponseMatrix.from_responses(cases, list(agents), options, labels, said)
    return matrix, tuple(contents), dict(left_out)
