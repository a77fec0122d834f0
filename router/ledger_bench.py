"""How fast a ledger of many cases answers a worklist: first page, next page, counts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from curbside.router.ledger import open_ledger
from curbside.router.synthetic import fill
from curbside.router.worklist import View, count, page

__all__ = ["LedgerBench", "bench_ledger"]

VIEWS = {
    "all by urgency": View(),
    "waiting": View(waiting=True),
    "one status": View(status=("needs_review",)),
    "modality and tier": View(modality=("ct",), tier=("rare",)),
    "a flag": View(flags=("tag_disagreement",)),
    "text: an id": View(text="0-00012"),
    "text: two words": View(text="effusion generalist"),
    "by p-value": View(sort="p_value"),
    "latest first": View(sort="received", descending=True),
}


@dataclass(frozen=True)
class LedgerBench:
    """Milliseconds, median of the rounds: view → first page, page after it, counts."""

    cases: int
    rounds: int
    write_seconds: float
    views: dict[str, tuple[float, float, float]]

    @property
    def worst(self) -> float:
        """The slowest page and its counts together, milliseconds."""
        return max(first + counts for first, _, counts in self.views.values())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"worst_ms": self.worst}


def bench_ledger(n: int, *, rounds: int = 5) -> LedgerBench:
    """Fill a temporary ledger with n synthetic cases and ask each view some times."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder), "ledger.sqlite")
        start = time.perf_counter()
        fill(ledger, n)
        seconds = time.perf_counter() - start
        views = {}
        for name, view in VIEWS.items():
            after = page(ledger, view).after
            views[name] = (
                _milliseconds(partial(page, ledger, view), rounds),
                _milliseconds(partial(page, ledger, view, after=after), rounds),
                _milliseconds(partial(count, ledger, view), rounds),
            )
        ledger.close()
    return LedgerBench(n, rounds, seconds, views)


def _milliseconds(call: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)
