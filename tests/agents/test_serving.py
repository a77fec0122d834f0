"""Commands of vLLM, its version, what is refused before a start, what ``fleet check`` finds."""

from __future__ import annotations

import itertools
import json
import math
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from curbside.agents.checking import COLOURS, Finding, check_agent
from curbside.agents.contract import AgentCard
from curbside.agents.endpoint import together
from curbside.agents.endpoint_agent import EndpointEngine, open_endpoint_agent
from curbside.agents.fake_server import Behaviour, FakeServer, completion, letters_of
from curbside.agents.fleet import Fleet
from curbside.agents.fleet_spec import (
    CardSpec,
    Decoding,
    EndpointAgentSpec,
    EndpointSpec,
    FleetSpec,
    Limits,
    Patience,
    fleet_path,
    load_fleet_spec,
)
from curbside.agents.person import open_person
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.serving import MINIMUM_VLLM, check_ready, check_vllm, serve_commands
from curbside.agents.vision import Ask, FakeEngine, Said, VisionAgent
from curbside.cli import app
from curbside.errors import AgentUnavailable, ConfigError, CurbsideError, UserError
from curbside.study import Question, QuestionKind

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program called vllm on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return lambda body: program(folder, "vllm", body)


# -- commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vllm-one-gpu", "vllm-many"])
def test_every_endpoint_of_the_shipped_fleets_is_served_closed(name: str, tmp_path: Path) -> None:
    spec = load_fleet_spec(fleet_path(name))
    commands = serve_commands(spec, tmp_path)
    assert [c.endpoint for c in commands] == list(spec.endpoints)
    ports = set()
    for command in commands:
        arguments = list(command.arguments)
        after = dict(itertools.pairwise(arguments))
        assert after["--allowed-media-domains"].endswith(".invalid")
        assert after["--host"] == "127.0.0.1"
        assert json.loads(after["--limit-mm-per-prompt"])["image"] >= 1
        assert command.environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
        assert "--trust-remote-code" not in arguments
        ports.add(after["--port"])
    assert len(ports) == len(commands)


def test_adapters_are_served_from_one_base(tmp_path: Path) -> None:
    (tmp_path / "adapters" / "derm").mkdir(parents=True)
    command = serve_commands(load_fleet_spec(fleet_path("vllm-one-gpu")), tmp_path)[0]
    text = str(command)
    assert "--enable-lora" in text and "--max-loras 2" in text
    assert f"derm={tmp_path / 'adapters' / 'derm'}" in text
    assert "histology=adapters/histology" in text


def endpoint_fleet(**endpoint: Any) -> FleetSpec:
    def agent(adapter: str) -> dict[str, Any]:
        card = {"role": "generalist"}
        return {"kind": "openai", "endpoint": "e", "base": "b", "adapter": adapter, "card": card}

    url = endpoint.pop("url", "http://127.0.0.1:9/v1")
    return FleetSpec.model_validate(
        {
            "generalist": "one",
            "endpoints": {"e": {"url": url, "serve": {"model": "b"}, **endpoint}},
            "agents": {"one": agent("x/a"), "two": agent("y/a")},
        }
    )


def test_two_adapters_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one name"):
        serve_commands(endpoint_fleet(), tmp_path)


def test_a_key_is_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-9")
    spec = endpoint_fleet(key_variable="MY_KEY")
    spec = spec.model_copy(update={"agents": {"one": spec.agents["one"]}})
    text = str(serve_commands(spec, tmp_path)[0])
    assert 'VLLM_API_KEY="$MY_KEY"' in text and "secret-9" not in text


# -- versions and the supervisor ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo vllm 0.14.0", "known holes"),
        ("echo no version here", "does not say its version: InvalidVersion"),
        ("exit 3", "does not say its version: CalledProcessError"),
        ("echo 'No module named torch' >&2; exit 1", "No module named torch"),
    ],
)
def test_an_old_or_broken_vllm_is_refused(
    on_path: Callable[[str], Path], body: str, why: str
) -> None:
    on_path(body)
    with pytest.raises(AgentUnavailable, match=why) as e:
        check_vllm()
    assert str(MINIMUM_VLLM) in e.value.hint


