"""Rows by digest: the same as a dictionary would give, in a fraction of its memory."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.indexes.digest_rows import DigestRows, check_digests
from curbside.memory import resident_bytes


def digest(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


#: Each step adds a segment, or drops one (a number).
segment = st.lists(st.integers(0, 15), max_size=6, unique=True)


@settings(max_examples=50)
@given(st.lists(segment | st.integers(1, 8), max_size=12))
def test_it_finds_what_a_dictionary_of_the_segments_would(steps: list[list[int] | int]) -> None:
    rows, model = DigestRows(), dict[int, list[int]]()
    for i, step in enumerate(steps):
        if isinstance(step, int):
            rows.drop(step)
            model.pop(step, None)
            continue
        number = rows.add(f"name {i}", [digest(d) for d in step])
        assert number > max(model, default=0)
        model[number] = step
        assert rows.has(f"name {i}")
        assert rows.name(number) == f"name {i}"
    expected = {digest(d): (n, i) for n, held in model.items() for i, d in enumerate(held)}
    assert {d: rows.find(d) for d in map(digest, range(16)) if rows.find(d)} == expected
    assert len(rows) == len(expected)
    assert {n: rows.of(n) for n in model} == {
        n: tuple(map(digest, held)) for n, held in model.items()
    }
    few = sorted((len(held), n) for n, held in model.items() if len(held) < 3)
    assert rows.small(3) == [(n, size) for size, n in few]


def test_what_was_dropped_is_known_no_more_and_its_number_never_comes_again() -> None:
    rows = DigestRows()
    number = rows.add("a", [digest(1)])
    assert not rows.verified(number, "grid")
    rows.verify(number, "grid")
    rows.verify(number, "grid")
    assert rows.verified(number, "grid")
    assert not rows.verified(number, "pooled")
    rows.drop(number)
    assert not rows.has("a")
    assert not rows.verified(number, "grid")
    with pytest.raises(KeyError):
        rows.name(number)
    assert rows.add("a", [digest(1)]) > number


def test_a_digest_that_ends_in_zero_bytes_is_one_of_its_own() -> None:
    one, other = "ab" + 62 * "0", "abcd" + 60 * "0"
    rows = DigestRows()
    number = rows.add("a", [other, one])
    assert (rows.find(one), rows.find(other)) == ((number, 1), (number, 0))
    assert rows.of(number) == (other, one)


@pytest.mark.parametrize("bad", ["", "ab", 64 * "A", 64 * "x", 62 * "a" + "  ", 66 * "a"])
def test_what_is_no_sha_256_is_refused_and_never_found(bad: str) -> None:
    rows = DigestRows()
    with pytest.raises(ValueError, match="hex"):
        rows.add("a", [digest(1), bad])
    with pytest.raises(ValueError, match="hex"):
        check_digests([bad])
    assert rows.find(bad) is None
    assert len(rows) == 0


def test_many_rows_take_little_memory() -> None:
    rows = DigestRows()
    before = resident_bytes()
    numbers = [
        rows.add(f"{at}", [digest(i) for i in range(at, at + 512)])
        for at in range(0, 512 * 1000, 512)
    ]
    # three columns of arrays would be 20 MB, a dictionary 160
    assert resident_bytes() - before < 15 * 2**20
    assert rows.find(digest(200_000)) == (numbers[200_000 // 512], 200_000 % 512)
