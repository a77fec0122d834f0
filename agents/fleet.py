"""A fleet that is ready to read, and the embedded one as stored: verified, then loaded.

Loading checks every file against its checksum before a tensor is read.  Knows nothing of
training (:mod:`curbside.agents.train` writes what is read here) nor of routing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from curbside.agents.contract import Agent, AgentCard
from curbside.agents.cost import BuildCost
from curbside.errors import IndexCorrupt, IndexMismatch, NotBuilt
from curbside.indexes.features import FeatureSource
from curbside.indexes.text import TextEncoder
from curbside.storage import file_digest
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.agents.readers import Reader

__all__ = [
    "AGENT_FILE",
    "AGENT_FORMAT",
    "FLEET_FILE",
    "FORMAT",
    "BuildCost",
    "Fleet",
    "FleetFile",
    "StoredAgent",
    "read_agent_file",
    "read_fleet_file",
]

FLEET_FILE = "fleet.json"
AGENT_FILE = "agent.json"
#: Raise when the fleet file, or who is in a fleet, changes.
FORMAT = 3
#: Raise when what is stored of an agent, or how it is trained, changes.
AGENT_FORMAT = 2
_REBUILD = "curbside build --cases MANIFEST (or make demo) builds the fleet again"


class StoredAgent(BaseModel):
    """One agent of a fleet: its folder, and the checksum of the card in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: str
    sha256: str
    modality: str | None


class FleetFile(BaseModel):
    """``fleet.json``: the agents in use, and what they were trained to answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    trunk: str
    agents: tuple[StoredAgent, ...]
    generalist: str
    colleagues: tuple[str, ...] = ()
    tasks: dict[str, tuple[str, ...]]
    tasks_of: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.generalist not in {a.name for a in self.agents}:
            raise ValueError(f"the generalist {self.generalist} is none of the agents")
        return self


@dataclass(frozen=True)
class Fleet:
    """Agents that are ready to read.

    Args:
        agents: name → agent, specialists first.
        specialists: modality → name of its specialist.
        generalist: name of the generalist that serves.
        tasks: task → options as trained.
        tasks_of: modality → its tasks, the one with most training cases first.
        build_cost: by name of agent.
        fingerprint: hash over all agents' weights, not over what building them took.
        people: who answers in the worklist; they are never asked by a policy.
        colleagues: generalists besides the one that serves, for second opinions.
    """

    agents: Mapping[str, Agent]
    specialists: Mapping[str, str]
    generalist: str
    tasks: Mapping[str, tuple[str, ...]]
    tasks_of: Mapping[str, tuple[str, ...]]
    build_cost: Mapping[str, BuildCost]
    fingerprint: str
    people: Mapping[str, Agent] = field(default_factory=lambda: MappingProxyType({}))
    colleagues: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All agents, in order."""
        return tuple(self.agents)

    @property
    def commonest_task(self) -> Mapping[str, str]:
        """Modality → its task with most training cases."""
        return {modality: tasks[0] for modality, tasks in self.tasks_of.items()}

    @property
    def serving(self) -> tuple[str, ...]:
        """The agents that policies may ask: specialists, the serving generalist, colleagues."""
        return tuple(dict.fromkeys((*self.specialists.values(), self.generalist, *self.colleagues)))

    @classmethod
    def load(cls, folder: Path, source: FeatureSource, text: TextEncoder) -> Fleet:
        """Verify every file that :func:`curbside.agents.train.train_fleet` wrote.

        An agent's tensors are read when it is first asked: whole files that do not fit this
        version raise IndexCorrupt then.

        Raises:
            NotBuilt: there is no fleet.
            IndexMismatch: it stands on another encoder or format.
            IndexCorrupt: a file is missing or its bytes differ.
        """
        from curbside.agents.embedded import EmbeddedAgent
        from curbside.agents.trunk import Trunk, trunks_fingerprint, trunks_of

        file = read_fleet_file(folder)
        trunks = trunks_of(source)
        fingerprint = trunks_fingerprint(trunks)
        if file.format != FORMAT or file.trunk != fingerprint:
            raise IndexMismatch(
                f"the fleet was built on trunk {file.trunk[:12]} in format {file.format}; this "
                f"encoder gives {fingerprint[:12]} and format {FORMAT}",
                hint=_REBUILD,
            )
        agents: dict[str, Agent] = {}
        weights = [file.generalist]
        cost: dict[str, BuildCost] = {}
        specialists: dict[str, str] = {}
        for stored in file.agents:
            meta = read_agent_file(folder / stored.folder, stored.name, stored.sha256)
            try:
                card = AgentCard.model_validate(meta["card"])
                weights += [card.fingerprint, json.dumps([meta["blend"], meta["files"]])]
                cost[stored.name] = BuildCost(**meta["build_cost"])
                trunk = trunks[meta.get("trunk", Trunk.name)]
            except (KeyError, TypeError, ValueError) as e:
                raise _misfit(stored.name, e) from e
            where = folder / stored.folder
            open_reader = partial(_open_reader, stored.name, meta, where, text, source.folder)
            agents[stored.name] = EmbeddedAgent(card, open_reader, trunk)
            if stored.modality is not None:
                specialists[stored.modality] = stored.name
        return cls(
            agents=MappingProxyType(agents),
            specialists=MappingProxyType(specialists),
            generalist=file.generalist,
            colleagues=file.colleagues,
            tasks=MappingProxyType(file.tasks),
            tasks_of=MappingProxyType(file.tasks_of),
            build_cost=MappingProxyType(cost),
            fingerprint=content_hash("fleet", *weights),
        )


