"""Every study read by every agent, as one matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curbside.agents.contract import Agent
from curbside.progress import bar
from curbside.responses import ResponseMatrix
from curbside.study import Study

__all__ = ["read_all"]

_BLOCK = 256


def read_all(
    agents: Mapping[str, Agent],
    studies: Sequence[Study],
    labels: Sequence[str | None],
    label: str,
) -> ResponseMatrix:
    """Every study by every agent, with a progress bar; columns in the agents' order."""
    columns = []
    with bar(label, len(agents) * len(studies)) as advance:
        for agent in agents.values():
            said = []
            for start in range(0, len(studies), _BLOCK):
                block = studies[start : start + _BLOCK]
                said += agent.read_batch(block)
                advance(len(block))
            columns.append(said)
    return ResponseMatrix.from_responses(
        [s.id for s in studies],
        list(agents),
        [s.question.options for s in studies],
        labels,
        list(zip(*columns, strict=True)),
    )
