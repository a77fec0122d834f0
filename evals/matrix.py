"""The response matrix: every case read once by every agent, kept as Parquet, resumable.

One file an agent and seed (named by the agent's fingerprint, which covers its seed), and in
it a row a reading, named by what it depends on: study, question, image.  A cell that is
there is never read again: more cases are appended, fewer are picked out.  Files are written
atomically every few thousand readings, so a run that is killed goes on from there.  Knows
nothing of policies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from curbside.agents.contract import Agent
from curbside.errors import InternalError, StorageError
from curbside.progress import Advance, bar
from curbside.readings import Abstention, Failure, Reading
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.study import Study, content_hash

__all__ = ["load_responses", "question_digest", "read_matrix", "save_responses"]

_BLOCK = 256
#: Readings after which a column is written: a killed run loses at most so many.
_KEEP = 2048
#: Readings from which filling the matrix takes over two seconds and a bar is shown.
_SHOW_FROM = 500


def question_digest(studies: Sequence[Study], images: Sequence[str]) -> str:
    """Hash of what is asked: ids, questions and image contents, in order.

    Args:
        images: SHA-256 of each study's image, ``""`` where it cannot be read.
    """
    rows = [[s.id, s.question.key, d] for s, d in zip(studies, images, strict=True)]
    return content_hash(json.dumps(rows))


def read_matrix(
    agents: Mapping[str, Agent],
    studies: Sequence[Study],
    labels: Sequence[str | None],
    *,
    images: Sequence[str],
    folder: Path,
    label: str = "reading every case",
) -> ResponseMatrix:
    """Every study by every agent, from ``folder`` where it was read before.

    Args:
        agents: name → agent; columns of the result, in this order.
        labels: truth of each study, or None.
        images: SHA-256 of each study's image, as in :func:`question_digest`.
        folder: where the columns are kept, one Parquet file an agent.

    Raises:
        StorageError: a column cannot be written; those written earlier are whole.
        InternalError: an agent does not return one response a study.
    """
    keys = [
        content_hash(json.dumps([s.id, s.question.key, d]))
        for s, d in zip(studies, images, strict=True)
    ]
    columns = {
        name: _Column(folder / f"{name}-{content_hash(agent.card.fingerprint)[:16]}.parquet")
        for name, agent in agents.items()
    }
    todo = {name: columns[name].missing(keys) for name in agents}
    total = sum(len(rows) for rows in todo.values())
    with bar(label, total) if total >= _SHOW_FROM else nullcontext(lambda _: None) as advance:
        for name, rows in todo.items():
            for start in range(0, len(rows), _KEEP):
                some = rows[start : start + _KEEP]
                said = _read(name, agents[name], [studies[i] for i in some], advance)
                columns[name].append(
                    ResponseMatrix.from_responses(
                        [keys[i] for i in some],
                        [name],
                        [studies[i].question.options for i in some],
                        [labels[i] for i in some],
                        [[r] for r in said],
                    )
                )
    ids = tuple(s.id for s in studies)
    found = [columns[name].pick(name, keys) for name in agents]
    return _join(found, ids, tuple(agents), studies, labels)


class _Column:
    """What one agent has said so far; cases are named by study, question and image."""

    def __init__(self, path: Path) -> None:
        self._path, self._matrix = path, _stored(path)

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions of what it has not read."""
        there = set(self._matrix.cases) if self._matrix is not None else set()
        return [i for i, k in enumerate(keys) if k not in there]

    def append(self, more: ResponseMatrix) -> None:
        """Keep further readings.  Raises StorageError; what was kept before is unchanged."""
        whole = more if self._matrix is None else _below(self._matrix, more)
        save_responses(whole, self._path)
        self._matrix = whole

    def pick(self, name: str, keys: Sequence[str]) -> ResponseMatrix:
        """The readings of some cases, in order; all of them are there."""
        if self._matrix is None:
            return ResponseMatrix.from_responses([], [name], [], [], [])
        place = {k: i for i, k in enumerate(self._matrix.cases)}
        return self._matrix.take(np.array([place[k] for k in keys], np.intp))


def _read(
    name: str, agent: Agent, studies: Sequence[Study], advance: Advance
) -> list[Reading | Abstention | Failure]:
    responses: list[Reading | Abstention | Failure] = []
    for start in range(0, len(studies), _BLOCK):
        block = studies[start : start + _BLOCK]
        said = agent.read_batch(block)
        if len(said) != len(block):
            raise InternalError(f"agent {name} gave {len(said)} responses to {len(block)} studies")
        responses += said
        advance(len(block))
    return responses


def _below(first: ResponseMatrix, second: ResponseMatrix) -> ResponseMatrix:
    """More cases of the same agents, below the first ones."""
    k = max(first.probabilities.shape[2], second.probabilities.shape[2])

    def both(name: str) -> Any:
        parts = [getattr(first, name), getattr(second, name)]
        if name == "probabilities":
            parts = [np.pad(p, ((0, 0), (0, 0), (0, k - p.shape[2]))) for p in parts]
        return np.concatenate(parts)

    names = ("status", "probabilities", "n_options", "truth", "confidence", "latency_ms", "cost")
    return ResponseMatrix(
        (*first.cases, *second.cases), first.agents, **{name: both(name) for name in names}
    )


def _join(
    columns: Sequence[ResponseMatrix],
    ids: tuple[str, ...],
    agents: tuple[str, ...],
    studies: Sequence[Study],
    labels: Sequence[str | None],
) -> ResponseMatrix:
    empty = ResponseMatrix.from_responses(
        ids, [], [s.question.options for s in studies], labels, [[] for _ in studies]
    )
    k = max((c.probabilities.shape[2] for c in [*columns, empty]), default=0)
    if not columns:
        return empty

    def wide(c: ResponseMatrix) -> Any:
        return np.pad(c.probabilities, ((0, 0), (0, 0), (0, k - c.probabilities.shape[2])))

    return ResponseMatrix(
        ids,
        agents,
        np.concatenate([c.status for c in columns], 1),
        np.concatenate([wide(c) for c in columns], 1),
        empty.n_options,
        empty.truth,
        np.concatenate([c.confidence for c in columns], 1),
        np.concatenate([c.latency_ms for c in columns], 1),
        np.concatenate([c.cost for c in columns], 1),
    )


def _stored(path: Path) -> ResponseMatrix | None:
    """A column read earlier; one that cannot be read back is read from the agent again."""
    if not path.is_file():
        return None
    try:
        return load_responses(path)
    except StorageError:
        return None
