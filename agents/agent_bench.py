"""What an agent call costs above the bare HTTP call: same server, same bytes, same run.

The server runs in a process of its own, answers after 20 ms and does nothing else.  Bare is
httpx2's own client posting the very body that the agent would, made before, and reading the
JSON that comes back; the agent is a closed question asked in one order, image already
encoded.  Both run in one event loop of one thread.  Rounds alternate and are compared in
pairs, so that a busy machine hits both alike; processor time per call is told beside the
rates, since that is what a rate is made of once one thread has no more to give.

A whole reading is told too: beside the call it decodes the study's image and encodes it anew,
which no bare call does.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import httpx2
import numpy as np

from curbside.agents.contract import AgentCard, AnyResponse
from curbside.agents.endpoint import Endpoint, together
from curbside.agents.endpoint_agent import EndpointEngine
from curbside.agents.fake_server import Behaviour, Body, FakeServer, first_letter
from curbside.agents.fleet_spec import Decoding, EndpointSpec, Limits, Patience
from curbside.agents.injections import picture, study_of
from curbside.agents.pictures import png
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.vision import Ask, Said, VisionAgent
from curbside.errors import InternalError
from curbside.readings import Reading
from curbside.study import Question

__all__ = ["AgentBench", "Crowd", "bench_agent"]

SERVER_SECONDS = 0.020


@dataclass(frozen=True)
class Crowd:
    """One round with many calls at once.

    Args:
        rate: calls a second.
        cpu_us: processor time of this process, a call.
        server_busy: processor time of the server's process as a share of the round.
    """

    rate: float
    cpu_us: float
    server_busy: float


@dataclass(frozen=True)
class AgentBench:
    """Both sides of every round.

    Args:
        bare_ms, agent_ms: medians of one call after the other.
        bare, agent: rounds with ``concurrency`` calls at once, in the order taken.
        reading_ms: median of one ``read`` after the other; reading_rate: studies a second of a
            ``read_batch``, the median over rounds.
    """

    concurrency: int
    calls: int
    body_bytes: int
    bare_ms: float
    agent_ms: float
    bare: tuple[Crowd, ...]
    agent: tuple[Crowd, ...]
    reading_ms: float
    reading_rate: float

    @property
    def overhead_ms(self) -> float:
        """What one call costs more."""
        return self.agent_ms - self.bare_ms

    @property
    def throughput_lost(self) -> float:
        """Share of the bare throughput that is lost, the median over rounds; may be below 0."""
        pairs = zip(self.bare, self.agent, strict=True)
        return float(np.median([1 - a.rate / b.rate for b, a in pairs]))

    @property
    def cpu_more(self) -> float:
        """Processor time that a call costs more, as a share; the median over rounds."""
        pairs = zip(self.bare, self.agent, strict=True)
        return float(np.median([a.cpu_us / b.cpu_us - 1 for b, a in pairs]))

    def median(self, side: str, what: str) -> float:
        """Over the rounds of ``bare`` or ``agent``: ``rate``, ``cpu_us`` or ``server_busy``."""
        return float(np.median([getattr(c, what) for c in getattr(self, side)]))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types."""
        return asdict(self) | {
            "overhead_ms": self.overhead_ms,
            "throughput_lost": self.throughput_lost,
            "cpu_more": self.cpu_more,
        }


