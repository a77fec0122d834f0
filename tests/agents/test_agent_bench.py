"""The benchmark of an agent's call runs and its numbers belong together; nothing is timed here."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from curbside.agents.agent_bench import SERVER_SECONDS, bench_agent
from curbside.cli import app

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_it_measures_both_against_one_server() -> None:
    result = bench_agent(calls=12, rounds=2, concurrency=4, side=48)
    said = result.to_json()
    assert min(result.bare_ms, result.agent_ms) >= 1000 * SERVER_SECONDS
    assert result.bare_rate > 0 and result.agent_rate > 0
    assert said["overhead_ms"] == pytest.approx(result.agent_ms - result.bare_ms)
    assert said["throughput_lost"] == pytest.approx(1 - result.agent_rate / result.bare_rate)


def test_the_command_prints_it() -> None:
    few = ["bench", "agent", "--calls", "10", "--rounds", "1", "--concurrency", "2"]
    text = CliRunner().invoke(app, few).output
    assert "above bare" in text and "at once" in text
    found = json.loads(CliRunner().invoke(app, [*few, "--json"]).output)
    assert found["concurrency"] == 2
