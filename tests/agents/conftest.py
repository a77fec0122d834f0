"""A tiny fleet, really trained: two common modalities, a rare one, drawn images of 40 pixels."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from curbside.agents import fleet_plan
from curbside.agents import train as train_module
from curbside.agents.fleet import Fleet
from curbside.agents.train import train_fleet
from curbside.agents.upper import Recipe
from curbside.cases import Cases, read_cases
from curbside.config import Config, FleetConfig
from curbside.indexes.encoder import Lite0Encoder
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.text import TextEncoder

SIDE = 40
#: modality → (task, options, training cases a label)
PLAN = {
    "discs": ("discs_size", ("benign", "malignant", "normal"), 15),
    "stripes": ("stripes_width", ("thin", "wide"), 20),
    "dots": ("dots_kind", ("benign", "malignant"), 5),
}
SMALL = Config(fleet=FleetConfig(specialist_minimum=40, shots=4))


class HashedText(TextEncoder):
    """Unit vectors drawn from the hash of a text: no model, and no two names alike."""

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            v = np.random.default_rng(seed).normal(size=self.dimensions)
            rows.append(v / np.linalg.norm(v))
        return np.array(rows, np.float32)


def draw(modality: str, option: int, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    if modality == "discs":
        middle = rng.integers(15, 25, 2)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (4 + 5 * option) ** 2
        plane: NDArray[np.generic] = np.where(inside, 210, 40)
    elif modality == "stripes":
        plane = 255 * ((x + rng.integers(0, 9)) // (2 + 4 * option) % 2)
    else:
        plane = np.where(rng.random((SIDE, SIDE)) < 0.03 + 0.2 * option, 255, 90)
    colours = {"discs": (1.0, 1.0, 1.0), "stripes": (1.0, 0.6, 0.4), "dots": (0.5, 0.6, 1.0)}
    noisy = plane[..., None] * np.array(colours[modality]) + rng.normal(0, 12, (SIDE, SIDE, 3))
    picture: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return picture


def write_cases(folder: Path) -> Cases:
    rows, seed = [], 0
    for modality, (task, options, shots) in PLAN.items():
        for role, n in (("train", shots), ("tune", 4), ("test", 3)):
            for o, label in enumerate(options):
                for _ in range(n):
                    seed += 1
                    name = f"{seed}.png"
                    Image.fromarray(draw(modality, o, seed)).save(folder / name)
                    rows.append([name, modality, label, task, "|".join(options), role])
    path = folder / "manifest.csv"
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["image", "modality", "label", "task", "options", "role"])
        writer.writerows(rows)
    return read_cases(path)


@dataclass
class World:
    """Cases, where their features come from, and a fleet trained on them."""

    cases: Cases
    source: FeatureSource
    text: TextEncoder
    features: Features
    folder: Path
    config: Config = SMALL
    built: list[str] = field(default_factory=list)

    def train(
        self,
        folder: Path,
        config: Config | None = None,
        *,
        cases: Cases | None = None,
        twin: bool = False,
        others: tuple[Path, ...] = (),
    ) -> list[str]:
        """Train; returns the names of the agents that were really built."""
        self.built.clear()
        config = config or self.config
        known = cases or self.cases
        features = self.source.of(known.studies()) if cases else self.features
        train_fleet(
            known,
            features,
            config,
            folder,
            source=self.source,
            text=self.text,
            twin=twin,
            others=others,
        )
        return list(self.built)

    def load(self, folder: Path | None = None) -> Fleet:
        return Fleet.load(folder or self.folder, self.source, self.text)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("fleet-world")
    cases = write_cases(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        quick = Recipe(1, 32, 1e-3, 1e-3, 0.05, 0.4)
        for name in ("SPECIALIST", "GENERALIST", "FEW_SHOT_GENERALIST"):
            patch.setattr(fleet_plan, name, quick)
        source = FeatureSource(Lite0Encoder(threads=1), folder=folder / "cache")
        text = HashedText()
        features = source.of(cases.studies())
        made = World(cases, source, text, features, folder / "fleet")
        build: Callable[..., None] = train_module._build

        def counted(plan: Any, *args: Any) -> None:
            made.built.append(plan.name)
            build(plan, *args)

        patch.setattr(train_module, "_build", counted)
        made.train(made.folder, twin=True)
        yield made
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fleet(world: World) -> Fleet:
    return world.load()
