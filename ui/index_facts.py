"""What the fleet page shows: agents and their health, the index, its map.  Plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.agents.fleet import read_agent_file, read_fleet_file
from curbside.agents.fleet_spec import (
    AgentSpec,
    EmbeddedSpec,
    EndpointAgentSpec,
    FleetSpec,
    fleet_path,
    load_fleet_spec,
)
from curbside.config import Config
from curbside.errors import CurbsideError, StorageError
from curbside.indexes.store import MANIFEST
from curbside.router.versions import CASES_FILE, VersionStore
from curbside.storage import write_bytes

__all__ = [
    "AgentRow",
    "IndexFacts",
    "IndexVersion",
    "MapPoints",
    "agent_rows",
    "fleet_rows",
    "index_facts",
    "load_map",
    "make_map",
]

_MAP = "console/map.safetensors"
#: Most indexed cases on the map; a seeded sample of larger indexes.
_POINTS = 4000


@dataclass(frozen=True)
class AgentRow:
    """One agent of the fleet.

    Args:
        problem: ``""`` where its files are whole.
        declared: what the fleet file says where nothing of it is stored here (a model behind a
            server, in this process, a plug-in): its health is unknown until it is asked, and
            nothing was counted of its training.
    """

    name: str
    role: str
    serves: bool
    modalities: tuple[str, ...]
    tasks: int
    cost: float
    fingerprint: str
    limits: str
    labels: int
    parameters: int
    seconds: float
    peak_mib: float
    problem: str = ""
    declared: str = ""


def fleet_rows(home: Path, config: Config) -> list[AgentRow]:
    """Every agent of the fleet file that serves: the trained ones as stored, the others as told.

    Raises:
        ConfigError: the fleet file cannot be read.
        NotBuilt, IndexCorrupt: it has trained agents and there are none, or they are damaged.
    """
    spec = load_fleet_spec(fleet_path(config.fleet.file, home))
    stored = agent_rows(home / config.stores.fleet) if spec.embedded else []
    askable = spec.askable([r.name for r in stored])
    trained = {r.name: r for r in stored}
    out: list[AgentRow] = []
    taken: set[str] = set()
    for name in askable:
        row = trained.get(name)
        if row is not None:
            serves = (
                name == spec.generalist if spec.generalist and not row.modalities else row.serves
            )
            row = replace(row, serves=serves)
        else:
            row = _declared(name, spec.agents[name], spec, taken)
        if row.role == "specialist" and row.serves:
            taken |= set(row.modalities)
        out.append(row)
    return out


def _declared(name: str, agent: AgentSpec, spec: FleetSpec, taken: set[str]) -> AgentRow:
    assert not isinstance(agent, EmbeddedSpec)
    card = agent.card
    serves = name == spec.generalist or (
        card.role == "specialist" and not set(card.modalities) <= taken
    )
    what = getattr(agent, "base", "") or getattr(agent, "use", "") or getattr(agent, "folder", "")
    declared = f"{agent.kind} · {what}"
    if isinstance(agent, EndpointAgentSpec):
        declared += f" at {spec.endpoints[agent.endpoint].url}"
    return AgentRow(
        name=name,
        role=card.role,
        serves=serves,
        modalities=card.modalities,
        tasks=len(card.tasks),
        cost=card.cost,
        fingerprint="",
        limits=card.limits,
        labels=0,
        parameters=0,
        seconds=0,
        peak_mib=0,
        declared=declared,
    )


def agent_rows(folder: Path) -> list[AgentRow]:
    """Every agent of a fleet with its health: all its files are read against their checksums.

    Raises:
        NotBuilt, IndexCorrupt: there is no fleet, or its own file is damaged.
    """
    fleet = read_fleet_file(folder)
    out = []
    for stored in fleet.agents:
        serves = stored.modality is not None or stored.name == fleet.generalist
        try:
            meta = read_agent_file(folder / stored.folder, stored.name, stored.sha256)
        except CurbsideError as e:
            out.append(AgentRow(stored.name, "?", serves, (), 0, 0, "", "", 0, 0, 0, 0, e.message))
            continue
        card, cost = meta.get("card", {}), meta.get("build_cost", {})
        out.append(
            AgentRow(
                name=stored.name,
                role=str(card.get("role", "?")),
                serves=serves,
                modalities=tuple(card.get("modalities", ())),
                tasks=len(card.get("tasks", ())),
                cost=float(card.get("cost", 0)),
                fingerprint=str(card.get("fingerprint", "")),
                limits=str(card.get("limits", "")),
                labels=int(cost.get("labels", 0)),
                parameters=int(cost.get("trainable_parameters", 0)),
                seconds=float(cost.get("train_seconds", 0)),
                peak_mib=float(cost.get("peak_mib", 0)),
            )
        )
    return out


def served_index(home: Path, config: Config) -> Path:
    """Folder of the index that serves.  Raises NotBuilt, IndexCorrupt."""
    store = VersionStore(home / config.stores.index)
    return store.path(store.current()) / "index"


def served_cases(home: Path, config: Config) -> Path:
    """Manifest of the cases that the serving index was made from.  Raises as above."""
    return served_index(home, config).with_name(CASES_FILE)


@dataclass(frozen=True)
class IndexVersion:
    """One version of the index.  ``why`` says how it came to serve, ``""`` where it never did."""

    name: str
    created: str
    cases: int
    added: int
    serves: bool
    why: str


def versions(home: Path, config: Config) -> list[IndexVersion]:
    """Every version of the index, newest first.  Raises NotBuilt, IndexCorrupt."""
    store = VersionStore(home / config.stores.index)
    current, told = store.current(), {}
    for one in store.serving().history:
        told[one.version] = f"{one.how} {one.at[:16].replace('T', ' ')}" + (
            f": {one.why}" if one.why else ""
        )
    out = []
    for name in reversed(store.names()):
        facts = store.facts(name)
        n, added = sum(facts.cases.values()), sum(facts.added.values())
        made = facts.created[:16].replace("T", " ")
        out.append(IndexVersion(name, made, n, added, name == current, told.get(name, "")))
    return out


@dataclass(frozen=True)
class IndexFacts:
    """What the index says of itself.  Counts by modality and by calibration stratum."""

    cases: int
    dimensions: int
    neighbours: int
    novelty: str
    created: str
    digest: str
    calibration: str
    encoder: str
    by_modality: dict[str, int]
    by_stratum: dict[str, int]


def index_facts(folder: Path) -> IndexFacts:
    """From the index's own manifest; nothing else is opened.

    Raises:
        StorageError: there is no index, or its manifest cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        facts = manifest["facts"]
        return IndexFacts(
            cases=int(facts["cases"]),
            dimensions=int(facts["dimensions"]),
            neighbours=int(facts["neighbours"]),
            novelty=str(facts["novelty"]),
            created=str(manifest["created"]),
            digest=str(facts["index_digest"]),
            calibration=str(facts["calibration_digest"]),
            encoder=str(facts["encoder"]),
            by_modality={str(k): int(v) for k, v in facts["cases_by_modality"].items()},
            by_stratum={str(k): int(v) for k, v in facts["calibration_by_stratum"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StorageError(
            f"the index cannot be described ({type(e).__name__})",
            hint="curbside build --cases MANIFEST",
        ) from e


@dataclass(frozen=True)
class MapPoints:
    """Indexed cases in two dimensions.

    Args:
        at: float32 (n, 2); ids, modalities, labels: n each.
    """

    at: NDArray[np.float32]
    ids: tuple[str, ...]
    modalities: tuple[str, ...]
    labels: tuple[str, ...]

    def place(self, neighbours: Sequence[tuple[str, float]]) -> tuple[float, float] | None:
        """Where a new case lies: its indexed neighbours' mean, weighted by similarity.

        None where none of them is on the map.
        """
        row = {c: i for i, c in enumerate(self.ids)}
        known = [(row[c], max(s, 1e-6)) for c, s in neighbours if c in row]
        if not known:
            return None
        rows, weight = zip(*known, strict=True)
        x, y = np.average(self.at[list(rows)], axis=0, weights=np.array(weight))
        return float(x), float(y)


def make_map(
    vectors: NDArray[np.float32],
    ids: Sequence[str],
    modalities: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int = 0,
) -> MapPoints:
    """t-SNE of index vectors (van der Maaten & Hinton 2008), seeded.

    Neighbourhoods mean something; distances between far groups and their sizes do not.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = np.arange(len(vectors))
    if len(rows) > _POINTS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _POINTS, replace=False))
    chosen = np.asarray(vectors[rows], np.float32)
    if len(rows) < 10:
        at = np.pad(chosen[:, :2], ((0, 0), (0, max(0, 2 - chosen.shape[1]))))
    else:
        narrow = PCA(min(30, *chosen.shape), random_state=seed).fit_transform(chosen)
        perplexity = float(min(30, (len(rows) - 1) / 3))
        at = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
        at = at.fit_transform(narrow)
    pick = rows.tolist()
    return MapPoints(
        np.asarray(at, np.float32),
        tuple(str(ids[i]) for i in pick),
        tuple(str(modalities[i]) for i in pick),
        tuple(str(labels[i]) for i in pick),
    )


def save_map(points: MapPoints, digest: str, home: Path) -> None:
    """Keep a map for the index with this digest.  Raises StorageError."""
    from safetensors.numpy import save

    named = {k: json.dumps(getattr(points, k)) for k in ("ids", "modalities", "labels")}
    write_bytes(home / _MAP, save({"at": points.at}, {"index": digest, **named}))


def load_map(digest: str, home: Path) -> MapPoints | None:
    """The map of the index with this digest; None where it is yet to be made."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(home / _MAP, framework="numpy") as f:
            meta = f.metadata()
            if meta["index"] != digest:
                return None
            named = (tuple(json.loads(meta[k])) for k in ("ids", "modalities", "labels"))
            return MapPoints(f.get_tensor("at"), *named)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
