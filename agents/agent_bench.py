"""What an agent call costs above the bare HTTP call: same server, same bytes, same run.

The server answers after 20 ms and does nothing else.  Bare is httpx2's own client posting
the very body that the agent would; the agent is a closed question asked in one order,
image already encoded.  Rounds alternate, so that a busy machine hits both alike.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import httpx2
import numpy as np

from curbside.agents.endpoint import Endpoint, together
from curbside.agents.endpoint_agent import EndpointEngine
from curbside.agents.fake_server import Behaviour, Body, FakeServer, first_letter
from curbside.agents.fleet_spec import Decoding, EndpointSpec, Limits, Patience
from curbside.agents.injections import picture
from curbside.agents.pictures import png
from curbside.agents.vision import Ask, Said
from curbside.errors import InternalError

__all__ = ["AgentBench", "bench_agent"]

SERVER_SECONDS = 0.020


@dataclass(frozen=True)
class AgentBench:
    """Medians over rounds.

    Args:
        bare_ms, agent_ms: median of one call after the other.
        bare_rate, agent_rate: calls a second with ``concurrency`` at once.
    """

    concurrency: int
    calls: int
    rounds: int
    body_bytes: int
    bare_ms: float
    agent_ms: float
    bare_rate: float
    agent_rate: float

    @property
    def overhead_ms(self) -> float:
        """What one call costs more."""
        return self.agent_ms - self.bare_ms

    @property
    def throughput_lost(self) -> float:
        """Share of the bare throughput that is lost, may be below 0."""
        return 1 - self.agent_rate / self.bare_rate

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types."""
        derived = {"overhead_ms": self.overhead_ms, "throughput_lost": self.throughput_lost}
        return asdict(self) | derived


def bench_agent(
    *, calls: int = 200, rounds: int = 5, concurrency: int = 64, side: int = 224
) -> AgentBench:
    """Measure; starts a fake server on the loopback."""

    def after_a_while(body: Body) -> Behaviour:
        told = first_letter(body)
        return Behaviour(body=told.body, delay=SERVER_SECONDS)

    patience = Patience(concurrency=concurrency)
    with FakeServer(after_a_while) as server:
        endpoint = Endpoint("bench", EndpointSpec(url=server.url, patience=patience))
        engine = EndpointEngine(endpoint, "fake", Decoding(orders=1, constrain="choice"))
        image = png(picture(0, side=side), Limits())
        ask = Ask("Read.", "Which is it?", (image,), letters=("A", "B", "C"))
        raw = json.dumps(engine.body(ask)).encode()

        async def measure() -> tuple[list[float], list[float], list[float], list[float]]:
            async with httpx2.AsyncClient(
                trust_env=False,
                timeout=None,
                limits=httpx2.Limits(
                    max_connections=concurrency, max_keepalive_connections=concurrency
                ),
            ) as client:

                async def bare() -> None:
                    answer = await client.post(
                        f"{server.url}/chat/completions",
                        content=raw,
                        headers={"Content-Type": "application/json"},
                    )
                    answer.raise_for_status().json()

                async def through() -> None:
                    said = await engine.say_one(ask)
                    if not isinstance(said, Said):
                        raise InternalError(f"the fake server gave {said.message}")

                singles: tuple[list[float], list[float]] = ([], [])
                rates: tuple[list[float], list[float]] = ([], [])
                await _crowd(bare, concurrency, concurrency)
                await _crowd(through, concurrency, concurrency)
                for _ in range(rounds):
                    for i, call in enumerate((bare, through)):
                        singles[i].extend(await _one_by_one(call, max(calls // 10, 5)))
                        rates[i].append(await _crowd(call, calls, concurrency))
                    server.requests.clear()
                return (*singles, *rates)

        bare_s, agent_s, bare_rate, agent_rate = together([measure()])[0]
        together([endpoint.close()])
    return AgentBench(
        concurrency=concurrency,
        calls=calls,
        rounds=rounds,
        body_bytes=len(raw),
        bare_ms=1000 * float(np.median(bare_s)),
        agent_ms=1000 * float(np.median(agent_s)),
        bare_rate=float(np.median(bare_rate)),
        agent_rate=float(np.median(agent_rate)),
    )


async def _one_by_one(call: Callable[[], Awaitable[None]], n: int) -> list[float]:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        await call()
        times.append(time.perf_counter() - started)
    return times


async def _crowd(call: Callable[[], Awaitable[None]], n: int, concurrency: int) -> float:
    left = iter(range(n))

    async def worker() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return n / (time.perf_counter() - started)