def test_a_good_vllm_is_taken_and_none_is_said(
    on_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = on_path("echo a warning; echo 0.32.0+cpu")
    found, version = check_vllm()
    assert (found, str(version)) == (str(path), "0.32.0+cpu")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AgentUnavailable, match="no program vllm on the PATH"):
        check_vllm()
    assert check_vllm(str(path))[0] == str(path)
    with pytest.raises(AgentUnavailable, match=r"no program /nowhere/vllm\n") as e:
        check_vllm("/nowhere/vllm")
    assert "--vllm" in e.value.hint


# -- what is refused before a start ---------------------------------------------------------------


def adapter(folder: Path, config: str = '{"r": 8}') -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(config)
    return str(folder)


def ready(folder: Path, *, port: int, adapter: str = "", **serve: Any) -> None:
    agent = {"kind": "openai", "endpoint": "e", "base": "b", "adapter": adapter,
             "card": {"role": "generalist"}}  # fmt: skip
    endpoint = {"url": f"http://127.0.0.1:{port}/v1", "serve": {"model": "b"} | serve}
    check_ready(
        serve_commands(
            FleetSpec.model_validate(
                {"generalist": "a", "endpoints": {"e": endpoint}, "agents": {"a": agent}}
            ),
            folder,
        )
    )


@pytest.fixture
def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_what_could_not_be_served_is_refused_before_anything_is_started(
    tmp_path: Path, port: int
) -> None:
    ready(tmp_path, port=port, adapter=adapter(tmp_path / "good"))
    with pytest.raises(ConfigError, match=r"adapter none \(adapters/none\) is no folder"):
        ready(tmp_path, port=port, adapter="adapters/none")
    for config in ("{", "{}", '{"r": "8"}'):
        with pytest.raises(ConfigError, match="says its rank"):
            ready(tmp_path, port=port, adapter=adapter(tmp_path / "odd", config))
    with pytest.raises(ConfigError, match=r"rank 32, above serve\.max_lora_rank 16") as e:
        ready(tmp_path, port=port, adapter=adapter(tmp_path / "high", '{"r": 32}'))
    assert "max_lora_rank: 32" in e.value.hint
    with pytest.raises(ConfigError, match=r"serve.model \./nothing is no folder"):
        ready(tmp_path, port=port, model="./nothing")


def test_a_port_in_use_is_refused_with_its_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} of endpoint e .*in use") as e:
            ready(tmp_path, port=port)
        assert f"lsof -i :{port}" in e.value.hint
    ready(tmp_path, port=port)


def test_an_endpoint_elsewhere_is_not_started_here(tmp_path: Path) -> None:
    spec = endpoint_fleet(url="https://gpu.example/v1")
    spec = spec.model_copy(update={"agents": {"one": spec.agents["one"]}})
    (command,) = serve_commands(spec, tmp_path)
    assert (command.port, command.local) == (443, False)
    with pytest.raises(UserError, match="another machine"):
        check_ready([command])


def test_two_endpoints_of_one_address_are_refused(tmp_path: Path, port: int) -> None:
    endpoint = {"url": f"http://127.0.0.1:{port}/v1", "serve": {"model": "b"}}
    spec = FleetSpec.model_validate(
        {
            "generalist": "p",
            "endpoints": {"e": endpoint, "f": endpoint},
            "agents": {"p": {"kind": "plugin", "use": "x", "card": {"role": "generalist"}}},
        }
    )
    with pytest.raises(ConfigError, match=f"e and f have one address, 127.0.0.1:{port}"):
        check_ready(serve_commands(spec, tmp_path))


