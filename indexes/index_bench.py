"""The index at scale: speed, memory, build time and fidelity on planted vectors.

Unit vectors in clusters of many widths stand in for projected features; so the projection is
switched off, and everything after it is what serves: search, vote, novelty, p-value,
competence.  A graph is compared with the exact index over the same vectors, and searched as
widely as it must be to serve, as in ``assess_fit.py``; else as widely as is tried.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.config import IndexConfig
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.exchange import REQUIRED, agreement
from curbside.indexes.novelty import fit_score
from curbside.indexes.projection import Projection
from curbside.indexes.rows import HeldOut, Indexed
from curbside.indexes.vectors import HNSW, WIDTHS, VectorIndex, kind_for
from curbside.memory import high_water_mib
from curbside.threads import one_blas_thread

__all__ = ["SizeBench", "bench_sizes", "planted"]

_MODALITIES, _CLUSTERS, _AGENTS, _OUTCOMES = 20, 200, 12, 1000
_NEIGHBOURS = 10


@dataclass(frozen=True)
class SizeBench:
    """What was measured at one size.

    Args:
        vectors, dimensions, kind, width: the index; width as in ``vectors.py``.
        build_s: building it from vectors.
        index_mib: its bytes as stored; process_mib: the whole process's peak so far.
        p50_ms, p99_ms: one case alone, from its vector to its assessment.
        rate: cases a second in one batch.
        agree: share of held-out cases decided as on the exact index; 1 for an exact one.
            Below :data:`~curbside.indexes.exchange.REQUIRED` such a graph may not serve.
        add_ms: a new index with 100 rows more.
    """

    vectors: int
    dimensions: int
    kind: str
    width: int
    build_s: float
    index_mib: float
    process_mib: float
    p50_ms: float
    p99_ms: float
    rate: float
    agree: float
    add_ms: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def planted(n: int, d: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Unit vectors, float32 (n, d), in 200 clusters, and the modality of each, in [0, 20).

    The clusters are the same for every seed; some are wide and overlap.
    """
    world = np.random.default_rng(0)
    centre = world.normal(size=(_CLUSTERS, d)).astype(np.float32)
    width = world.uniform(0.4, 1.6, _CLUSTERS).astype(np.float32)
    rng = np.random.default_rng([seed, n])
    of = rng.integers(0, _CLUSTERS, n)
    x = rng.standard_normal((n, d), np.float32)
    for start in range(0, n, 65_536):  # a million rows at once would need the memory twice
        rows = slice(start, start + 65_536)
        x[rows] = centre[of[rows]] + width[of[rows], None] * x[rows]
        x[rows] /= np.linalg.norm(x[rows], axis=1, keepdims=True)
    return x, np.asarray(of % _MODALITIES, np.intp)


def bench_sizes(
    sizes: Sequence[int],
    *,
    dimensions: int = 256,
    singles: int = 1000,
    batch: int = 6000,
    kind: str | None = None,
    done: Callable[[SizeBench], None] = lambda _: None,
) -> list[SizeBench]:
    """Measure each size in turn, smallest first; ``done`` is called after each."""
    out = []
    for n in sorted(sizes):
        out.append(_bench(n, dimensions, singles, batch, kind or kind_for(n, IndexConfig())))
        done(out[-1])
        gc.collect()
    return out


def _bench(n: int, d: int, singles: int, batch: int, kind: str) -> SizeBench:
    vectors, of = planted(n, d, seed=1)
    held_out, _ = planted(2000, d, seed=2)
    start = time.perf_counter()
    index = VectorIndex(vectors, kind=kind)
    build = time.perf_counter() - start
    modalities = np.char.add("m", of.astype(str))
    # the score is fitted on some: its cost does not depend on how many
    score = fit_score("mahalanobis", vectors[:20_000], modalities[:20_000])
    empty = np.zeros(0, np.float32)
    exact = Assessor(
        "planted",
        Projection("none", empty, empty.reshape(0, 0)),
        VectorIndex(vectors),
        Indexed(np.arange(n).astype(str), modalities, modalities),
        ("mahalanobis", score),
        _NEIGHBOURS,
    ).calibrated(HeldOut(held_out, 45))
    del vectors
    agents = tuple(f"agent-{i}" for i in range(_AGENTS))
    queries, _ = planted(max(singles, batch), d, seed=3)
    serving, agree = exact, 1.0
    if kind == HNSW:
        few = queries[:1000]
        decided = exact.assess(few)
        for width in WIDTHS:
            index = index.widened(width)
            serving = exact.on(index, exact.indexed).calibrated(HeldOut(held_out, 45))
            agree = agreement(decided, serving.assess(few))
            if agree >= REQUIRED:
                break
    serving = serving.bind(agents, {}, _competence(serving, agents, d))
    times = []
    with one_blas_thread():  # as the router assesses a case
        for i in range(20):
            serving.assess(queries[i : i + 1])
        for i in range(singles):
            start = time.perf_counter()
            serving.assess(queries[i : i + 1])
            times.append(1000 * (time.perf_counter() - start))
    start = time.perf_counter()
    serving.assess(queries[:batch])
    rate = batch / (time.perf_counter() - start)
    start = time.perf_counter()
    index.added(queries[:100])
    add = 1000 * (time.perf_counter() - start)
    return SizeBench(
        n,
        d,
        kind,
        index.width,
        round(build, 3),
        round(len(index.to_bytes()) / 2**20, 1),
        round(high_water_mib(), 1),
        round(float(np.percentile(times, 50)), 3),
        round(float(np.percentile(times, 99)), 3),
        round(rate, 1),
        agree,
        round(add, 1),
    )


def _competence(assessor: Assessor, agents: tuple[str, ...], d: int) -> Competence:
    x, of = planted(_OUTCOMES, d, seed=4)
    rng = np.random.default_rng(5)
    shape = (_OUTCOMES, len(agents))
    return Competence(
        assessor.fingerprint,
        agents,
        assessor.modalities,
        x,
        of,
        rng.random(shape) < 0.8,
        np.ones(shape, bool),
        temperature=0.1,
        within=16.0,
        between=16.0,
        usual=0.5,
    )
