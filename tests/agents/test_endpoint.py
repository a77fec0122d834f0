"""One server's bad days: deadlines, retries, the breaker, the crowd."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.agents.breaker import AdaptiveLimit, Breaker
from curbside.agents.endpoint import CallFailed, Endpoint, together
from curbside.agents.fake_server import Behaviour, FakeServer, completion
from curbside.agents.fleet_spec import EndpointSpec, Patience
from curbside.errors import InternalError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])
PATIENCE = {"attempt_seconds": 0.8, "total_seconds": 2.0, "wait_seconds": 0.01, "attempts": 3,
            "open_after": 1000}  # fmt: skip
FINE = Behaviour(body=completion("A"))


class Line:
    """A server that behaves as a list says, then well; and an endpoint to it."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.endpoints: list[Endpoint] = []

    def endpoint(self, *behaviours: Behaviour, **patience: Any) -> Endpoint:
        script = iter(behaviours)
        self.server.behave = lambda body: next(script, FINE)
        self.server.requests.clear()
        spec = EndpointSpec(url=self.server.url, patience=Patience(**PATIENCE | patience))
        self.endpoints.append(Endpoint("line", spec))
        return self.endpoints[-1]

    def call(self, endpoint: Endpoint) -> dict[str, Any] | CallFailed:
        async def safely() -> dict[str, Any] | CallFailed:
            try:
                return await endpoint.call("/chat/completions", {"x": 1})
            except CallFailed as e:
                return e

        return together([safely()])[0]


@pytest.fixture
def line() -> Iterator[Line]:
    with FakeServer() as server:
        line = Line(server)
        yield line
        together([e.close() for e in line.endpoints])


@pytest.mark.parametrize(
    ("how", "kind", "requests"),
    [
        (Behaviour("status", status=500), None, 2),
        (Behaviour("status", status=503), None, 2),
        (Behaviour("status", status=429), None, 2),
        (Behaviour("status", status=429, retry_after="0.1"), None, 2),
        (Behaviour("status", status=429, retry_after="3000"), "unavailable", 1),
        (Behaviour("status", status=400), "unavailable", 1),
        (Behaviour("status", status=401), "unavailable", 1),
        (Behaviour("status", status=404), "unavailable", 1),
        (Behaviour(body=completion("A"), delay=5), "timeout", 1),
        (Behaviour("drip"), "timeout", 1),
        (Behaviour("drop"), "unavailable", 1),
        (Behaviour("truncate"), "unavailable", 1),
        (Behaviour("garbage"), "invalid_answer", 1),
    ],
)
def test_what_is_tried_again_and_what_is_not(
    line: Line, how: Behaviour, kind: str | None, requests: int
) -> None:
    started = time.monotonic()
    found = line.call(line.endpoint(how))
    assert len(line.server.requests) == requests
    assert time.monotonic() - started < 5
    if kind is None:
        assert isinstance(found, dict)
    else:
        assert isinstance(found, CallFailed)
        assert found.kind == kind
        assert "normal" not in found.message


def test_retry_after_is_kept_to(line: Line) -> None:
    started = time.monotonic()
    found = line.call(line.endpoint(Behaviour("status", status=429, retry_after="0.4")))
    assert isinstance(found, dict)
    assert time.monotonic() - started >= 0.4


def test_retry_after_may_be_a_date(line: Line) -> None:
    # dates have whole seconds, so what is asked for is between one and two
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    started = time.monotonic()
    busy = Behaviour("status", status=429, retry_after=soon)
    assert isinstance(line.call(line.endpoint(busy, total_seconds=4.0)), dict)
    assert time.monotonic() - started >= 0.9
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    found = line.call(line.endpoint(Behaviour("status", status=429, retry_after=later)))
    assert isinstance(found, CallFailed) and len(line.server.requests) == 1


