"""``vllm serve`` for a fleet's endpoints: the commands, and what must hold before they run.

What is closed is closed here: servers listen where the fleet file says (the loopback by
default), fetch no image from an address, and send no usage statistics.
:mod:`curbside.agents.supervising` starts them and keeps them up.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from curbside.agents.endpoint_agent import served_name
from curbside.agents.fleet_spec import EndpointAgentSpec, FleetSpec
from curbside.errors import AgentUnavailable, ConfigError, UserError

__all__ = ["MINIMUM_VLLM", "ServeCommand", "check_ready", "check_vllm", "serve_commands"]

#: Below it vLLM has known holes (code from a checkpoint, media fetched from anywhere).
MINIMUM_VLLM = Version("0.14.1")
#: A reserved top-level domain (RFC 2606): no address of an image can lie in it.
_NO_DOMAIN = "media.invalid"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeCommand:
    """One server: its arguments, and what its environment needs beyond the usual."""

    endpoint: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    key_variable: str
    scheme: str
    host: str
    port: int
    model: str
    adapters: Mapping[str, str]
    max_lora_rank: int

    @property
    def local(self) -> bool:
        """Whether it is served on this machine."""
        return self.host in _LOOPBACK

    def run_by(self, program: str) -> ServeCommand:
        """The same command with another ``vllm``."""
        return replace(self, arguments=(program, *self.arguments[1:]))

    def __str__(self) -> str:
        """As one would type it; a key is named, never shown."""
        parts = [f"{k}={shlex.quote(v)}" for k, v in self.environment.items()]
        if self.key_variable:
            parts.append(f'VLLM_API_KEY="${self.key_variable}"')
        return " ".join([*parts, shlex.join(self.arguments)])


def serve_commands(spec: FleetSpec, folder: Path, program: str = "vllm") -> list[ServeCommand]:
    """Commands for the endpoints of a fleet file that say how they are served.

    Args:
        folder: what adapters' paths are relative to.
        program: the ``vllm`` to run.

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
        model = _path(folder, serve.model)
        port = address.port or (443 if address.scheme == "https" else 80)
        arguments = [program, "serve", model]
        if model != serve.model:
            arguments += ["--served-model-name", serve.model]
        arguments += ["--host", host, "--port", str(port)]
        arguments += ["--max-model-len", str(serve.max_model_len)]
        arguments += ["--gpu-memory-utilization", f"{serve.memory_share:g}"]
        most = max((a.limits.images for a in agents), default=1)
        arguments += ["--limit-mm-per-prompt", json.dumps({"image": most})]
        arguments += ["--allowed-media-domains", _NO_DOMAIN]
        adapters: dict[str, str] = {}
        for agent in agents:
            if not agent.adapter:
                continue
            own = _path(folder, agent.adapter)
            known = adapters.setdefault(served_name(agent), own)
            if known != own:
                raise ConfigError(
                    f"endpoint {name}: adapters {known} and {own} have one name",
                    hint="rename one of the folders",
                )
        if adapters:
            arguments += ["--enable-lora", "--max-lora-rank", str(serve.max_lora_rank)]
            arguments += ["--max-loras", str(len(adapters)), "--lora-modules"]
            arguments += [f"{n}={p}" for n, p in adapters.items()]
        environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
        if serve.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = serve.gpu
        made.append(
            ServeCommand(
                name,
                (*arguments, *serve.arguments),
                environment,
                endpoint.key_variable,
                address.scheme,
                host,
                port,
                model,
                adapters,
                serve.max_lora_rank,
            )
        )
    return made


def check_vllm(program: str = "vllm") -> tuple[str, Version]:
    """Path and version of the vLLM that would be started.

    Raises:
        AgentUnavailable: there is none, or it is older than :data:`MINIMUM_VLLM`.
    """
    found = shutil.which(Path(program).expanduser())
    install = (
        f"pip install 'vllm>={MINIMUM_VLLM}' in an environment of its own, "
        "then: curbside fleet serve --start --vllm ENVIRONMENT/bin/vllm"
    )
    if found is None:
        where = "" if "/" in program else " on the PATH"
        raise AgentUnavailable(f"there is no program {program}{where}", hint=install)
    found = str(Path(found).absolute())
    try:
        done = subprocess.run(
            [found, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=180,
        )
        version = Version(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, IndexError, InvalidVersion) as e:
        lines = str(getattr(e, "stderr", None) or "").strip().splitlines()
        why = lines[-1] if lines else type(e).__name__
        raise AgentUnavailable(
            f"{found} --version does not say its version: {why}", hint=install
        ) from None
    if version < MINIMUM_VLLM:
        raise AgentUnavailable(
            f"vLLM {version} ({found}) has known holes; at least {MINIMUM_VLLM} is needed",
            hint=install,
        )
    return found, version


def check_ready(commands: Sequence[ServeCommand]) -> None:
    """Refuse, before anything is started, what could not be served from here.

    Raises:
        UserError: an endpoint is on another machine, or its port is taken.
        ConfigError: two endpoints have one address, a key is not set, or a folder that the
            fleet file names is no model or no adapter.
    """
    by_address: dict[tuple[str, int], str] = {}
    for command in commands:
        name = command.endpoint
        if not command.local:
            raise UserError(
                f"endpoint {name} is on another machine and cannot be started from here",
                hint="curbside fleet serve prints the command to run there",
            )
        other = by_address.setdefault((command.host, command.port), name)
        if other != name:
            raise ConfigError(
                f"endpoints {other} and {name} have one address, {command.host}:{command.port}",
                hint="give each a port of its own",
            )
        if command.key_variable and not os.environ.get(command.key_variable):
            raise ConfigError(
                f"endpoint {name}: the environment variable {command.key_variable} is not set, so "
                "its server would ask for no key",
                hint=f"export {command.key_variable}=…, or leave key_variable out",
            )
        _check_folders(command)
    for command in commands:
        _check_port(command)


def _check_folders(command: ServeCommand) -> None:
    model = Path(command.model).expanduser()
    if command.model.startswith(("/", ".", "~")) and not (model / "config.json").is_file():
        raise ConfigError(
            f"endpoint {command.endpoint}: serve.model {command.model} is no folder with a "
            "config.json",
            hint="name the folder of a model as save_pretrained writes it, or a model's name",
        )
    for name, folder in command.adapters.items():
        where = f"endpoint {command.endpoint}: adapter {name} ({folder})"
        try:
            rank = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))["r"]
            if not isinstance(rank, int):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigError(
                f"{where} is no folder with an adapter_config.json that says its rank "
                f"({type(e).__name__})",
                hint="name the folder that curbside finetune or peft wrote, beside the fleet file",
            ) from None
        if rank > command.max_lora_rank:
            raise ConfigError(
                f"{where} has rank {rank}, above serve.max_lora_rank {command.max_lora_rank}",
                hint=f"serve: {{max_lora_rank: {rank}}} in the fleet file",
            )


def _check_port(command: ServeCommand) -> None:
    family = socket.AF_INET6 if ":" in command.host else socket.AF_INET
    with socket.socket(family) as probe:
        # as the server will bind: a port of connections that have just ended is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((command.host, command.port))
        except OSError as e:
            raise UserError(
                f"{command.host}:{command.port} of endpoint {command.endpoint} cannot be listened "
                f"on: {os.strerror(e.errno or 0)}",
                hint=f"see who does: lsof -i :{command.port}; end it, or change the endpoint's url",
            ) from None


def _path(folder: Path, name: str) -> str:
    """A folder beside the fleet file as a path; a model's name as it is."""
    beside = folder / name
    return str(beside.absolute()) if beside.is_dir() else name
