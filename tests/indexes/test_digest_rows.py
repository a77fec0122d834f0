"""Rows by digest: the same as a dictionary would give, in a fraction of its memory."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbside.indexes.digest_rows import DigestRows, check_digests


def digest(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


#: Each step adds segments, or drops one (a number).
Steps = list[list[list[int]] | int]
segment = st.lists(st.integers(0, 15), max_size=6, unique=True)


@given(st.lists(st.lists(segment, max_size=3) | st.integers(0, 8), max_size=8))
def test_it_finds_what_a_dictionary_of_the_segments_would(steps: Steps) -> None:
    rows, model, number = DigestRows(), dict[int, list[int]](), 0
    for step in steps:
        if isinstance(step, int):
            rows.drop(step)
            model.pop(step, None)
            continue
        rows.add([(number + i, [digest(d) for d in held]) for i, held in enumerate(step)])
        model |= {number + i: held for i, held in enumerate(step)}
        number += len(step)
    expected = {digest(d): (n, i) for n, held in model.items() for i, d in enumerate(held)}
    assert {d: rows.find(d) for d in map(digest, range(16)) if rows.find(d)} == expected
    assert len(rows) == len(expected)
    assert {n: rows.of(n) for n in model} == {
        n: tuple(map(digest, held)) for n, held in model.items()
    }


def test_a_digest_that_ends_in_zero_bytes_is_one_of_its_own() -> None:
    one, other = "ab" + 62 * "0", "abcd" + 60 * "0"
    rows = DigestRows()
    rows.add([(0, [other, one])])
    assert (rows.find(one), rows.find(other)) == ((0, 1), (0, 0))
    assert rows.of(0) == (other, one)


@pytest.mark.parametrize("bad", ["", "ab", 64 * "A", 64 * "x", 62 * "a" + "  ", 66 * "a"])
def test_what_is_no_sha_256_is_refused_and_never_found(bad: str) -> None:
    rows = DigestRows()
    with pytest.raises(ValueError, match="hex"):
        rows.add([(0, [digest(1), bad])])
    with pytest.raises(ValueError, match="hex"):
        check_digests([bad])
    assert rows.find(bad) is None
    assert len(rows) == 0


def test_ten_thousand_rows_take_forty_bytes_each() -> None:
    rows = DigestRows()
    tracemalloc.start()
    try:
        for at in range(0, 10_240, 64):
            rows.add([(at // 64, [digest(i) for i in range(at, at + 64)])])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 48 * 10_240
    assert rows.find(digest(10_000)) == (10_000 // 64, 10_000 % 64)
