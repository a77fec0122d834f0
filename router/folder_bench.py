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
from numpy.typing import NDArray
from PIL import Image

from curbside.config import Config
from curbside.errors import InternalError
from curbside.indexes.encoder import Encoded, ImageEncoder
from curbside.indexes.features import FeatureSource
from curbside.memory import resident_bytes
from curbside.progress import Show
from curbside.router.api import Router
from curbside.router.batch import incoming, run_batch
from curbside.router.batch_bench import own_stores
from curbside.router.workspace import Workspace
from curbside.study import Question

__all__ = ["FolderBench", "Repeated", "bench_folder"]

_MEBI = 2.0**20
#: Images whose features :class:`Repeated` gives.
_LOOKED_AT = 64


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


class Repeated:
    """An encoder that looks at :data:`_LOOKED_AT` images, and gives others their features again.

    Scaled by some percent, so that no two images have the same: what follows the encoder does what
    it does for real ones, in a tenth of the time.  Keeps to
    :class:`curbside.indexes.encoder.ImageEncoder`.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self.fingerprint, self.dimensions = encoder.fingerprint, encoder.dimensions
        self.grid_shape = encoder.grid_shape
        self._rng = np.random.default_rng(0)
        self._known = self._first()

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As the encoder does."""
        return self._encoder.prepare(image)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """Features of images that were looked at at the start, whatever these are."""
        at = self._rng.integers(0, _LOOKED_AT, len(images))
        grid = None if self._known.grid is None else self._scaled(self._known.grid[at])
        return Encoded(self._scaled(self._known.pooled[at]), grid)

    def _first(self) -> Encoded:
        noise = self._rng.integers(0, 256, (_LOOKED_AT, 32, 32, 3), np.uint8)
        return self._encoder.encode(list(noise))

    def _scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        factors = 1 + 0.01 * self._rng.standard_normal((len(values), *[1] * (values.ndim - 1)))
        return (values * factors).astype(values.dtype)


def bench_folder(
    home: Path,
    config: Config,
    *,
    sizes: Sequence[int],
    repeated: bool = False,
    show: Show = lambda n, note: None,
) -> FolderBench:
    """Read a folder of as many distinct files as the largest size.

    Takes about 50 kB of the temporary folder a case, most of it features.

    Args:
        sizes: numbers of cases done after which memory is looked at.
        repeated: with :class:`Repeated` instead of the encoder, for long runs.
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
        workspace = Workspace(home, moved)
        if repeated:
            source = workspace.source
            workspace.source = FeatureSource(Repeated(source.encoder), folder=source.folder)
        with closing(Router(workspace)) as router:
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
