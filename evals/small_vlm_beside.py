"""Parts of a run beside each other: each in a process of its own, which computes on one thread.

On a few cores two trainings of one thread each get done sooner than one of two threads after
the other, and what a part makes does not depend on how many run beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING

from curbside.errors import BackendError

if TYPE_CHECKING:
    from curbside.evals.small_vlm_run import Part, Run

__all__ = ["make_parts"]

#: The run of this process.
_own: list[Run] = []


def make_parts(open_run: Callable[[], Run], parts: Sequence[Part], workers: int) -> None:
    """Make parts; each begins when the one that it needs is there.

    Args:
        open_run: gives the run in a new process; a function that pickle knows.
        parts: as they should begin, as far as that is possible.
        workers: processes.

    Raises:
        BackendError: a process was killed, or ran out of memory.
        CurbsideError: what a part raised; nothing new is begun then.
    """
    todo = list(parts)
    at_work: dict[Future[None], Part] = {}
    executor = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(open_run,)
    )
    with executor:
        try:
            while todo or at_work:
                waiting = {*todo, *at_work.values()}
                for part in [p for p in todo if not waiting & set(p.needs)]:
                    if len(at_work) < workers:  # else a later part that is longer goes first
                        at_work[executor.submit(_make, part)] = part
                        todo.remove(part)
                done, _ = wait(at_work, return_when=FIRST_COMPLETED)
                for future in done:
                    del at_work[future]
                    future.result()
        except BrokenProcessPool as e:
            raise BackendError(
                "a process of the run has ended: it was killed, or memory ran out",
                hint="run it again, it goes on; --workers 1 takes the least memory",
            ) from e
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(open_run: Callable[[], Run]) -> None:
    import torch

    os.environ["TTY_COMPATIBLE"] = "0"  # several bars would draw over each other: lines instead
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _own.append(open_run())


def _end_with_parent() -> None:
    """A run that was killed is gone on with: nobody else may write into its folder then."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(part: Part) -> None:
    _own[0].make(part)
