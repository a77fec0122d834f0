"""How fast a batch is beside its encoder, what a single reading costs, and whether memory grows.

Runs on what is built in a home, with ledger and waiting cases in a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.config import Config
from curbside.errors import ImageError, UserError
from curbside.indexes.features import Features, FeatureSource
from curbside.memory import high_water_mib
from curbside.router.api import Router
from curbside.router.flow import decided
from curbside.router.workspace import Workspace
from curbside.study import Study, content_hash

__all__ = ["BatchBench", "bench_batch", "own_stores"]

_ENCODER_BATCH = 32


@dataclass(frozen=True)
class BatchBench:
    """Results.

    Args:
        decided: cases with features at hand, decided and explained.
        decide_rate: of these a second, and ``decide_cpu`` a second of this process's CPU time.
        network_rate: images a second of the network alone, decoded and resized before.
        encoder_rate: the same from files: decoded, resized, encoded.
        batch_rate: the same from files: also named, assessed, decided, explained.
        ratio: median over rounds of batch_rate / encoder_rate.
        read_p50, read_p95: ms of ``read`` beyond the agents' own time, features at hand.
        memory: cases decided in one stream so far → peak resident memory in MiB.
    """

    decided: int
    decide_rate: float
    decide_cpu: float
    images: int
    network_rate: float
    encoder_rate: float
    batch_rate: float
    ratio: float
    reads: int
    read_p50: float
    read_p95: float
    memory: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


class _Given(FeatureSource):
    """Features that are there already, some rows over and over: what a case costs beside them."""

    def __init__(self, source: FeatureSource, pooled: NDArray[np.float32]) -> None:
        super().__init__(source.encoder)
        self._pooled = pooled

    def of(self, studies: Sequence[Study], *, label: str = "", grid: bool = True) -> Features:
        rows = np.array([int(s.id) for s in studies]) % len(self._pooled)
        digests = tuple(content_hash(s.id) for s in studies)
        nothing: dict[int, ImageError] = {}
        return Features(
            self._pooled[rows], digests, MappingProxyType(nothing), self.encoder.fingerprint
        )


def own_stores(config: Config, folder: Path, *, cache: bool = False) -> Config:
    """The configuration with ledger, waiting cases and sources in a folder of their own.

    Args:
        cache: keep features there too.
    """
    names = ("ledger", "checkpoints", "sources")
    update = {name: str(folder / f"{name}.sqlite") for name in names}
    if cache:
        update["cache"] = str(folder / "cache")
    return config.model_copy(update={"stores": config.stores.model_copy(update=update)})


def bench_batch(
    home: Path,
    config: Config,
    *,
    cases: int,
    images: int,
    rounds: int = 3,
    memory: Sequence[int] = (),
) -> BatchBench:
    """Measure on what is built.

    Args:
        cases: decided with features at hand.
        images: built cases' images for the comparison with the encoder, and to read.
        memory: numbers of cases to decide in one stream each, smallest first.

    Raises:
        NotBuilt: nothing was built; UserError: its images are gone.
    """
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(home, own_stores(config, Path(folder)))
        router = Router(workspace)
        built = workspace.built_cases()
        studies = [c.study() for c in built if c.image.is_file()][:images]
        if not studies:
            raise UserError("the images of the built cases are gone", hint="curbside build")
        features = workspace.source.of(studies)
        given = router.desk_over(_Given(workspace.source, features.pooled[features.usable]))
        _count(decided(given, _numbered(256)))
        start, cpu = time.perf_counter(), time.process_time()
        _count(decided(given, _numbered(cases)))
        wall, used = time.perf_counter() - start, time.process_time() - cpu
        network, encoder, batch = _against_encoder(router, workspace.source, studies, rounds)
        beyond = _beyond_agents(router, studies)
        peaks = {}
        for n in memory:
            _count(decided(given, _numbered(n)))
            peaks[n] = high_water_mib()
        router.close()
    return BatchBench(
        decided=cases,
        decide_rate=cases / wall,
        decide_cpu=cases / used,
        images=len(studies),
        network_rate=median(network),
        encoder_rate=median(encoder),
        batch_rate=median(batch),
        ratio=median(b / e for b, e in zip(batch, encoder, strict=True)),
        reads=len(beyond),
        read_p50=float(np.percentile(beyond, 50)),
        read_p95=float(np.percentile(beyond, 95)),
        memory=peaks,
    )


def _against_encoder(
    router: Router, source: FeatureSource, studies: Sequence[Study], rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Images a second of the three, in turn; nothing is kept from one to the next."""
    encoder = source.encoder
    prepared = [encoder.prepare(s.instances[0].pixels()) for s in studies]

    def network() -> None:
        for at in range(0, len(prepared), _ENCODER_BATCH):
            encoder.encode(prepared[at : at + _ENCODER_BATCH])

    def alone() -> None:
        FeatureSource(encoder).of(studies)

    def whole() -> None:
        _count(decided(router.desk_over(FeatureSource(encoder)), studies))

    rates: list[list[float]] = [[], [], []]
    for _ in range(rounds + 1):
        for kept, work in zip(rates, (network, alone, whole), strict=True):
            start = time.perf_counter()
            work()
            kept.append(len(studies) / (time.perf_counter() - start))
    # the first round warms all
    return rates[0][1:], rates[1][1:], rates[2][1:]


def _beyond_agents(router: Router, studies: Iterable[Study]) -> list[float]:
    beyond = []
    for study in studies:
        start = time.perf_counter()
        record = router.read(study)
        wall = 1000 * (time.perf_counter() - start)
        agents = sum(getattr(r, "latency_ms", 0.0) for r in record.responses)
        beyond.append(wall - agents)
    return beyond


def _numbered(n: int) -> Iterator[Study]:
    return (Study.from_image(b"given", id=str(i)) for i in range(n))


def _count(blocks: Iterable[Sequence[Any]]) -> int:
    return sum(len(b) for b in blocks)
