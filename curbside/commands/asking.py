"""The question that commands ask, from their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curbside.study import Question

__all__ = ["asked"]


def asked(tasks: Mapping[str, Sequence[str]], question: str, options: str, task: str) -> Question:
    """The question of ``--question``, ``--options`` and ``--task``.

    Raises:
        UserError: fewer than two different options, or a task that the fleet does not know.
    """
    from curbside.errors import UserError
    from curbside.study import Question

    choices = tuple(o.strip() for o in options.split("|")) if options else ()
    if choices and (len(choices) < 2 or "" in choices or len(set(choices)) < len(choices)):
        raise UserError(
            f"--options {options!r} must hold at least two different answers joined by '|'",
            hint="for example: --options 'normal|abnormal'",
        )
    if task and task not in tasks:
        raise UserError(
            f"--task {task!r} is unknown; known tasks: {', '.join(sorted(tasks))}",
            hint="leave --task out, or give --options",
        )
    return Question(options=choices or tuple(tasks.get(task, ())), text=question, task=task or None)
