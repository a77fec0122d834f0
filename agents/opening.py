"""Opens a fleet file: every agent through its kind, and who is whose specialist.

One function makes what the router works with, whatever the agents are.  A fleet of
embedded agents alone is the stored fleet itself, with its own fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from curbside.agents.contract import Agent
from curbside.agents.cost import BuildCost, Costed
from curbside.agents.fleet import Fleet
from curbside.agents.fleet_spec import AgentSpec, EmbeddedSpec, FleetSpec, PersonSpec
from curbside.agents.kinds import opener
from curbside.config import model_digest
from curbside.errors import ConfigError
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.agents.endpoint import Endpoint

__all__ = ["open_agent", "open_fleet", "stored_agents"]


def open_fleet(
    spec: FleetSpec,
    *,
    stored: Callable[[], Fleet],
    tasks: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    tasks_of: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    folder: Path | None = None,
) -> Fleet:
    """All agents of a fleet file, ready to read; no server is called.

    Args:
        stored: opens the fleet that ``curbside build`` trained; called only where the file
            has embedded agents.
        tasks: task → options, and ``tasks_of``: modality → tasks, where nothing is trained.
        folder: what paths in the file are relative to.

    Raises:
        ConfigError: an agent that cannot be opened as it is described.
        MissingExtra: a kind needs something that is not installed.
        NotBuilt, IndexMismatch, IndexCorrupt: of the embedded agents.
    """
    trained = stored() if spec.embedded else None
    agents: dict[str, Agent] = {}
    people: dict[str, Agent] = {}
    specialists: dict[str, str] = {}
    generalists: list[str] = []
    cost: dict[str, BuildCost] = dict(trained.build_cost) if trained else {}
    servers: dict[str, Endpoint] = {}
    for name, agent in spec.agents.items():
        if isinstance(agent, EmbeddedSpec):
            assert trained is not None
            opened = stored_agents(name, agent, trained)
            specialists |= {
                m: n for m, n in trained.specialists.items() if n in opened and m not in specialists
            }
            generalists += [n for n in trained.colleagues if n in opened]
        else:
            opened = {name: open_agent(name, agent, spec, folder, servers)}
            if not isinstance(agent, PersonSpec) and agent.card.role == "specialist":
                for modality in agent.card.modalities:
                    specialists.setdefault(modality, name)
            elif not isinstance(agent, PersonSpec):
                generalists.append(name)
        twice = opened.keys() & agents.keys()
        if twice:
            raise ConfigError(f"two agents of the fleet are named {min(twice)}")
        (people if isinstance(agent, PersonSpec) else agents).update(opened)
        for n, a in opened.items():
            if isinstance(a, Costed) and a.build_cost is not None:
                cost[n] = a.build_cost
    generalist = spec.generalist or (trained.generalist if trained else "")
    if generalist not in agents:
        raise ConfigError(
            f"generalist {generalist!r} is none of the fleet's agents: {', '.join(agents)}"
        )
    if trained is not None and spec.only_embedded:
        return replace(trained, agents=MappingProxyType(agents), people=MappingProxyType(people))
    mark = content_hash(
        "fleet file",
        model_digest(spec),
        trained.fingerprint if trained else "",
        *(a.card.fingerprint for a in agents.values()),
    )
    return Fleet(
        agents=MappingProxyType(agents),
        specialists=MappingProxyType(specialists),
        generalist=generalist,
        colleagues=tuple(n for n in generalists if n != generalist),
        tasks=trained.tasks if trained else tasks,
        tasks_of=trained.tasks_of if trained else tasks_of,
        build_cost=MappingProxyType(cost),
        fingerprint=mark,
        people=MappingProxyType(people),
    )


def open_agent(
    name: str,
    agent: AgentSpec,
    spec: FleetSpec,
    folder: Path | None = None,
    servers: dict[str, Endpoint] | None = None,
) -> Agent:
    """One agent that is no embedded one.  Raises ConfigError and MissingExtra.

    Args:
        servers: endpoints that are open already, by name; filled up.
    """
    open_ = opener(agent.kind)
    found: Agent
    if agent.kind == "openai":
        found = open_(name, agent, spec.endpoints[agent.endpoint], folder, servers=servers)
    elif agent.kind in ("transformers", "encoder", "small-vlm"):
        found = open_(name, agent, folder)
    else:
        found = open_(name, agent)
    return found


def stored_agents(name: str, agent: EmbeddedSpec, trained: Fleet) -> dict[str, Agent]:
    """The trained agents whose names fit, their cards filled up from the fleet file.

    Raises:
        ConfigError: a pattern that fits none.
    """
    from curbside.agents.embedded import EmbeddedAgent

    picked: dict[str, Agent] = {}
    for pattern in agent.include:
        fitting = [n for n in trained.agents if fnmatchcase(n, pattern)]
        if not fitting:
            raise ConfigError(
                f"agent {name}: include {pattern!r} fits none of {', '.join(trained.agents)}"
            )
        picked |= {n: trained.agents[n] for n in fitting}
    ordered: Sequence[str] = [n for n in trained.agents if n in picked]
    said = {
        "licence": agent.licence,
        "intended_use": agent.intended_use,
        "runs_on": agent.runs_on,
    }
    out: dict[str, Agent] = {}
    for n in ordered:
        found = picked[n]
        if isinstance(found, EmbeddedAgent):
            found = found.with_card(found.card.model_copy(update=said))
        out[n] = found
    return out
