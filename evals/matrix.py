"""The response matrix: every case read once by every agent, kept as Parquet, resumable.

One file an agent, named by what it depends on (images, questions, the agent's
fingerprint), written atomically: a run that is killed between two agents goes on with
the third.  Knows nothing of policies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curbside.agents.contract import Agent
from curbside.errors import InternalError, StorageError
from curbside.progress import bar
from curbside.readings import Abstention, Failure, Reading
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.study import Study, content_hash

__all__ = ["load_responses", "question_digest", "read_matrix", "save_responses"]

_BLOCK = 256
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
    asked = question_digest(studies, images)
    columns: dict[str, ResponseMatrix] = {}
    missing: list[tuple[str, Agent, Path]] = []
    for name, agent in agents.items():
        path = folder / f"{name}-{content_hash(asked, agent.card.fingerprint)[:16]}.parquet"
        stored = _stored(path)
        if stored is None:
            missing.append((name, agent, path))
        else:
            columns[name] = stored
    total = len(studies) * len(missing)
    if total >= _SHOW_FROM:
        with bar(label, total) as advance:
            for name, agent, path in missing:
                columns[name] = _read(name, agent, studies, labels, advance)
                save_responses(columns[name], path)
    else:
        for name, agent, path in missing:
            columns[name] = _read(name, agent, studies, labels, lambda _: None)
            save_responses(columns[name], path)
    ids = tuple(s.id for s in studies)
    return _join([columns[name] for name in agents], ids, tuple(agents), studies, labels)


def _read(
    name: str,
    agent: Agent,
    studies: Sequence[Study],
    labels: Sequence[str | None],
    advance: Any,
) -> ResponseMatrix:
    responses: list[Reading | Abstention | Failure] = []
    for start in range(0, len(studies), _BLOCK):
        block = studies[start : start + _BLOCK]
        said = agent.read_batch(block)
        if len(said) != len(block):
            raise InternalError(f"agent {name} gave {len(said)} responses to {len(block)} studies")
        responses += said
        advance(len(block))
    return ResponseMatrix.from_responses(
        [s.id for s in studies],
        [name],
        [s.question.options for s in studies],
        labels,
        [[r] for r in responses],
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