def _open_reader(
    name: str, meta: Mapping[str, Any], folder: Path, text: TextEncoder, cache: Path | None
) -> Reader:
    """An agent's reader from files that were checked.  Raises IndexCorrupt."""
    from curbside.agents.stored import load_reader

    try:
        return load_reader(meta, folder, text, cache)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise _misfit(name, e) from e


def read_fleet_file(folder: Path) -> FleetFile:
    """``fleet.json`` of a folder, checked.  Raises NotBuilt and IndexCorrupt."""
    try:
        return FleetFile.model_validate_json((folder / FLEET_FILE).read_bytes())
    except FileNotFoundError:
        raise NotBuilt(f"there is no fleet in {folder}", hint=_REBUILD) from None
    except (OSError, ValidationError) as e:
        raise IndexCorrupt(
            f"{folder / FLEET_FILE} cannot be read ({type(e).__name__})", hint=_REBUILD
        ) from None


def read_agent_file(folder: Path, agent: str, sha256: str | None) -> dict[str, Any]:
    """``agent.json`` of an agent's folder, once all files that it names are whole.

    Args:
        sha256: what ``fleet.json`` says of the file, or None where no fleet names it yet.

    Raises:
        IndexCorrupt: a file is missing, cannot be read, or its bytes differ.
    """
    try:
        if sha256 is not None and file_digest(folder / AGENT_FILE) != sha256:
            raise _corrupt(agent, AGENT_FILE, "its bytes differ from the fleet's record")
        meta: dict[str, Any] = json.loads((folder / AGENT_FILE).read_bytes())
        for name, expected in meta["files"].items():
            if file_digest(folder / name) != expected:
                raise _corrupt(agent, name, "its checksum differs")
    except OSError as e:
        missing = isinstance(e, FileNotFoundError)
        why = "it is missing" if missing else f"it cannot be read ({e.strerror})"
        raise _corrupt(agent, Path(str(e.filename)).name, why) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _corrupt(agent, AGENT_FILE, "it is not what was written") from None
    return meta


def _misfit(agent: str, error: Exception) -> IndexCorrupt:
    return _corrupt(agent, AGENT_FILE, f"it does not fit this version ({error})")


def _corrupt(agent: str, file: str, why: str) -> IndexCorrupt:
    return IndexCorrupt(f"agent {agent}: {file} cannot be used: {why}", hint=_REBUILD)
