"""What an agent cost to build: labels, parameters, seconds, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["BuildCost", "Costed", "Meter", "forget_high_water", "high_water_mib", "metered"]


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


def forget_high_water() -> None:
    """Let :func:`high_water_mib` count from now on; elsewhere than on Linux nothing happens."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def high_water_mib() -> float:
    """Greatest resident memory of this process; on Linux since it was last told to forget."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