def test_a_server_that_should_have_a_key_is_not_started_without(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = endpoint_fleet(url=f"http://127.0.0.1:{port}/v1", key_variable="MY_KEY")
    bare = {"one": spec.agents["one"].model_copy(update={"adapter": ""})}
    commands = serve_commands(spec.model_copy(update={"agents": bare}), tmp_path)
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        check_ready(commands)
    monkeypatch.setenv("MY_KEY", "secret-9")
    check_ready(commands)


# -- fleet check ---------------------------------------------------------------------------------


def seeing(body: Any) -> Behaviour:
    """Answers with the colour of the picture: a fake that really looks."""
    import base64
    import io

    from PIL import Image

    letters = letters_of(body)
    content = body["messages"][1]["content"]
    if not letters:
        return Behaviour(body=completion('{"answer": "a shadow", "evidence": []}'))
    raw = base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])
    mean = np.asarray(Image.open(io.BytesIO(raw))).reshape(-1, 3).mean(0)
    line = next(x for x in content[-1]["text"].splitlines() if x.startswith("Options"))
    shown = json.loads(line.partition(": ")[2])
    logs = {}
    for letter in letters:
        colour = COLOURS.get(shown[letter], (0, 0, 0))
        logs[letter] = -float(np.abs(np.subtract(colour, mean)).sum()) / 100
    total = math.log(sum(math.exp(v) for v in logs.values()))
    logs = {k: v - total for k, v in logs.items()}
    return Behaviour(body=completion(max(logs, key=logs.__getitem__), logs))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(seeing) as server:
        yield server


def findings(server: FakeServer, **spec: Any) -> dict[str, Finding]:
    card = CardSpec(role="generalist", questions=(QuestionKind.VQA_CLOSED, QuestionKind.VQA_OPEN))
    agent = open_endpoint_agent(
        "a",
        EndpointAgentSpec(kind="openai", endpoint="e", card=card, **{"base": "fake"} | spec),
        EndpointSpec(url=server.url, patience=Patience(attempt_seconds=2, attempts=1)),
    )
    found = {f.check: f for f in check_agent(agent, serve="SERVE", repeats=1)}
    assert isinstance(agent.engine, EndpointEngine)
    together([agent.engine.endpoint.close()])
    return found


def test_a_fleet_that_works(server: FakeServer) -> None:
    found = findings(server)
    assert list(found) == ["reachable", "model", "structured output", "logprobs", "vision",
                           "latency", "open questions"]  # fmt: skip
    assert all(f.ok and not f.mend for f in found.values())
    assert "vllm 0.32.0" in found["reachable"].said
    assert found["latency"].said.endswith("ms a study")


def test_what_is_wrong_is_said_with_what_mends_it(server: FakeServer) -> None:
    assert "not loaded; loaded: fake" in findings(server, base="other")["model"].said
    assert findings(server, adapter="x/derm")["model"].said.startswith("'derm'")
    answer = completion("A")
    answer["choices"][0]["logprobs"] = None
    server.behave = lambda body: Behaviour(body=answer)
    missing = findings(server)["closed questions"]
    assert "logprobs" in missing.said and "--max-logprobs" in missing.mend
    server.behave = lambda body: Behaviour(body=completion("red"))
    assert "constrain" in findings(server)["closed questions"].mend
    server.behave = lambda body: Behaviour("status", status=400)
    assert "greatest_side" in findings(server)["closed questions"].mend
    server.behave = lambda body: Behaviour("garbage")
    assert "SERVE" in findings(server)["closed questions"].mend


def test_a_model_that_does_not_look_is_found_out(server: FakeServer) -> None:
    def blind(body: Any) -> Behaviour:
        if not letters_of(body):
            return Behaviour(body=completion("no json"))
        line = next(
            x for x in body["messages"][1]["content"][-1]["text"].splitlines() if "Options" in x
        )
        shown = json.loads(line.partition(": ")[2])
        red = next(k for k, v in shown.items() if v == "red")
        return Behaviour(body=completion(red, {red: -0.01}))

    server.behave = blind
    found = findings(server)
    assert found["vision"].ok is False and "1 of 3" in found["vision"].said
    assert found["open questions"].ok is False and "max_tokens" in found["open questions"].mend


