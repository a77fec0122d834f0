"""Search: exact or by a graph, with rows added and taken out while others go on searching."""

from __future__ import annotations

import subprocess
import sys
import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curbside.config import IndexConfig
from curbside.errors import IndexCorrupt, InternalError
from curbside.indexes.vectors import FLAT, HNSW, VectorIndex, kind_for


def unit(n: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(n, d))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def test_the_rule_is_flat_to_ten_thousand_and_can_be_overridden() -> None:
    auto = IndexConfig()
    assert [kind_for(n, auto) for n in (1, 10_000, 10_001)] == [FLAT, FLAT, HNSW]
    assert kind_for(300, IndexConfig(flat_up_to=200)) == HNSW
    assert kind_for(10**6, IndexConfig(kind="flat")) == FLAT
    assert kind_for(3, IndexConfig(kind="hnsw")) == HNSW


@pytest.mark.parametrize("kind", [FLAT, HNSW])
def test_search_is_nearest_first(kind: str) -> None:
    x, q = unit(200, 8), unit(40, 8, seed=1)
    rows, cosine = VectorIndex(x, kind=kind).search(q, 7)
    expected = np.argsort(-(q @ x.T), axis=1)[:, :7]
    assert (rows == expected).all()  # so small a graph finds all of them
    np.testing.assert_allclose(cosine, np.take_along_axis(q @ x.T, expected, 1), atol=1e-6)
    assert rows.dtype == np.int64
    assert cosine.dtype == np.float32


@pytest.mark.parametrize("kind", [FLAT, HNSW])
def test_no_more_neighbours_than_there_are(kind: str) -> None:
    index = VectorIndex(unit(5, 4), kind=kind).without(np.array([0, 3]))
    rows, cosine = index.search(unit(2, 4, seed=1), 10)
    assert rows.shape == cosine.shape == (2, 3)
    assert set(rows.ravel().tolist()) == {1, 2, 4}


def test_a_graph_gives_a_case_alone_what_it_gives_it_in_a_batch() -> None:
    index, q = VectorIndex(unit(2000, 16), kind=HNSW), unit(64, 16, seed=3)
    together = index.search(q, 5)
    padded = np.concatenate([q[:1], np.zeros((31, 16), np.float32)])
    alone = index.search(padded, 5, real=1)
    assert (alone[0][0] == together[0][0]).all()
    assert (alone[1][0] == together[1][0]).all()


@pytest.mark.parametrize("kind", [FLAT, HNSW])
def test_equal_vectors_give_equal_bytes_and_bytes_give_the_index_back(kind: str) -> None:
    a, b = (VectorIndex(unit(300, 5), kind=kind).widened(128) for _ in range(2))
    assert a.to_bytes() == b.to_bytes()
    live = np.arange(300) != 7
    again = VectorIndex.from_bytes(a.to_bytes(), live=live)
    assert (again.kind, len(again), again.alive, again.dimensions) == (kind, 300, 299, 5)
    assert again.width == a.width == (0 if kind == FLAT else 128)
    assert (again.vectors() == unit(300, 5)).all()
    assert 7 not in again.search(unit(300, 5)[7:8], 3)[0]
    assert again.describe == a.without(np.array([7])).describe != a.describe


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from([FLAT, HNSW]))
def test_adding_taking_out_and_compacting_find_what_a_fresh_index_finds(
    data: st.DataObject, kind: str
) -> None:
    n, more = data.draw(st.integers(2, 40)), data.draw(st.integers(0, 20))
    x, q = unit(n + more, 6, seed=n), unit(5, 6, seed=99)
    gone = data.draw(st.sets(st.integers(0, n + more - 1), max_size=n + more - 1))
    index = VectorIndex(x[:n], kind=kind)
    if more:
        index = index.added(x[n:])
    index = index.without(np.array(sorted(gone), np.intp))
    left = np.array([i for i in range(n + more) if i not in gone])
    fresh = VectorIndex(x[left])
    rows, cosine = index.search(q, 4)
    expected, theirs = fresh.search(q, 4)
    assert (rows == left[expected]).all()
    np.testing.assert_allclose(cosine, theirs, atol=1e-6)
    compact, kept = index.compacted()
    assert (kept == left).all()
    assert compact.alive == len(compact) == len(left)
    assert (compact.search(q, 4)[0] == expected).all()


def test_readers_of_the_old_index_see_no_change_under_load() -> None:
    x, q = unit(1500, 16), unit(8, 16, seed=1)
    serving = [VectorIndex(x, kind=HNSW)]
    expected = serving[0].search(q, 5)[0]
    wrong: list[str] = []
    stop = threading.Event()

    def read() -> None:
        old = serving[0]
        while not stop.is_set():
            if not (old.search(q, 5)[0] == expected).all():
                wrong.append("the old index changed")
            if serving[0].search(q, 5)[0].shape != (8, 5):
                wrong.append("a query failed")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for r in readers:
        r.start()
    for step in range(6):
        serving[0] = serving[0].added(unit(50, 16, seed=step)).without(np.array([step]))
    stop.set()
    for r in readers:
        r.join()
    assert wrong == []
    assert serving[0].alive == 1500 + 6 * 50 - 6


def test_the_same_vectors_in_the_other_kind() -> None:
    flat = VectorIndex(unit(100, 8)).without(np.array([4]))
    graph = flat.as_kind(HNSW)
    assert graph.kind == HNSW
    assert (graph.live == flat.live).all()
    q = unit(10, 8, seed=2)
    assert (graph.search(q, 3)[0] == flat.search(q, 3)[0]).all()
    assert flat.widened(512) is flat


def test_bytes_of_another_index_are_refused() -> None:
    flat = faiss.IndexFlatL2(4)
    flat.add(unit(3, 4))
    for index in (flat, faiss.IndexHNSWFlat(4, 2)):
        with pytest.raises(IndexCorrupt, match="no cosine index"):
            VectorIndex.from_bytes(faiss.serialize_index(index).tobytes())
    with pytest.raises(IndexCorrupt, match="cannot be read"):
        VectorIndex.from_bytes(b"nonsense")
    with pytest.raises(IndexCorrupt, match="of another index"):
        VectorIndex.from_bytes(VectorIndex(unit(3, 4)).to_bytes(), live=np.ones(4, bool))


def test_an_index_of_nothing_is_refused() -> None:
    with pytest.raises(InternalError, match="n ≥ 1"):
        VectorIndex(np.zeros((0, 4), np.float32))
    with pytest.raises(InternalError, match="last vector"):
        VectorIndex(unit(2, 4)).without(np.array([0, 1]))
    with pytest.raises(InternalError, match="no index kind"):
        VectorIndex(unit(2, 4), kind="ivf")


@pytest.mark.parametrize("first", ["torch, faiss", "faiss, torch"])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_torch_keeps_its_threads(first: str, kind: str) -> None:
    """Imported first, torch shares its OpenMP with FAISS: a search must not leave it on one."""
    code = f"""
import {first}
import numpy as np
from curbside.indexes.vectors import VectorIndex
rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
torch.set_num_threads(3)
print(torch.get_num_threads())  # the first time it sets them
index = VectorIndex(rows, kind="{kind}")
for n in (1, 64):
    index.search(rows[:n], 5)
index.added(rows[:3]).search(rows[:1], 5)
print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3"]
