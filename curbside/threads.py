"""Matrix products on one thread, where they are small and other work waits for the cores.

A BLAS library splits even the product of 64 cases over all cores and spins until the last
part is done.  Beside an encoder that uses the cores, that takes many times the product.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401  its library must be loaded to be found
from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold the process's BLAS library to one thread, as a block or as a decorator.

    In the main thread alone: OpenBLAS takes the number of its threads from no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    # once: it reads through all libraries that are loaded
    return ThreadpoolController().select(threading_layer="pthreads")
