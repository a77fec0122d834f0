"""Whether ``curbside batch`` on a folder grows with it: resident memory by cases done.

The very functions of the command on small pictures of noise, in a temporary folder, with ledger,
parts and feature cache beside them; the home that it runs on is not written to.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from curbside.config import Config
from curbside.errors import InternalError
from curbside.memory import resident_bytes
from curbside.progress import Show
from curbside.router.api import Router
from curbside.router.batch import incoming, run_batch
from curbside.router.batch_bench import own_stores
from curbside.router.workspace import Workspace
from curbside.study import Question

__all__ = ["FolderBench", "bench_folder"]

_MEBI = 2.0**20


@dataclass(frozen=True)
class FolderBench:
    """Results.

    Args:
        memory: cases done → resident memory of the process then, MiB, without its decoders;
            0 where the system does not say (only Linux does).
        rate: cases a second over the whole run.
    """

    memory: dict[int, float]
    rate: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def bench_folder(
    home: Path, config: Config, *, sizes: Sequence[int], show: Show = lambda n, note: None
) -> FolderBench:
    """Read a folder of as many distinct files as the largest size.

    Takes about 50 kB of the temporary folder a case, most of it features.

    Args:
        sizes: numbers of cases done after which memory is looked at.
        show: called as cases are done.

    Raises:
        NotBuilt: nothing was built in the home.
    """
    wanted, done = set(sizes), 0
    memory: dict[int, float] = {}

    def look(n: int, note: str) -> None:
        nonlocal done
        for _ in range(n):
            done += 1
            if done in wanted:
                memory[done] = resident_bytes() / _MEBI
        show(n, note)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw(folder / "images", max(sizes))
        moved = own_stores(config, folder, cache=True)
        with closing(Router(Workspace(home, moved))) as router:
            given = incoming(folder / "images", Question(), config.privacy.allowed_tags)
            start = time.perf_counter()
            summary = run_batch(router, given, folder / "out", show=look)
            seconds = time.perf_counter() - start
    if summary.cases != max(sizes):
        raise InternalError(f"{summary.cases} of {max(sizes)} files came out of the batch")
    return FolderBench(memory, summary.cases / seconds)


def _draw(folder: Path, n: int) -> None:
    """n distinct PNG files of 32 × 32."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        noise = rng.integers(0, 256, (8, 8, 3), np.uint8)
        picture = Image.fromarray(noise).resize((32, 32))
        picture.save(folder / f"{i:08d}.png", compress_level=1)