def bench_agent(
    *, calls: int = 640, rounds: int = 5, concurrency: int = 64, side: int = 224
) -> AgentBench:
    """Measure; starts a fake server on the loopback, in a process of its own."""
    patience = Patience(concurrency=concurrency)
    with _server() as (url, server_cpu):
        endpoint = Endpoint("bench", EndpointSpec(url=url, patience=patience))
        engine = EndpointEngine(endpoint, "fake", Decoding(orders=1, constrain="choice"))
        image = png(picture(0, side=side), Limits())
        ask = Ask("Read.", "Which is it?", (image,), letters=("A", "B", "C"))
        raw = json.dumps(engine.body(ask)).encode()

        async def crowd(call: Callable[[], Awaitable[None]]) -> Crowd:
            there, here = server_cpu(), time.process_time()
            seconds = await _crowd(call, calls, concurrency)
            here = time.process_time() - here
            return Crowd(calls / seconds, 1e6 * here / calls, (server_cpu() - there) / seconds)

        async def measure() -> tuple[list[list[float]], list[list[Crowd]]]:
            async with httpx2.AsyncClient(
                trust_env=False,
                timeout=None,
                limits=httpx2.Limits(
                    max_connections=concurrency, max_keepalive_connections=concurrency
                ),
            ) as client:

                async def bare() -> None:
                    answer = await client.post(
                        f"{url}/chat/completions",
                        content=raw,
                        headers={"Content-Type": "application/json"},
                    )
                    answer.raise_for_status().json()

                async def through() -> None:
                    said = await engine.say_one(ask)
                    if not isinstance(said, Said):
                        raise InternalError(f"the fake server gave {said.message}")

                both = (bare, through)
                singles: list[list[float]] = [[], []]
                crowds: list[list[Crowd]] = [[], []]
                for call in both:
                    await _crowd(call, 2 * concurrency, concurrency)
                for n in range(rounds):
                    # the side that goes first changes, in case the first is favoured
                    for i in (0, 1) if n % 2 == 0 else (1, 0):
                        singles[i] += await _one_by_one(both[i], max(calls // 10, 5))
                        crowds[i].append(await crowd(both[i]))
                return singles, crowds

        singles, crowds = together([measure()])[0]
        reading_ms, reading_rate = _readings(engine, calls, rounds, side)
        together([endpoint.close()])
    return AgentBench(
        concurrency=concurrency,
        calls=calls,
        body_bytes=len(raw),
        bare_ms=1000 * float(np.median(singles[0])),
        agent_ms=1000 * float(np.median(singles[1])),
        bare=tuple(crowds[0]),
        agent=tuple(crowds[1]),
        reading_ms=reading_ms,
        reading_rate=reading_rate,
    )


def _readings(engine: EndpointEngine, calls: int, rounds: int, side: int) -> tuple[float, float]:
    """Milliseconds of a ``read``, studies a second of a ``read_batch``; medians."""
    card = AgentCard(name="bench", kind="openai", role="generalist", fingerprint="bench")
    prompt, report = load_prompt("plain-1"), load_report("chest-1")
    agent = VisionAgent(card, engine, prompt, report, engine.decoding, Limits())
    asked = Question(options=("A", "B", "C"))
    studies = [study_of(picture(i, side=side), question=asked, id=str(i)) for i in range(calls)]
    times, rates = [], []
    for _ in range(rounds):
        for study in studies[: max(calls // 10, 5)]:
            started = time.perf_counter()
            _said(agent.read(study))
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        for response in agent.read_batch(studies):
            _said(response)
        rates.append(calls / (time.perf_counter() - started))
    return 1000 * float(np.median(times)), float(np.median(rates))


def _said(response: AnyResponse) -> None:
    if not isinstance(response, Reading):
        raise InternalError(f"the fake server gave {response!r}")


@contextmanager
def _server() -> Iterator[tuple[str, Callable[[], float]]]:
    """Address of a fake server in another process, and what asks for its processor seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()

    def cpu() -> float:
        ours.send("cpu")
        return float(ours.recv())

    try:
        yield str(ours.recv()), cpu
    finally:
        ours.close()
        process.join(30)


def _serve(pipe: Connection) -> None:
    def after_a_while(body: Body) -> Behaviour:
        return Behaviour(body=first_letter(body).body, delay=SERVER_SECONDS)

    with FakeServer(after_a_while) as server:
        pipe.send(server.url)
        try:
            while pipe.recv():
                server.requests.clear()
                pipe.send(time.process_time())
        except EOFError:
            return


async def _one_by_one(call: Callable[[], Awaitable[None]], n: int) -> list[float]:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return times


async def _crowd(call: Callable[[], Awaitable[None]], n: int, concurrency: int) -> float:
    """Seconds that ``n`` calls take with so many at once."""
    left = iter(range(n))

    async def worker() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return time.perf_counter() - started
