"""Which tasks labelled cases pose, and with which options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["options_by_task", "tasks_by_modality"]


def options_by_task(offers: Iterable[tuple[str, Sequence[str]]]) -> dict[str, tuple[str, ...]]:
    """Task → every option that any of its cases offers, in the order of first appearance.

    Args:
        offers: a (task, options) a case; cases of one task may offer different ones.
    """
    options: dict[str, tuple[str, ...]] = {}
    for task, offered in offers:
        known = options.get(task, ())
        options[task] = known + tuple(o for o in offered if o not in known)
    return options


def tasks_by_modality(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Modality → its tasks, the commonest first, then by name.

    Args:
        pairs: a (modality, task) a case.
    """
    counts = Counter(pairs)
    tasks: dict[str, tuple[str, ...]] = {}
    for (modality, task), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        tasks[modality] = (*tasks.get(modality, ()), task)
    return tasks
