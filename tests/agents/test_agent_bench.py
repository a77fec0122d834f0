"""The benchmark of an agent's call runs and its numbers belong together; nothing is timed here."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from curbside.agents.agent_bench import SERVER_SECONDS, AgentBench, Crowd, bench_agent
from curbside.cli import app

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_it_measures_both_against_one_server() -> None:
    result = bench_agent(calls=12, rounds=2, concurrency=4, side=48)
    said = result.to_json()
    assert min(result.bare_ms, result.agent_ms, result.reading_ms) >= 1000 * SERVER_SECONDS
    assert 0 < result.reading_rate <= 4 / SERVER_SECONDS  # no more than the crowd it is allowed
    assert len(result.bare) == len(result.agent) == 2
    assert all(c.rate > 0 and c.cpu_us > 0 for c in (*result.bare, *result.agent))
    assert said["overhead_ms"] == pytest.approx(result.agent_ms - result.bare_ms)


def test_losses_are_medians_of_rounds_compared_in_pairs() -> None:
    def crowds(*pairs: tuple[float, float]) -> tuple[Crowd, ...]:
        return tuple(Crowd(rate, cpu, 0.1) for rate, cpu in pairs)

    result = AgentBench(
        concurrency=4,
        calls=12,
        body_bytes=9,
        bare_ms=20,
        agent_ms=21,
        bare=crowds((1000, 100), (10, 500), (100, 200)),
        agent=crowds((900, 110), (10, 500), (20, 400)),
        reading_ms=25,
        reading_rate=30,
    )
    assert result.throughput_lost == pytest.approx(0.1)
    assert result.cpu_more == pytest.approx(0.1)
    assert result.median("bare", "rate") == 100
    assert result.to_json()["throughput_lost"] == result.throughput_lost


def test_the_command_prints_it() -> None:
    few = ["bench", "agent", "--calls", "10", "--rounds", "1", "--concurrency", "2"]
    text = CliRunner().invoke(app, few).output
    assert "above bare" in text and "at once" in text and "a whole reading" in text
    found = json.loads(CliRunner().invoke(app, [*few, "--json"]).output)
    assert found["concurrency"] == 2