def test_a_server_that_is_not_there(server: FakeServer) -> None:
    server.stop()
    (gone,) = findings(server).values()
    assert (gone.check, gone.ok) == ("reachable", False)
    assert "SERVE" in gone.mend


def test_a_model_in_this_process_is_held_to_no_schema() -> None:
    def answer(ask: Ask) -> Said:
        if ask.letters:
            return Said(probabilities=(0.4, 0.3, 0.3))
        return Said(text='{"answer": "a shadow", "evidence": []}', confidence=0.5)

    card = AgentCard(name="v", kind="transformers", role="generalist", fingerprint="v",
                     question_kinds=(QuestionKind.VQA_CLOSED, QuestionKind.VQA_OPEN))  # fmt: skip
    prompt, report = load_prompt("plain-1"), load_report("chest-1")
    agent = VisionAgent(card, FakeEngine(answer), prompt, report, Decoding(orders=3), Limits())
    found = {f.check: f for f in check_agent(agent, repeats=1)}
    assert "reachable" not in found
    assert found["open questions"].said == "answered; nothing holds it to JSON"


def test_people_and_embedded_agents(fleet: Fleet) -> None:
    from curbside.agents.fleet_spec import PersonSpec

    (person,) = check_agent(open_person("dr", PersonSpec(kind="person")))
    assert person.ok
    asked = tuple(Question(options=o, task=t) for t, o in fleet.tasks.items())
    (read,) = check_agent(fleet.agents["specialist-discs"], questions=asked)
    assert read.ok and "ms" in read.said
    (unknown,) = check_agent(fleet.agents["specialist-discs"])
    assert unknown.ok is None


# -- the command line ------------------------------------------------------------------------------


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["fleet", *arguments])
    if isinstance(result.exception, CurbsideError):
        raise result.exception
    return result.exit_code, result.output


def test_commands_of_the_fleet(tmp_path: Path, server: FakeServer) -> None:
    assert "vllm-many" in call("list")[1] and "available" in call("list")[1]
    assert "greatest_side" in call("show", "--fleet", "vllm-many")[1]
    code, text = call("serve", "--fleet", "vllm-one-gpu", "--only", "specialist")
    assert code == 0 and text.count("vllm serve") == 1
    with pytest.raises(UserError, match="those that say how: none"):
        call("serve", "--fleet", "embedded")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"generalist: a\nendpoints: {{e: {{url: '{server.url}'}}}}\n"
        "agents:\n  a: {kind: openai, endpoint: e, base: fake, card: {role: generalist}}\n"
    )
    code, text = call("check", "--fleet", str(mine))
    assert code == 0, text
    assert "3 of 3 plain colours" in text
    server.stop()
    code, text = call("check", "--fleet", str(mine))
    assert code == 1 and "next:" in text


def test_serve_names_the_vllm_that_is_missing_or_is_another_program(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "generalist: a\n"
        f"endpoints: {{e: {{url: 'http://127.0.0.1:{port}/v1', serve: {{model: m}}}}}}\n"
        "agents:\n  a: {kind: openai, endpoint: e, base: m, card: {role: generalist}}\n"
    )
    with pytest.raises(AgentUnavailable, match="no program vllm on the PATH"):
        call("serve", "--fleet", str(mine), "--start")
    own = program(tmp_path, "my-vllm", '[ "$1" = --version ] && echo 0.32.0 || exit 3')
    _, text = call("serve", "--fleet", str(mine), "--vllm", str(own))
    assert f"{own} serve m --host 127.0.0.1 --port {port}" in text
    with pytest.raises(AgentUnavailable, match="never answered"):
        call("serve", "--fleet", str(mine), "--vllm", str(own), "--start")
