"""The response matrix says what was said, and survives its file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.errors import InternalError, StorageError
from curbside.readings import Abstention, Failure, Reading
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix, ResponseStatus

OPTIONS = (("x", "y"), ("p", "q", "r"), ())


def reading(agent: str, probabilities: tuple[float, ...], options: tuple[str, ...]) -> Reading:
    return Reading(
        agent=agent,
        fingerprint="f",
        options=options,
        probabilities=probabilities,
        confidence=max(probabilities, default=0.5),
        latency_ms=3,
        cost=2,
    )


def make() -> ResponseMatrix:
    return ResponseMatrix.from_responses(
        ["one", "two", "three"],
        ["a", "b"],
        OPTIONS,
        ["y", "p", None],
        [
            [reading("a", (0.2, 0.8), OPTIONS[0]), reading("b", (0.9, 0.1), OPTIONS[0])],
            [
                Abstention(agent="a", reason="no"),
                Failure(agent="b", kind="timeout", message="late"),
            ],
            [reading("a", (), ()), None],
        ],
    )


def same(a: ResponseMatrix, b: ResponseMatrix) -> None:
    for f in fields(ResponseMatrix):
        x, y = getattr(a, f.name), getattr(b, f.name)
        np.testing.assert_array_equal(x, y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)


def test_only_a_reading_can_be_right() -> None:
    m = make()
    assert m.read.tolist() == [[True, True], [False, False], [True, False]]
    assert m.correct.tolist() == [[True, False], [False, False], [False, False]]
    assert m.status[1].tolist() == [ResponseStatus.ABSTAINED, ResponseStatus.FAILED]
    assert m.status[2, 1] == ResponseStatus.NOT_ASKED
    assert np.isnan(m.confidence[1]).all()
    assert m.truth.tolist() == [1, 0, -1]
    assert m.n_options.tolist() == [2, 3, 0]
    assert len(m) == 3


def test_rows_and_agents_are_taken_in_the_order_given() -> None:
    m = make()
    turned = m.take(np.array([1, 0])).select(["b", "a"])
    assert turned.cases == ("two", "one")
    assert turned.agents == ("b", "a")
    assert turned.correct.tolist() == [[False, False], [False, True]]
    assert m.column("b") == 1
    with pytest.raises(InternalError, match="no agent 'c'"):
        m.select(["c"])


def test_a_wrong_shape_is_a_bug() -> None:
    m = make()
    with pytest.raises(InternalError, match="not 2 cases x 2 agents"):
        ResponseMatrix(**{f.name: getattr(m, f.name) for f in fields(m)} | {"cases": ("1", "2")})


def test_the_file_brings_it_back(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    save_responses(make(), path)
    same(load_responses(path), make())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_any_matrix_comes_back(
    tmp_path_factory: pytest.TempPathFactory, n: int, a: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n_options = rng.integers(0, k + 1, n).astype(np.int16)
    probabilities = rng.random((n, a, k)).astype(np.float32)
    probabilities *= np.arange(k) < n_options[:, None, None]
    m = ResponseMatrix(
        cases=tuple(f"c{i}" for i in range(n)),
        agents=tuple(f"a{i}" for i in range(a)),
        status=rng.integers(0, 4, (n, a)).astype(np.int8),
        probabilities=probabilities,
        n_options=n_options,
        truth=rng.integers(-1, 3, n).astype(np.int16),
        confidence=np.where(rng.random((n, a)) < 0.3, np.nan, rng.random((n, a))).astype("f4"),
        latency_ms=rng.random((n, a)).astype(np.float32),
        cost=rng.random((n, a)).astype(np.float32),
    )
    path = tmp_path_factory.mktemp("responses") / "r.parquet"
    save_responses(m, path)
    same(load_responses(path), m)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "rubbish"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "r.parquet"
    if damage != "missing":
        save_responses(make(), path)
        raw = path.read_bytes()
        path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "rubbish": b"x" * 99}[damage])
    with pytest.raises(StorageError, match=r"r\.parquet is no response matrix") as e:
        load_responses(path)
    assert "again" in e.value.hint


def test_another_table_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StorageError, match="no response matrix"):
        load_responses(path)
    save_responses(make(), path)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 3), path)
    with pytest.raises(StorageError, match="3 rows, not 3 x 2"):
        load_responses(path)
