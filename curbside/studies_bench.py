"""How fast studies come in on this machine, and what hostile files cost."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curbside.intake import studies_in
from curbside.memory import resident_bytes
from curbside.phantom_attacks import ATTACKS, GOOD
from curbside.phantom_dicom import as_dicom
from curbside.study import Study

__all__ = ["Cost", "StudiesBench", "bench_studies", "most_memory"]


@dataclass(frozen=True)
class Cost:
    """What one hostile file costs: its size, its reason, seconds, bytes over the base."""

    size: int
    reason: str
    seconds: float
    memory: int


@dataclass(frozen=True)
class StudiesBench:
    """Results.

    Args:
        headers, frames: a second; frames of CT, 512 × 512.
        memory: most bytes over the base while the headers of the folder were read and grouped,
            of this process and its workers; 0 except on Linux.
        attacks: attack → :class:`Cost`.
    """

    headers: float
    frames: float
    memory: int
    attacks: dict[str, Cost]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def bench_studies(objects: int = 1000, frames: int = 100) -> StudiesBench:
    """Measure with warm workers: headers of a folder, frames of CT, each attack.

    Args:
        objects: in the folder, 25 to a study; frames: decoded one after the other.
    """
    small = np.zeros((16, 16), np.int16)
    list(studies_in(GOOD))
    with tempfile.TemporaryDirectory() as name:
        for k in range(objects):
            raw = as_dicom(small, study=1 + k // 25, number=k, position=float(k))
            (Path(name) / str(k)).write_bytes(raw)
        with most_memory() as most:
            started = time.perf_counter()
            found = sum(len(s.instances) for s in studies_in(name) if isinstance(s, Study))
            headers = found / (time.perf_counter() - started)
    noise = np.random.default_rng(0).integers(-1000, 1000, (512, 512)).astype(np.int16)
    instance = Study.from_dicom(as_dicom(noise, RescaleSlope=1, RescaleIntercept=0)).instances[0]
    instance.pixels()
    started = time.perf_counter()
    for _ in range(frames):
        instance.pixels()
    rate = frames / (time.perf_counter() - started)
    return StudiesBench(headers, rate, most[0], {name: _cost(name) for name in ATTACKS})


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """Yields a list of one number: the most resident bytes, of this process and its workers,
    over what they had at the start.  Linux only; elsewhere it stays 0.
    """
    base, most, done = resident_bytes(children=True), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            most[0] = max(most[0], resident_bytes(children=True) - base)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def _cost(name: str) -> Cost:
    make, _ = ATTACKS[name]
    raw = make()
    with most_memory() as most:
        started = time.perf_counter()
        (found,) = studies_in(raw)
        seconds = time.perf_counter() - started
    reason = "none" if isinstance(found, Study) else found.reason
    return Cost(len(raw), reason, seconds, most[0])
