"""Few-shot draws: at most k a label, the same for every agent, from the seed alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.agents.examples import Examples

ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "é z"])), max_size=60)


def examples(rows: list[tuple[str, str]]) -> Examples:
    tasks = np.array([t for t, _ in rows], np.str_)
    return Examples(
        np.arange(len(rows)),
        np.array([f"{i:04x}" for i in range(len(rows))], np.str_),
        np.array([f"modality-{t}" for t, _ in rows], np.str_),
        tasks,
        np.array([label for _, label in rows], np.str_),
        dict.fromkeys(set(tasks.tolist()), ("x", "y", "é z")),
    )


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 8), st.integers(0, 2**31))
def test_at_most_so_many_of_each(rows: list[tuple[str, str]], shots: int, seed: int) -> None:
    every = examples(rows)
    few = every.few(shots, seed=seed)
    counts = Counter(zip(few.tasks.tolist(), few.labels.tolist(), strict=True))
    assert counts == {k: min(n, shots) for k, n in Counter(rows).items()}
    assert (np.diff(few.rows) > 0).all()
    for i, row in enumerate(few.rows):
        assert (few.tasks[i], few.labels[i]) == rows[row]
        assert few.digests[i] == every.digests[row]
    assert set(few.options) == set(few.tasks.tolist())
    again = every.few(shots, seed=seed)
    assert again.rows.tolist() == few.rows.tolist()


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 8), st.integers(0, 2**31), st.sampled_from("abc"))
def test_agents_share_a_draw(rows: list[tuple[str, str]], shots: int, seed: int, task: str) -> None:
    """Drawing from one task's cases alone gives the cases that drawing from all gives it."""
    every = examples(rows)
    alone = every.take(every.tasks == task).few(shots, seed=seed)
    few = every.few(shots, seed=seed)
    assert alone.rows.tolist() == few.rows[few.tasks == task].tolist()
    # more shots keep the draws of fewer
    assert set(few.rows.tolist()) <= set(every.few(shots + 3, seed=seed).rows.tolist())


def test_seeds_draw_differently() -> None:
    every = examples([("a", "x")] * 50)
    draws = {tuple(every.few(5, seed=s).rows.tolist()) for s in range(8)}
    assert len(draws) == 8


def test_nothing_to_draw_from() -> None:
    assert len(examples([]).few(4, seed=0)) == 0
