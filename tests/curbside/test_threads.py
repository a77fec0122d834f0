"""BLAS is held to one thread while a block is under way, and put back after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from curbside.threads import one_blas_thread


def threads() -> set[int]:
    np.zeros((2, 2)) @ np.zeros((2, 2))
    found = threadpool_info()
    return {i["num_threads"] for i in found if i.get("threading_layer") == "pthreads"}


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    with threadpool_limits(3, user_api="blas"):
        yield


def test_held_nested_and_put_back() -> None:
    before = threads()
    assert before == {3}
    with one_blas_thread():
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == before


def test_put_back_after_an_error_and_as_a_decorator() -> None:
    @one_blas_thread()
    def fails() -> None:
        assert threads() == {1}
        raise ValueError("on purpose")

    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            fails()
        assert threads() == {3}


def test_another_thread_changes_nothing() -> None:
    seen: list[set[int]] = []

    def other() -> None:
        with one_blas_thread():
            seen.append(threads())

    for held in (False, True):
        with one_blas_thread() if held else nullcontext():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
    assert seen == [{3}, {1}]
    assert threads() == {3}