@pytest.mark.parametrize("said", ["soon", "nan", "Fri, 32 Jan 2026 00:00:00 GMT"])
def test_a_retry_after_that_says_nothing_is_not_waited_for(line: Line, said: str) -> None:
    started = time.monotonic()
    busy = Behaviour("status", status=429, retry_after=said)
    assert isinstance(line.call(line.endpoint(busy)), dict)
    assert time.monotonic() - started < 0.5


def test_all_attempts_end_with_the_total(line: Line) -> None:
    slow = [Behaviour("status", status=500, delay=0.25)] * 10
    started = time.monotonic()
    found = line.call(line.endpoint(*slow, total_seconds=0.6, attempts=10))
    assert isinstance(found, CallFailed) and found.kind == "timeout"
    assert time.monotonic() - started < 2


def test_attempts_are_counted(line: Line) -> None:
    found = line.call(line.endpoint(*[Behaviour("status", status=500)] * 10, attempts=3))
    assert isinstance(found, CallFailed) and found.message == "HTTP 500"
    assert len(line.server.requests) == 3
    assert isinstance(line.call(line.endpoint(Behaviour("status"), attempts=1)), CallFailed)
    assert len(line.server.requests) == 1


def test_a_server_that_is_gone_is_tried_again_and_comes_back(line: Line) -> None:
    endpoint = line.endpoint(attempts=5, wait_seconds=0.1, total_seconds=5)
    assert isinstance(line.call(endpoint), dict)
    line.server.stop()
    gone = line.call(line.endpoint(attempts=2))
    assert isinstance(gone, CallFailed) and "cannot be reached" in gone.message

    async def back_soon() -> dict[str, Any]:
        waiting = asyncio.ensure_future(endpoint.call("/chat/completions", {}))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(line.server.start)
        return await waiting

    assert together([back_soon()])[0]["id"] == "fake"


def test_the_breaker_leaves_a_broken_endpoint_alone_and_probes_once(line: Line) -> None:
    broken = Behaviour("status", status=500)
    endpoint = line.endpoint(
        *[broken] * 4, attempts=1, open_after=3, probe_seconds=0.2, attempt_seconds=2
    )
    for _ in range(3):
        assert isinstance(line.call(endpoint), CallFailed)
    assert endpoint.breaker.state == "open"
    left_alone = line.call(endpoint)
    assert isinstance(left_alone, CallFailed) and "left alone" in left_alone.message
    assert len(line.server.requests) == 3
    time.sleep(0.25)

    async def crowd() -> None:
        await asyncio.gather(
            *(endpoint.call("/chat/completions", {}) for _ in range(6)), return_exceptions=True
        )

    together([crowd()])
    assert len(line.server.requests) == 4, "one probe, and it failed"
    time.sleep(0.25)
    assert isinstance(line.call(endpoint), dict)
    assert endpoint.breaker.state == "closed"


def test_a_request_that_was_wrong_says_nothing_of_the_endpoint(line: Line) -> None:
    endpoint = line.endpoint(*[Behaviour("status", status=400)] * 5, open_after=2)
    for _ in range(5):
        line.call(endpoint)
    assert endpoint.breaker.state == "closed"


def test_the_version_is_asked_once_and_models_are_listed(line: Line) -> None:
    endpoint = line.endpoint()
    assert together([endpoint.server(), endpoint.server()]) == ["vllm 0.32.0"] * 2
    assert together([endpoint.models()]) == [["fake"]]
    line.server.version = None
    other = line.endpoint()
    assert together([other.server()]) == ["unknown"]
    line.server.stop()
    gone = line.endpoint()
    assert together([gone.server()]) == ["unknown"]
    with pytest.raises(CallFailed, match="cannot be reached"):
        together([gone.models()])


