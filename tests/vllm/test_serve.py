"""``curbside fleet serve --start`` with a real vLLM: up, checked, killed, up again, ended whole.

Run by ``make test-vllm``, as :mod:`test_vllm` is.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from real_vllm import MARKS
from tiny_models import save_adapter, save_llava

from curbside.agents.finetuning.export import for_vllm

pytestmark = MARKS
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: The arguments that a random model on a CPU needs beyond those of any fleet.
ARGUMENTS = [
    "--dtype", "float32", "--enforce-eager", "--max-logprobs", "20",
    "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
]  # fmt: skip
SECONDS = 600
#: As from a terminal: what a shell starts in the background ignores Ctrl-C.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from curbside.cli import main
main()
"""


@dataclass(frozen=True)
class Place:
    """A folder with checkpoints, adapters, a vllm to run and a home of its own."""

    folder: Path

    def fleet(self, model: str, port: int) -> Path:
        def agent(adapter: str, **card: object) -> dict[str, object]:
            return {
                "kind": "openai", "endpoint": "e", "base": model, "adapter": adapter,
                "limits": {"images": 2, "greatest_side": 56, "text": 120},
                "decoding": {"constrain": "choice", "max_tokens": 2048}, "card": card,
            }  # fmt: skip

        path = self.folder / f"{Path(model).name}.yaml"
        serve = {"model": model, "max_model_len": 4096, "max_lora_rank": 8, "arguments": ARGUMENTS}
        endpoint = {
            "url": f"http://127.0.0.1:{port}/v1",
            "patience": {"attempt_seconds": 120, "total_seconds": 240, "concurrency": 8},
            "serve": serve,
        }
        questions = ["diagnosis", "vqa_closed", "vqa_open"]
        agents = {
            "tiny": agent("", role="generalist", questions=questions),
            "xray": agent("adapters/a", role="specialist", modalities=["xray"]),
            "ct": agent("adapters/b", role="specialist", modalities=["ct"]),
        }
        made = {"generalist": "tiny", "endpoints": {"e": endpoint}, "agents": agents}
        path.write_text(yaml.safe_dump(made))
        return path

    def curbside(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line in a process of its own, as from a terminal."""
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, "fleet", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=self.folder,
            env=os.environ | {
                "CURBSIDE_HOME": str(self.folder / "home"), "VLLM_CPU_KVCACHE_SPACE": "1",
                "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
            },
        )  # fmt: skip

    def start(self, fleet: Path) -> subprocess.Popen[str]:
        program = str(self.folder / "vllm")
        return self.curbside("serve", "--fleet", fleet.name, "--start", "--vllm", program)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("serve")
    base = save_llava(folder / "llava")
    for_vllm(base, folder / "models" / "llava")
    for i, name in enumerate(("a", "b"), 1):
        save_adapter(base, folder / "adapters" / name, seed=i)
    broken = for_vllm(base, folder / "models" / "broken")
    for weights in broken.glob("*.safetensors"):
        whole = weights.read_bytes()
        weights.unlink()  # may be one file with the model's
        weights.write_bytes(whole[:1000])
    program = folder / "vllm"
    real = ROOT / ".venv-vllm" / "bin" / "vllm"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={HERE / "site"} exec {real} "$@"\n')
    program.chmod(0o755)
    return Place(folder)


@pytest.fixture
def port() -> Iterator[int]:
    import pytest_socket

    pytest_socket.enable_socket()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        number = int(s.getsockname()[1])
    yield number


def until(process: subprocess.Popen[str], what: str) -> str:
    """Reads on until a line holds it; returns that line."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        print(line, end="")
        seen.append(line)
        if what in line:
            return line
    pytest.fail(f"ended without {what!r}: {''.join(seen)}")


def group(leader: int) -> set[int]:
    """Processes of a server: those of its process group that run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended while we looked
            continue
        if int(pgid) == leader and state != "Z":
            found.add(int(stat.parent.name))
    return found


def leader_of(line: str) -> int:
    found = re.search(r"process (\d+)", line)
    assert found
    return int(found[1])


def engine_of(leader: int) -> int:
    """The engine writes its name over its command line."""
    (engine,) = (
        p for p in group(leader) if b"EngineCore" in Path(f"/proc/{p}/cmdline").read_bytes()
    )
    return engine


def gone(leader: int) -> None:
    deadline = time.monotonic() + 30
    while left := group(leader):
        assert time.monotonic() < deadline, f"{left} outlived their server"
        time.sleep(0.1)


def refuses_addresses(url: str, folder: Path) -> None:
    """No image is fetched from an address, nor read from a disk."""
    Image.new("RGB", (56, 56)).save(folder / "a.png")
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0)
        there = f"http://127.0.0.1:{trap.getsockname()[1]}/a.png"
        asked = {there: "allowed domains", f"file://{folder}/a.png": "allowed-local-media-path"}
        for image, why in asked.items():
            shown = {"type": "image_url", "image_url": {"url": image}}
            content = [shown, {"type": "text", "text": "What is it?"}]
            body = {
                "model": "models/llava",
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 1,
            }
            request = urllib.request.Request(
                f"{url}/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            # vLLM 0.32 calls the one a bad request and the other an error of its own
            assert why in refused.value.read().decode()
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_a_fleet_is_served_checked_killed_served_again_and_ended(place: Place, port: int) -> None:
    fleet = place.fleet("models/llava", port)
    supervisor = place.start(fleet)
    try:
        assert "vLLM 0." in until(supervisor, "vLLM ")
        first = leader_of(until(supervisor, "e started"))
        until(supervisor, f"e answers at 127.0.0.1:{port}")
        assert len(group(first)) > 2

        said, _ = place.curbside("check", "--fleet", fleet.name).communicate(timeout=SECONDS)
        print(said)
        for check in ("reachable", "structured output", "logprobs", "latency"):
            assert len(re.findall(rf"  ok +{check} ", said)) == 3, said
        for model in ("models/llava", "a", "b"):
            assert f"{model} is loaded" in said
        assert re.search(r"  ok +open questions ", said)
        # its weights are drawn by lot: that it does not see is what the check is for
        assert "plain colours named right" in said

        refuses_addresses(f"http://127.0.0.1:{port}/v1", place.folder)

        second = place.start(fleet)
        said, _ = second.communicate(timeout=60)
        assert second.returncode == 2 and f"127.0.0.1:{port} of endpoint e cannot be" in said

        os.kill(first, signal.SIGKILL)
        until(supervisor, "e was killed by SIGKILL")
        again = leader_of(until(supervisor, "e started"))
        gone(first)
        until(supervisor, "e answers")

        os.kill(engine_of(again), signal.SIGKILL)
        until(supervisor, "e ended with ")
        third = leader_of(until(supervisor, "e started"))
        gone(again)
        until(supervisor, "e answers")

        supervisor.send_signal(signal.SIGINT)
        rest, _ = supervisor.communicate(timeout=60)
        assert supervisor.returncode == 0 and "e ended with 0" in rest
        gone(third)
    finally:
        supervisor.terminate()
        supervisor.communicate(timeout=60)
    log = (place.folder / "home" / "serve" / "e.log").read_text(errors="replace")
    assert log.count("Application startup complete") == 3


def test_one_that_is_still_loading_is_ended_whole(place: Place, port: int) -> None:
    supervisor = place.start(place.fleet("models/llava", port))
    try:
        leader = leader_of(until(supervisor, "e started"))
        deadline = time.monotonic() + SECONDS
        while len(group(leader)) < 3:  # the engine has been started
            assert time.monotonic() < deadline and supervisor.poll() is None
            time.sleep(0.1)
        supervisor.send_signal(signal.SIGTERM)
        rest, _ = supervisor.communicate(timeout=60)
    finally:
        supervisor.terminate()
        supervisor.communicate(timeout=60)
    assert supervisor.returncode == 0 and "answers" not in rest
    gone(leader)


def test_a_checkpoint_that_does_not_load_is_given_up_with_the_cause(
    place: Place, port: int
) -> None:
    supervisor = place.start(place.fleet("models/broken", port))
    said, _ = supervisor.communicate(timeout=SECONDS)
    print(said)
    assert supervisor.returncode == 1
    assert said.count("e started") == 2
    assert "error[agent-unavailable]: endpoint e died 2 times in a row and never answered" in said
    assert "SafetensorError" in said.partition("error[agent-unavailable]")[2]
    for line in said.splitlines():
        if "e started" in line:
            gone(leader_of(line))
