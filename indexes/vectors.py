"""Cosine search over unit vectors: exact up to a stated size, a graph above it.

``flat`` compares with every vector; ``hnsw`` walks a navigable small-world graph (Malkov &
Yashunin 2018).  An index is never changed in place: adding, taking out and compacting give
a new one, and whoever searches the old one goes on undisturbed.  Rows taken out are
*tombstones*: they keep their number and are never found.  Knows no case and no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from curbside.config import IndexConfig
from curbside.errors import IndexCorrupt, InternalError

__all__ = ["FLAT", "HNSW", "WIDTHS", "VectorIndex", "kind_for"]

FLAT, HNSW = "flat", "hnsw"
#: At run time its classes take arrays and keywords, which its own types do not know.
_FAISS: Any = faiss
#: Candidates kept during a search of the graph, in the order in which they are tried.
WIDTHS = (64, 128, 256, 512, 1024)
_LINKS, _BUILD_WIDTH = 32, 80
_REBUILD = "curbside build"
#: What OMP_NUM_THREADS says, else the machine's cores; read before anything sets it.
_THREADS = int(faiss.omp_get_max_threads())
#: Queries from which threads pay: starting them costs more than a single query does.
_THREADED_FROM = 32


def kind_for(n: int, config: IndexConfig) -> str:
    """``flat`` up to ``index.flat_up_to`` vectors, else ``hnsw``; or what ``index.kind`` says."""
    if config.kind != "auto":
        return config.kind
    return FLAT if n <= config.flat_up_to else HNSW


class VectorIndex:
    """Cosine search over unit vectors.

    Args:
        vectors: float32 (n, d), rows of length 1; n ≥ 1.
        kind: ``flat`` or ``hnsw``.

    Attributes:
        kind: ``flat`` or ``hnsw``.
        live: bool (n,), False for tombstones.
    """

    def __init__(self, vectors: NDArray[np.float32], *, kind: str = FLAT) -> None:
        if vectors.ndim != 2 or not len(vectors):
            raise InternalError(f"an index needs vectors (n ≥ 1, d), not {vectors.shape}")
        if kind not in (FLAT, HNSW):
            raise InternalError(f"no index kind {kind!r}; there are {FLAT}, {HNSW}")
        d = vectors.shape[1]
        if kind == FLAT:
            index: Any = faiss.IndexFlatIP(d)
        else:
            index = faiss.IndexHNSWFlat(d, _LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _BUILD_WIDTH
            index.hnsw.efSearch = WIDTHS[0]
        _add(index, vectors)
        self._hold(kind, index, np.ones(len(vectors), bool))

    def _hold(self, kind: str, index: Any, live: NDArray[np.bool_]) -> None:
        self.kind, self._index, self.live = kind, index, live
        self._alive = int(live.sum())
        self._only = None
        if self._alive < len(live):
            self._only = _FAISS.IDSelectorBitmap(np.packbits(live, bitorder="little"))

    @classmethod
    def _of(cls, kind: str, index: Any, live: NDArray[np.bool_]) -> VectorIndex:
        new = cls.__new__(cls)
        new._hold(kind, index, live)
        return new

    def __len__(self) -> int:
        """Rows, tombstones too."""
        return int(self._index.ntotal)

    @property
    def alive(self) -> int:
        """Rows that can be found."""
        return self._alive

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self._index.d)

    @property
    def width(self) -> int:
        """Candidates kept during a search of the graph; 0 for an exact index."""
        return 0 if self.kind == FLAT else int(self._index.hnsw.efSearch)

    def search(
        self, queries: NDArray[np.float32], k: int, *, real: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the k most similar vectors, nearest first, and their cosines.

        Args:
            queries: float32 (m, d), unit vectors.
            k: at most as many are returned as are alive.
            real: only the first so many queries matter; what the others get means nothing.

        Returns:
            int64 (m, min(k, alive)) and float32 (m, min(k, alive)).
        """
        k, x = min(k, self._alive), np.ascontiguousarray(queries, np.float32)
        if self.kind == FLAT:
            # one thread, and padding searched too: a case gets the same bits alone and in a batch
            found, rows = self._exact(x, k)
        else:
            n = len(x) if real is None else real
            found, rows = np.zeros((len(x), k), np.float32), np.zeros((len(x), k), np.int64)
            parameters = _parameters(HNSW, self._only, max(self.width, k))
            with _threads(1 if n < _THREADED_FROM else _THREADS):
                found[:n], rows[:n] = self._index.search(x[:n], k, params=parameters)
            short = np.flatnonzero((rows < 0).any(axis=1))
            if len(short):  # the graph led to fewer than k that are alive
                found[short], rows[short] = self._exact(x[short], k)
        return rows.astype(np.int64, copy=False), found

    def _exact(self, queries: NDArray[np.float32], k: int) -> Any:
        flat = self._index if self.kind == FLAT else faiss.downcast_index(self._index.storage)
        with _threads(1):
            if self._only is None:
                return flat.search(queries, k)
            return flat.search(queries, k, params=_parameters(FLAT, self._only))

    # -- another index of it ----------------------------------------------------------------

    def added(self, vectors: NDArray[np.float32]) -> VectorIndex:
        """A new index with these rows, float32 (m, d), after the ones there are."""
        index = faiss.clone_index(self._index)
        _add(index, vectors)
        return self._of(self.kind, index, np.append(self.live, np.ones(len(vectors), bool)))

    def without(self, rows: NDArray[np.integer[Any]]) -> VectorIndex:
        """A new index in which these rows are tombstones; it shares the vectors.

        Raises:
            InternalError: none would be left.
        """
        live = self.live.copy()
        live[rows] = False
        if not live.any():
            raise InternalError("an index cannot lose its last vector")
        return self._of(self.kind, self._index, live)

    def compacted(self) -> tuple[VectorIndex, NDArray[np.intp]]:
        """A new index without tombstones, and the old row of each new one, intp (alive,)."""
        rows = np.flatnonzero(self.live)
        new = VectorIndex(self.vectors()[rows], kind=self.kind)
        return new.widened(self.width), rows

    def as_kind(self, kind: str) -> VectorIndex:
        """The same rows and tombstones in an index of another kind."""
        new = VectorIndex(self.vectors(), kind=kind)
        return self._of(kind, new._index, self.live)

    def widened(self, width: int) -> VectorIndex:
        """The same graph searched with this many candidates; an exact index as it is."""
        if self.kind == FLAT:
            return self
        index: Any = faiss.clone_index(self._index)
        index.hnsw.efSearch = width
        return self._of(self.kind, index, self.live)

    # -- keeping ----------------------------------------------------------------------------

    def vectors(self) -> NDArray[np.float32]:
        """What is indexed, tombstones too, float32 (n, d)."""
        out: NDArray[np.float32] = self._index.reconstruct_n(0, len(self))
        return out

    @property
    def describe(self) -> str:
        """Kind, width and tombstones: with the vectors, all that a search depends on."""
        return f"{self.kind} {self.width} {np.packbits(self.live).tobytes().hex()}"

    def to_bytes(self) -> bytes:
        """FAISS's own serialisation; tombstones (:attr:`live`) are kept apart."""
        return bytes(faiss.serialize_index(self._index).tobytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, live: NDArray[np.bool_] | None = None) -> VectorIndex:
        """From bytes that were verified.

        Raises:
            IndexCorrupt: they are no cosine index of a known kind, or ``live`` does not fit.
        """
        try:
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as e:
            raise IndexCorrupt("the vector index cannot be read", hint=_REBUILD) from e
        kinds: dict[str, Callable[[Any], bool]] = {
            FLAT: lambda i: isinstance(i, faiss.IndexFlat),
            HNSW: lambda i: isinstance(i, faiss.IndexHNSWFlat),
        }
        kind = next((name for name, fits in kinds.items() if fits(index)), None)
        if kind is None or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise IndexCorrupt("the vector index is no cosine index (flat, hnsw)", hint=_REBUILD)
        alive = np.ones(index.ntotal, bool) if live is None else live
        if alive.shape != (index.ntotal,) or not alive.any():
            raise IndexCorrupt("the index's tombstones are of another index", hint=_REBUILD)
        return cls._of(kind, index, alive)


def _parameters(kind: str, only: Any, width: int = 0) -> Any:
    if kind == FLAT:
        return _FAISS.SearchParameters(sel=only)
    return _FAISS.SearchParametersHNSW(sel=only, efSearch=width)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """FAISS on so many threads, and then as before.

    Where torch was imported first, FAISS takes torch's own OpenMP: what is set for one is set for
    the other, and models in this thread would compute on one thread from the first search on.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _add(index: Any, vectors: NDArray[np.float32]) -> None:
    # one thread: the order of insertion makes the graph, and equal vectors must give equal bytes
    with _threads(1):
        index.add(np.ascontiguousarray(vectors, np.float32))