def test_interrupting_the_caller_cancels(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = line.endpoint(Behaviour(delay=5), attempt_seconds=20, total_seconds=20)

    def interrupted(coroutine: Any, loop: Any) -> Any:
        future = real(coroutine, loop)

        class Once:
            def result(self) -> Any:
                time.sleep(0.1)
                raise KeyboardInterrupt

            def cancel(self) -> None:
                future.cancel()

        return Once()

    real = asyncio.run_coroutine_threadsafe
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            together([endpoint.call("/chat/completions", {})])
    until = time.monotonic() + 4  # well before the server would have answered
    while endpoint.limit.active and time.monotonic() < until:
        time.sleep(0.02)
    assert endpoint.limit.active == 0


def test_one_that_raises_cancels_the_others() -> None:
    ended = threading.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def raises() -> None:
        await asyncio.sleep(0)
        raise InternalError("a bug")

    with pytest.raises(InternalError, match="a bug"):
        together(c() for c in (raises, waits))
    assert ended.wait(10)


def test_an_answer_without_end_is_left_off(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curbside.agents.endpoint.MAX_ANSWER", 100)
    endpoint = line.endpoint(Behaviour(body=completion("A" * 200)), Behaviour(body={"choices": []}))
    failed = line.call(endpoint)
    assert isinstance(failed, CallFailed)
    assert (failed.kind, failed.message) == ("invalid_answer", "the answer has over 100 bytes")
    assert line.call(endpoint) == {"choices": []}


# -- the breaker and the crowd by themselves ---------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=60), st.integers(1, 4))
def test_the_breaker_never_lets_two_probes_out(steps: list[tuple[bool, float]], n: int) -> None:
    now = 0.0
    breaker = Breaker(n, 2.0, clock=lambda: now)
    in_a_row = 0
    for ok, seconds in steps:
        now += seconds
        ticket = breaker.admit()
        if breaker.state == "half-open" and ticket is not None:
            assert breaker.admit() is None
        if ticket is None:
            assert in_a_row >= n
            continue
        breaker.report(ticket, ok)
        in_a_row = 0 if ok else in_a_row + 1
        assert (breaker.state == "closed") == (in_a_row < n)


def test_what_was_sent_before_the_breaker_opened_does_not_close_it() -> None:
    breaker = Breaker(1, 10.0, clock=lambda: 0.0)
    early, late = breaker.admit(), breaker.admit()
    assert early is not None and late is not None
    breaker.report(early, False)
    breaker.report(late, True)
    assert breaker.state == "open"


def test_a_probe_that_was_given_up_lets_another_one_out() -> None:
    now = 0.0
    breaker = Breaker(1, 1.0, clock=lambda: now)
    breaker.report(breaker.admit() or 0, False)
    now = 2.0
    probe = breaker.admit()
    assert probe is not None and breaker.admit() is None
    breaker.report(probe, None)
    assert breaker.admit() is not None


@given(st.integers(1, 6), st.lists(st.booleans(), max_size=40))
@settings(deadline=None, max_examples=30)
def test_the_crowd_is_never_larger_than_its_limit(greatest: int, overloads: list[bool]) -> None:
    async def run() -> None:
        limit = AdaptiveLimit(greatest)
        most = 0

        async def one(overloaded: bool) -> None:
            nonlocal most
            await limit.acquire()
            most = max(most, limit.active)
            await asyncio.sleep(0)
            limit.release(overloaded=overloaded)

        await asyncio.gather(*(one(o) for o in overloads))
        assert limit.active == 0
        assert most <= greatest
        assert 1 <= limit.limit <= greatest

    asyncio.run(run())


def test_the_limit_halves_once_a_round_and_grows_by_one() -> None:
    async def run() -> None:
        limit = AdaptiveLimit(8)
        for _ in range(8):
            await limit.acquire()
        for _ in range(8):
            limit.release(overloaded=True, seconds=10)
        assert limit.limit == 4.0
        for _ in range(4):
            await limit.acquire()
            limit.release(overloaded=False)
        assert limit.limit == pytest.approx(4.9, abs=0.1)
        waiting = [asyncio.ensure_future(limit.acquire()) for _ in range(6)]
        await asyncio.sleep(0)
        assert limit.active == 4
        waiting[-1].cancel()
        for task in waiting[:-1]:
            await task
            limit.release(overloaded=False)
        assert limit.active == 0

    asyncio.run(run())
