"""The frozen part that all embedded agents share, computed once for a study and kept.

An agent's inputs are the encoder's pooled features, means and deviations of three of its
grids (texture and contrast that the last layer has averaged away), and the grid from
which the upper blocks are fine-tuned.  Knows no question and no label.

There are two trunks, since agents that share one err alike: Lite0, which is the encoder,
and Lite2 at a higher resolution with hand-made descriptors, which runs only for the agents
that stand on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curbside.errors import ConfigError, ImageError
from curbside.indexes.encoder import Lite2Encoder, upper_part
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.lite0_graph import BLOCKS, DIMENSIONS, GRID, LITE0, LITE2, Network
from curbside.study import Study, content_hash

__all__ = [
    "FIRST_TUNED",
    "Inputs",
    "SecondTrunk",
    "Trunk",
    "trunk_parameters",
    "trunks_fingerprint",
    "trunks_of",
]

#: First block that agents run for themselves; what lies below is frozen and shared.
FIRST_TUNED = 14
#: Raise when the statistics or their order change.
_FORMAT = 1
_BLOCK = 64


@dataclass(frozen=True)
class Inputs:
    """What embedded agents see of n studies.

    Args:
        pooled: float32 (n, 1280), the encoder's features.
        statistics: float32 (n, s), mean and standard deviation over positions of the grids
            that enter blocks 11, 12 and 14.
        grid: float16 (n, c, h, w), the input of the first block that agents run for
            themselves; (192, 7, 7) on the encoder, (208, 9, 9) on the second trunk.
    """

    pooled: NDArray[np.float32]
    statistics: NDArray[np.float32]
    grid: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def fixed(self) -> NDArray[np.float32]:
        """float32 (n, 1280 + s): everything that no agent changes."""
        return np.concatenate([self.pooled, self.statistics], axis=1)

    def take(self, rows: NDArray[np.intp] | slice) -> Self:
        """The same for some rows."""
        return type(self)(self.pooled[rows], self.statistics[rows], self.grid[rows])


class Trunk:
    """Inputs of studies; the latest are kept, so that many agents share one computation.

    Args:
        source: features of the embedded encoder (lite0).
        memory: studies kept, 25 KB each.

    Raises:
        ConfigError: the source's encoder is not the one that embedded agents stand on.
    """

    name = "first"
    network: Network = LITE0
    #: First block that agents run for themselves; what lies below is frozen and shared.
    first_tuned = FIRST_TUNED

    def __init__(self, source: FeatureSource, *, memory: int = 4096) -> None:
        if source.encoder.grid_shape != GRID:
            raise ConfigError(
                "embedded agents stand on the grid of encoder.kind = 'lite0'; this encoder's "
                f"grid is {source.encoder.grid_shape}, not {GRID}",
                hint="set encoder.kind to lite0 in curbside.yaml, then: curbside config check",
            )
        # images run side by side elsewhere; here one thread leaves the other to them
        self._to_12, self._to_tuned = (
            upper_part(last=last, pooled=False, cache=source.folder, threads=1)
            for last in (11, FIRST_TUNED - 1)
        )
        self._keep(source, memory)

    def _keep(self, source: FeatureSource, memory: int) -> None:
        self.source = source
        kind = "trunk" if self.network is LITE0 else f"{self.name} trunk"
        self.fingerprint = content_hash(kind, source.fingerprint, f"{_FORMAT} {self.first_tuned}")
        self._kept: OrderedDict[str, Inputs] = OrderedDict()
        self._memory = memory
        self._lock = RLock()

    def of(self, studies: Sequence[Study]) -> tuple[Inputs, Mapping[int, ImageError]]:
        """Inputs of studies, and which of them failed (their rows are zeros)."""
        features = self.source.of(studies)
        with self._lock:
            have = {d: self._kept[d] for d in features.digests if d in self._kept}
        missing = {d: i for i, d in enumerate(features.digests) if d and d not in have}
        rows = np.fromiter(missing.values(), np.intp)
        for start in range(0, len(rows), _BLOCK):
            some = self.from_features(features, rows[start : start + _BLOCK])
            for j, row in enumerate(rows[start : start + _BLOCK]):
                have[features.digests[row]] = some.take(slice(j, j + 1))
        with self._lock:
            for digest in have:
                self._kept[digest] = have[digest]
                self._kept.move_to_end(digest)
            while len(self._kept) > self._memory:
                self._kept.popitem(last=False)
        nothing = self._zeros()
        parts = [have.get(d, nothing) for d in features.digests]
        if not parts:
            return nothing.take(slice(0, 0)), {}
        joined = Inputs(
            np.concatenate([p.pooled for p in parts]),
            np.concatenate([p.statistics for p in parts]),
            np.concatenate([p.grid for p in parts]),
        )
        return joined, features.failures

    def from_features(self, features: Features, rows: NDArray[np.intp]) -> Inputs:
        """Inputs of some rows of features that carry grids."""
        statistics, grids = [], []
        for start in range(0, len(rows), _BLOCK):
            lower = features.grid_rows(rows[start : start + _BLOCK])
            middle = self._to_12.run(lower)["grid"]
            upper = self._to_tuned.run(lower)["grid"]
            statistics.append(np.concatenate([_moments(g) for g in (lower, middle, upper)], 1))
            grids.append(upper)
        if not grids:
            return self._zeros().take(slice(0, 0))
        return Inputs(features.pooled[rows], np.concatenate(statistics), np.concatenate(grids))

    def _zeros(self) -> Inputs:
        return Inputs(
            np.zeros((1, self.source.dimensions), np.float32),
            np.zeros((1, 2 * (GRID[0] + 2 * 192)), np.float32),
            np.zeros((1, 192, 7, 7), np.float16),
        )


class SecondTrunk(Trunk):
    """The same of EfficientNet-Lite2, whose encoder gives all inputs in one pass.

    Its statistics are moments of three depths, then descriptors that no network made.

    Args:
        beside: where the encoder's features come from; this trunk's are cached in the same
            folder.  The network is opened with the first study that is not.
    """

    name = "second"
    network = LITE2
    first_tuned = LITE2.split + 1

    def __init__(self, beside: FeatureSource, *, memory: int = 4096) -> None:
        encoder = Lite2Encoder(cache=beside.folder, lazy=True)
        self._keep(FeatureSource(encoder, folder=beside.folder), memory)

    def from_features(self, features: Features, rows: NDArray[np.intp]) -> Inputs:
        """See :meth:`Trunk.from_features`."""
        pooled = features.pooled[rows]
        return Inputs(pooled[:, :DIMENSIONS], pooled[:, DIMENSIONS:], features.grid_rows(rows))

    def _zeros(self) -> Inputs:
        width = self.source.dimensions - DIMENSIONS
        return Inputs(
            np.zeros((1, DIMENSIONS), np.float32),
            np.zeros((1, width), np.float32),
            np.zeros((1, *LITE2.grid), np.float16),
        )


def trunks_of(source: FeatureSource) -> Mapping[str, Trunk]:
    """All trunks of a fleet by name, from where the encoder's features come.

    Raises:
        ConfigError: the source's encoder is not the one that embedded agents stand on.
    """
    return {t.name: t for t in (Trunk(source), SecondTrunk(source))}


def trunks_fingerprint(trunks: Mapping[str, Trunk]) -> str:
    """One fingerprint over all of them."""
    return content_hash("trunks", *(t.fingerprint for t in trunks.values()))


def _moments(grid: NDArray[np.float16]) -> NDArray[np.float32]:
    """float16 (n, c, h, w) to float32 (n, 2c): mean and standard deviation over positions."""
    values = grid.astype(np.float32)
    return np.concatenate([values.mean((2, 3)), values.std((2, 3))], axis=1)


def trunk_parameters() -> int:
    """Numbers of the frozen network that all embedded agents share, batch norms folded in."""
    stem = 3 * 9 * BLOCKS[0].channels_in + BLOCKS[0].channels_in
    head = BLOCKS[-1].channels_out * DIMENSIONS + DIMENSIONS
    total = stem + head
    for b in BLOCKS:
        wide = b.channels_in * b.expand
        if b.expand != 1:
            total += b.channels_in * wide + wide
        total += wide * b.kernel**2 + wide
        total += wide * b.channels_out + b.channels_out
    return total
