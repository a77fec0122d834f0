"""The benchmark of the index: what it plants, and that it measures both kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from curbside.cli import app
from curbside.errors import UserError
from curbside.indexes import index_bench
from curbside.indexes.index_bench import bench_sizes, planted
from curbside.indexes.vectors import FLAT, HNSW, WIDTHS


def test_planted_vectors_are_unit_and_the_same_each_time() -> None:
    x, of = planted(70_000, 8, seed=1)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert set(of.tolist()) == set(range(20))
    assert (planted(70_000, 8, seed=1)[0] == x).all()
    assert not (planted(70_000, 8, seed=2)[0] == x).any(axis=1).all()


def test_both_kinds_are_measured_smallest_first() -> None:
    seen: list[int] = []
    small, large = bench_sizes(
        [2000, 1000], dimensions=16, singles=5, batch=50, done=lambda b: seen.append(b.vectors)
    )
    assert seen == [small.vectors, large.vectors] == [1000, 2000]
    assert (small.kind, small.agree) == (FLAT, 1.0)
    (graph,) = bench_sizes([1000], dimensions=16, singles=5, batch=50, kind=HNSW)
    assert graph.agree >= 0.995
    assert graph.width in WIDTHS
    assert small.width == 0
    assert graph.index_mib > small.index_mib
    assert 0 < graph.p50_ms <= graph.p99_ms
    assert graph.rate > 0


def test_a_graph_is_searched_as_widely_as_it_must_be_to_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = iter([0.9, 0.994, 0.995])
    monkeypatch.setattr(index_bench, "agreement", lambda *_: next(said))
    (graph,) = bench_sizes([1000], dimensions=16, singles=5, batch=50, kind=HNSW)
    assert (graph.width, graph.agree) == (WIDTHS[2], 0.995)
    monkeypatch.setattr(index_bench, "agreement", lambda *_: 0.9)
    call = ["index", "bench", "--sizes", "1000", "--dimensions", "8", "--singles", "10"]
    printed = CliRunner().invoke(app, [*call, "--kind", "hnsw"], catch_exceptions=False).stdout
    assert f"1,000  hnsw  {WIDTHS[-1]:5}" in printed
    assert "may not serve" in printed


def test_the_command_prints_a_row_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["index", "bench", "--sizes", "1000", "--dimensions", "8", "--singles", "10"]
    printed = CliRunner().invoke(app, call, catch_exceptions=False).stdout
    assert "1,000  flat      0" in printed
    assert "may not serve" not in printed
    (row,) = CliRunner().invoke(app, [*call, "--json"], catch_exceptions=False).stdout.splitlines()
    assert json.loads(row)["vectors"] == 1000
    for bad in ("", "many", "10"):
        with pytest.raises(UserError, match="no list of numbers"):
            CliRunner().invoke(app, ["index", "bench", "--sizes", bad], catch_exceptions=False)
