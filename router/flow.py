"""Many studies through a desk, a block at a time: encoding runs ahead while blocks are decided.

One thread names, claims and encodes the next blocks; the caller's assesses, reads, explains
and records.  Between them stand two short queues, so memory does not grow with the input.
What the ledger knows already is given from it and not read again.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from curbside.errors import StorageError
from curbside.readings import CaseRecord
from curbside.router.desk import RouterDesk
from curbside.router.ledger import LEASE_SECONDS, Ledger, process_name
from curbside.study import Study

__all__ = ["BLOCK", "decided", "owner_name", "read"]

#: Studies of one block: three are under way at once, and their features fit the source's memory.
BLOCK = 64
#: Cases put off, since another process is at work on them, from which no new ones are taken in.
_PUT_OFF = 1024
#: Seconds between two renewals of what is claimed: a block of slow agents may outlast a lease.
_RENEW = LEASE_SECONDS / 4
#: Seconds between two looks at cases that another process is at work on, at first and at most.
_POLL, _LONGEST_POLL = 0.2, 3.0


@dataclass
class _Block:
    """Studies on the desk with features, and what is known of the others without them."""

    cases: list[str]
    known: list[CaseRecord] = field(default_factory=list)


Prepare = Callable[[list[Study]], _Block]


def owner_name() -> str:
    """Names this process and this call as the holder of claims."""
    return f"{process_name()}:{uuid.uuid4().hex[:8]}"


def decided(desk: RouterDesk, studies: Iterable[Study]) -> Iterator[list[CaseRecord]]:
    """Whom the policy would ask, block by block and in order; nothing is read or recorded."""

    def prepare(block: list[Study]) -> _Block:
        cases = [s.id for s in block]
        desk.take_in(block)
        try:
            desk.encode_ahead(cases)
        except BaseException:
            desk.clear(cases)
            raise
        return _Block(cases)

    for block in _ahead(studies, prepare, desk):
        try:
            desk.assess_ahead(block.cases)
            records = desk.finish(block.cases)
        finally:
            desk.clear(block.cases)
        yield records


def read(desk: RouterDesk, ledger: Ledger, studies: Iterable[Study]) -> Iterator[list[CaseRecord]]:
    """Read and record studies, block by block; those that are recorded come from the ledger.

    In order, but for cases that another process is at work on: these come later, when it has
    finished them or its lease has run out.
    """
    owner = owner_name()
    later: list[Study] = []
    ledger.release_dead()
    with _holding(ledger, owner):
        again = _and_again(studies, later, ledger)
        for block in _ahead(again, lambda s: _claimed(desk, ledger, owner, s, later), desk):
            yield _finished(desk, block)
        pauses = _pauses()
        while later:
            waiting, later = later, []
            for start in range(0, len(waiting), BLOCK):
                some = waiting[start : start + BLOCK]
                yield _finished(desk, _claimed(desk, ledger, owner, some, later))
            if len(later) < len(waiting):
                pauses = _pauses()
            if later:
                time.sleep(next(pauses))
                ledger.release_dead()


def _pauses() -> Iterator[float]:
    """Seconds until the next look, longer while nothing comes: each reads the images' files."""
    pause = _POLL
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_POLL)


def _and_again(studies: Iterable[Study], later: list[Study], ledger: Ledger) -> Iterator[Study]:
    """The studies, and in between those of ``later`` again where they have become many.

    Two processes at the same cases would put off half of them.
    """
    for study in studies:
        yield study
        pauses = _pauses()
        while len(later) >= _PUT_OFF:
            waiting = later[:]
            later.clear()
            yield from waiting
            # the last of them may not have been looked at yet
            if len(later) > len(waiting) - BLOCK:
                time.sleep(next(pauses))
                ledger.release_dead()


@contextmanager
def _holding(ledger: Ledger, owner: str) -> Iterator[None]:
    """Renew the owner's claims as long as the block runs; then give back what is unfinished.

    Best effort: where the ledger fails, leases end by themselves, and an outcome that another
    process was quicker to write stays.
    """
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW):
            with suppress(StorageError):
                ledger.renew(owner)

    thread = threading.Thread(target=renew, name="curbside-renew", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(StorageError):
            ledger.release(owner)


def _claimed(
    desk: RouterDesk, ledger: Ledger, owner: str, studies: Sequence[Study], later: list[Study]
) -> _Block:
    """Take in what is neither recorded nor another's, and encode it."""
    cases = [s.id for s in studies]
    desk.take_in(studies)
    try:
        keys = desk.name(cases)
        known = ledger.of_keys(keys)
        mine = ledger.claim([k for k in keys if k not in known], owner)
        # finished by another process between the two looks
        known |= ledger.of_keys([k for k in keys if k not in known and k not in mine])
        for study, key in zip(studies, keys, strict=True):
            if key not in mine:
                desk.clear([study.id])
                if key not in known:
                    later.append(study)
        todo = [c for c, k in zip(cases, keys, strict=True) if k in mine]
        desk.encode_ahead(todo)
    except BaseException:
        desk.clear(cases)
        raise
    return _Block(todo, [known[k] for k in keys if k in known])


def _finished(desk: RouterDesk, block: _Block) -> list[CaseRecord]:
    try:
        desk.assess_ahead(block.cases)
        desk.read_ahead(block.cases)
        keys = [desk.key(c) for c in block.cases]
        new = desk.keep(list(zip(keys, desk.finish(block.cases), strict=True)))
        return block.known + new
    finally:
        desk.clear(block.cases)


def _ahead(studies: Iterable[Study], prepare: Prepare, desk: RouterDesk) -> Iterator[_Block]:
    """Prepare blocks in a thread, at most one ready beside the one in hand."""
    ready: queue.Queue[_Block | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: _Block | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return
        drop(item)

    def drop(item: _Block | BaseException | None) -> None:
        if isinstance(item, _Block):
            desk.clear(item.cases)

    def work() -> None:
        source = iter(studies)
        try:
            while not stop.is_set():
                block = list(islice(source, BLOCK))
                if not block:
                    put(None)
                    return
                put(prepare(block))
        except BaseException as e:  # it comes up in the caller's thread
            put(e)

    thread = threading.Thread(target=work, name="curbside-encode", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
        while not ready.empty():
            drop(ready.get_nowait())
