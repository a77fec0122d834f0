"""Memory of this process, as the system counts it."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["forget_high_water", "high_water_mib", "resident_bytes"]


def resident_bytes(*, children: bool = False) -> int:
    """Resident memory now, with that of the processes it started if wanted; 0 except on Linux."""
    processes = [str(os.getpid())]
    pages = 0
    with suppress(OSError):
        if children:
            own = Path(f"/proc/self/task/{os.getpid()}/children")
            processes += own.read_text("ascii").split()
    for process in processes:
        with suppress(OSError):  # gone meanwhile
            pages += int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_high_water() -> None:
    """Let :func:`high_water_mib` count from now on; elsewhere than on Linux nothing happens."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def high_water_mib() -> float:
    """Greatest resident memory of this process; on Linux since it was last told to forget."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
