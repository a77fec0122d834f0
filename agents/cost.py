"""What an agent cost to build: labels, parameters, seconds, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from curbside.memory import forget_high_water, high_water_mib

__all__ = ["BuildCost", "Costed", "Meter", "metered"]


@dataclass(frozen=True)
class BuildCost:
    """Cost of building one agent.

    ``peak_mib`` is the greatest resident memory of the whole process while it was built.
    """

    labels: int
    trainable_parameters: int
    train_seconds: float
    peak_mib: float


@runtime_checkable
class Costed(Protocol):
    """An agent that knows what making it took, from the card beside its weights."""

    build_cost: BuildCost | None


@dataclass
class Meter:
    """Filled when the block of :func:`metered` ends."""

    seconds: float = 0.0
    peak_mib: float = 0.0


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure wall seconds and peak resident memory of a block."""
    meter = Meter()
    forget_high_water()
    started = time.perf_counter()
    yield meter
    meter.seconds = time.perf_counter() - started
    meter.peak_mib = high_water_mib()
