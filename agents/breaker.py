"""When to leave an endpoint alone, and how many calls it bears at once.

The breaker is the classic one (Nygard, Release It!, 2007) with a single probe: the
libraries that were tried let every waiting call through as soon as one may be, which
knocks a server over that is just coming back, and measure time by the wall clock.  The
limit grows by one a round and halves on overload (Chiu and Jain, 1989).  Both belong to
one event loop and need no lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

__all__ = ["AdaptiveLimit", "Breaker"]


class Breaker:
    """Closed, open after ``open_after`` failures in a row, half open after ``probe_seconds``.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, open_after: int, probe_seconds: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_after, self._probe_seconds, self._clock = open_after, probe_seconds, clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self._generation = 0

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened_at is None:
            return "closed"
        waited = self._clock() - self._opened_at
        return "half-open" if waited >= self._probe_seconds else "open"

    def admit(self) -> int | None:
        """A ticket for one call, or None when the endpoint is to be left alone."""
        state = self.state
        if state == "open" or (state == "half-open" and self._probing):
            return None
        self._probing = state == "half-open"
        return self._generation

    def report(self, ticket: int, ok: bool | None) -> None:
        """How the call ended; None says nothing of the endpoint (it was given up by us).

        What was sent before the state last changed no longer counts.
        """
        if ticket != self._generation:
            return
        probe, self._probing = self._probing, False
        if ok is None:
            return
        if ok:
            self._failures = 0
            if self._opened_at is not None:
                self._opened_at = None
                self._generation += 1
            return
        self._failures += 1
        if probe or self._failures >= self._open_after:
            self._opened_at = self._clock()
            self._generation += 1


class AdaptiveLimit:
    """At most so many calls at once: one more after a round without overload, half after one."""

    def __init__(self, greatest: int) -> None:
        self.greatest = greatest
        self.limit = float(greatest)
        self.active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._last_cut = 0.0

    async def acquire(self) -> None:
        """Wait for a place; first come, first served."""
        if self.active < int(self.limit) and not self._waiting:
            self.active += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise

    def release(self, *, overloaded: bool, seconds: float = 0.0) -> None:
        """Give the place back.

        Args:
            overloaded: the server said so, or did not answer in time.
            seconds: how long the call took: calls sent before the limit was cut say
                nothing new.
        """
        now = time.monotonic()
        if overloaded:
            if now - seconds >= self._last_cut:
                self.limit = max(1.0, self.limit / 2)
                self._last_cut = now
        else:
            self.limit = min(float(self.greatest), self.limit + 1 / self.limit)
        self._leave()

    def _leave(self) -> None:
        self.active -= 1
        while self._waiting and self.active < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)
