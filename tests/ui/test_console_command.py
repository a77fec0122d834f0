"""``curbside console``: what it starts, and what it says when there is nothing to start on."""

from __future__ import annotations

import os
import socket

import pytest
from typer.testing import CliRunner

from curbside import RESEARCH_USE
from curbside.cli import app
from curbside.config import Config, save_config
from curbside.errors import ConfigError, UserError
from curbside.ui.console_bench import ConsoleBench, find_browser
from curbside.ui.server import command_line

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def test_the_server_is_this_process_private_and_local(curbside_home, monkeypatch):
    save_config(Config(), curbside_home / "curbside.yaml")
    started = []
    monkeypatch.setattr(os, "execve", lambda *a: started.append(a))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = CliRunner().invoke(app, ["console", "--port", str(port), "--reader", "Dr. A"])
    assert done.exit_code == 0, done.output
    assert RESEARCH_USE in done.output and f"http://127.0.0.1:{port}" in done.output
    ((path, command, environment),) = started
    assert path == command[0] and environment["CURBSIDE_READER"] == "Dr. A"
    text = " ".join(command)
    assert "--browser.gatherUsageStats false" in text and "--server.address 127.0.0.1" in text


def test_without_a_configuration_nothing_is_started(curbside_home, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *a: pytest.fail("started"))
    with pytest.raises(ConfigError, match="does not exist"):
        CliRunner().invoke(app, ["console"], catch_exceptions=False)


def test_where_the_server_cannot_listen_it_is_not_started(curbside_home, monkeypatch):
    save_config(Config(), curbside_home / "curbside.yaml")
    monkeypatch.setattr(os, "execve", lambda *a: pytest.fail("started"))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"is taken; .*\n  next: curbside console --port"),
    ):
        port = str(taken.getsockname()[1])
        CliRunner().invoke(app, ["console", "--port", port], catch_exceptions=False)
    # an address that documents give as an example and no machine has (RFC 5737)
    with pytest.raises(UserError, match="no address of this machine") as e:
        CliRunner().invoke(app, ["console", "--address", "192.0.2.1"], catch_exceptions=False)
    assert e.value.hint == "curbside console --address 127.0.0.1"


def test_a_browser_is_opened_only_when_asked():
    assert "true" in command_line(1, "::1", headless=True)
    command = command_line(1, "::1", headless=False)
    assert command[command.index("--server.headless") + 1] == "false"


def test_without_a_browser_the_next_command_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CURBSIDE_BROWSER", raising=False)
    with pytest.raises(UserError) as e:
        find_browser()
    assert "apt-get install chromium" in e.value.hint


def test_the_benchmark_prints_what_a_person_waits_for(monkeypatch):
    result = ConsoleBench(100, 900.0, (400.0, 600.0, 500.0), (80.0, 90.0))
    monkeypatch.setattr("curbside.ui.console_bench.bench_console", lambda n, rounds: result)
    printed = CliRunner().invoke(app, ["bench", "console", "--cases", "100"]).output
    assert "first paint" in printed and "500" in printed and "85" in printed
    told = CliRunner().invoke(app, ["bench", "console", "--cases", "100", "--json"]).output
    assert '"first_paint_median": 500.0' in told
