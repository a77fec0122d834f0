"""``vllm serve`` for a fleet's endpoints: the commands, and a supervisor that keeps them up.

What is closed is closed here: servers listen where the fleet file says (the loopback by
default), fetch no image from an address, and send no usage statistics.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from curbside.agents.endpoint_agent import served_name
from curbside.agents.fleet_spec import EndpointAgentSpec, FleetSpec
from curbside.errors import AgentUnavailable, ConfigError, UserError

__all__ = ["MINIMUM_VLLM", "ServeCommand", "check_vllm", "serve_commands", "supervise"]

#: Below it vLLM has known holes (code from a checkpoint, media fetched from anywhere).
MINIMUM_VLLM = Version("0.14.1")
#: A reserved top-level domain (RFC 2606): no address of an image can lie in it.
_NO_DOMAIN = "media.invalid"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Starts in a row after which a server that dies at once is given up.
MOST_STARTS = 5


@dataclass(frozen=True)
class ServeCommand:
    """One server: its arguments, and what its environment needs beyond the usual."""

    endpoint: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    key_variable: str
    local: bool

    def __str__(self) -> str:
        """As one would type it; a key is named, never shown."""
        parts = [f"{k}={shlex.quote(v)}" for k, v in self.environment.items()]
        if self.key_variable:
            parts.append(f'VLLM_API_KEY="${self.key_variable}"')
        return " ".join([*parts, shlex.join(self.arguments)])


def serve_commands(spec: FleetSpec, folder: Path) -> list[ServeCommand]:
    """Commands for the endpoints of a fleet file that say how they are served.

    Args:
        folder: what adapters' paths are relative to.

    Raises:
        ConfigError: two adapters of an endpoint would have one name.
    """
    made = []
    for name, endpoint in spec.endpoints.items():
        serve = endpoint.serve
        if serve is None:
            continue
        agents = [
            a
            for a in spec.agents.values()
            if isinstance(a, EndpointAgentSpec) and a.endpoint == name
        ]
        address = urlsplit(endpoint.url)
        host = address.hostname or "127.0.0.1"
        arguments = ["vllm", "serve", _path(folder, serve.model)]
        if _path(folder, serve.model) != serve.model:
            arguments += ["--served-model-name", serve.model]
        arguments += ["--host", host, "--port", str(address.port or 8000)]
        arguments += ["--max-model-len", str(serve.max_model_len)]
        arguments += ["--gpu-memory-utilization", f"{serve.memory_share:g}"]
        most = max((a.limits.images for a in agents), default=1)
        arguments += ["--limit-mm-per-prompt", json.dumps({"image": most})]
        arguments += ["--allowed-media-domains", _NO_DOMAIN]
        adapters: dict[str, str] = {}
        for agent in agents:
            if not agent.adapter:
                continue
            known = adapters.setdefault(served_name(agent), agent.adapter)
            if known != agent.adapter:
                raise ConfigError(
                    f"endpoint {name}: adapters {known} and {agent.adapter} have one name",
                    hint="rename one of the folders",
                )
        if adapters:
            arguments += ["--enable-lora", "--max-lora-rank", str(serve.max_lora_rank)]
            arguments += ["--max-loras", str(len(adapters)), "--lora-modules"]
            arguments += [f"{n}={_path(folder, p)}" for n, p in adapters.items()]
        environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
        if serve.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = serve.gpu
        made.append(
            ServeCommand(
                name,
                (*arguments, *serve.arguments),
                environment,
                endpoint.key_variable,
                host in _LOOPBACK,
            )
        )
    return made


def check_vllm(executable: str = "vllm") -> Version:
    """The version of the vLLM that would be started.

    Raises:
        AgentUnavailable: there is none, or it is older than :data:`MINIMUM_VLLM`.
    """
    found = shutil.which(executable)
    install = f"pip install 'vllm>={MINIMUM_VLLM}' in an environment of its own"
    if found is None:
        raise AgentUnavailable(f"there is no {executable} on the PATH", hint=install)
    try:
        done = subprocess.run(
            [found, "--version"], capture_output=True, text=True, check=True, timeout=180
        )
        version = Version(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, IndexError, InvalidVersion) as e:
        raise AgentUnavailable(
            f"{executable} --version does not say its version ({type(e).__name__})", hint=install
        ) from None
    if version < MINIMUM_VLLM:
        raise AgentUnavailable(
            f"vLLM {version} has known holes; at least {MINIMUM_VLLM} is needed", hint=install
        )
    return version


def supervise(
    commands: Sequence[ServeCommand],
    logs: Path,
    *,
    say: Callable[[str], None],
    wait: float = 1.0,
    rounds: int | None = None,
) -> None:
    """Start servers and start again those that die; ends all of them on the way out.

    Args:
        logs: folder for one log file a server.
        wait: seconds between looks, and between a death and the next start.
        rounds: looks after which to stop; None: until interrupted.

    Raises:
        UserError: the endpoint is on another machine.
        AgentUnavailable: a server died ``MOST_STARTS`` times in a row within a minute each.
    """
    far = [c.endpoint for c in commands if not c.local]
    if far:
        raise UserError(
            f"endpoint {far[0]} is on another machine and cannot be started from here",
            hint="curbside fleet serve prints the command to run there",
        )
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    started: dict[str, float] = {}
    in_a_row = dict.fromkeys((c.endpoint for c in commands), 0)
    try:
        while rounds is None or rounds > 0:
            for command in commands:
                name, process = command.endpoint, running.get(command.endpoint)
                if process is not None and process.poll() is None:
                    continue
                if process is not None:
                    say(f"{name} ended with {process.returncode}; its log: {logs / name}.log")
                    lived = time.monotonic() - started[name]
                    in_a_row[name] = in_a_row[name] + 1 if lived < 60 else 0
                    if in_a_row[name] >= MOST_STARTS:
                        raise AgentUnavailable(
                            f"endpoint {name} died {MOST_STARTS} times in a row",
                            hint=f"read {logs / name}.log",
                        )
                running[name] = _start(command, logs / f"{name}.log")
                started[name] = time.monotonic()
                say(f"{name} started (process {running[name].pid})")
            time.sleep(wait)
            rounds = None if rounds is None else rounds - 1
    finally:
        _end(list(running.values()))


def _start(command: ServeCommand, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | dict(command.environment)
    if command.key_variable:
        environment["VLLM_API_KEY"] = os.environ.get(command.key_variable, "")
    with log.open("ab") as out:
        return subprocess.Popen(
            command.arguments, env=environment, stdout=out, stderr=out, start_new_session=True
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path(folder: Path, name: str) -> str:
    """A folder beside the fleet file as a path; a model's name as it is."""
    beside = folder / name
    return str(beside.absolute()) if beside.is_dir() else name
