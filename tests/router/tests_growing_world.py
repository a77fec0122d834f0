"""A home on disk that grows: pictures, a manifest of all roles, and a workspace over fakes."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests_router_world import MODALITY, TASKS, picture

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.config import Config, IndexConfig, ProjectionConfig
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import FeatureSource
from curbside.router.workspace import Workspace

COLUMNS = ("image", "id", "modality", "task", "label", "options", "role", "group")
SIZES = {"train": 8, "tune": 4, "calibration": 12, "test": 3}


def write_manifest(
    folder: Path, name: str, sizes: dict[str, int], *, start: int = 0, tasks: tuple[str, ...] = ()
) -> Path:
    """Pictures and a manifest of ``sizes[role]`` cases a label; ``""`` as a role leaves it open.

    ``start`` is the seed of the first picture: other seeds, other pictures.
    """
    rows = []
    for role, n in sizes.items():
        for task in tasks or TASKS:
            for label, option in enumerate(TASKS[task]):
                for i in range(n):
                    seed = start + i + 1000 * (1 + list(SIZES).index(role) if role else 0)
                    image = folder / f"{task}-{label}-{seed}.png"
                    image.write_bytes(picture(MODALITY[task], label, seed))
                    options = "|".join(TASKS[task])
                    # two pictures of a person
                    group = f"{role or 'new'}-{task}-{label}-{(start + i) // 2}"
                    row = (image.name, image.stem, MODALITY[task], task, option, options)
                    rows.append((*row, role, group))
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([COLUMNS, *rows])
    return path


def config() -> Config:
    plain = Config(index=IndexConfig(neighbours=5, stratum_minimum=20))
    encoder = plain.encoder.model_copy(update={"projection": ProjectionConfig(dimensions=8)})
    return plain.model_copy(update={"encoder": encoder})


def open_workspace(home: Path, version: str | None = None) -> Workspace:
    """A workspace whose encoder and agents are fakes; its fleet counts as trained."""

    def agent(name: str, role: str) -> FakeAgent:
        card = AgentCard(name=name, kind="fake", role=role, fingerprint=f"{name}-1")
        return FakeAgent(card, lambda question: [0.8, 0.2])

    agents = {n: agent(n, n.split("-")[0]) for n in ("specialist-xray", "generalist")}
    made = Fake(home, config(), version=version)
    made.source = FeatureSource(FakeEncoder(dimensions=24), folder=home / "cache")
    fleet: Any = SimpleNamespace(
        agents=agents,
        serving=tuple(agents),
        generalist="generalist",
        specialists={"xray": "specialist-xray"},
        tasks=TASKS,
        tasks_of={m: (t,) for t, m in MODALITY.items()},
        fingerprint="fleet",
    )
    made._fleet = fleet
    made.fleet_folder.mkdir(parents=True, exist_ok=True)
    return made


class Fake(Workspace):
    """A workspace that has no fleet to train."""

    def stamp(self, stage: str) -> Any:
        return Anything()


class Anything:
    """Equal to every stamp."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0
