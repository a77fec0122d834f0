"""A planted world for the index: modalities and findings as Gaussians, one never indexed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from curbside.indexes.features import Features

WIDTH = 24
FINDINGS = 3
#: modality → cases of each role and finding
TRAIN = {"alpha": 40, "beta": 40, "gamma": 40, "scarce": 6}
HELD_OUT = {"alpha": 40, "beta": 40, "gamma": 20, "scarce": 4}


@dataclass(frozen=True)
class Columns:
    """The columns of cases that the index reads."""

    ids: NDArray[np.str_]
    modalities: NDArray[np.str_]
    labels: NDArray[np.str_]
    roles: NDArray[np.str_]
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tasks(self) -> NDArray[np.str_]:
        """One task a modality."""
        return np.char.add("task of ", self.modalities)

    def take(self, rows: NDArray[np.intp]) -> Columns:
        return Columns(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    def having(self, **columns: Any) -> Columns:
        kept = {f: getattr(self, f) for f in self.__dataclass_fields__}
        return Columns(**(kept | columns))


@dataclass(frozen=True)
class World:
    """Cases of all roles and their features, row by row."""

    cases: Columns
    features: Features

    def rows(self, role: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.cases.roles == role)

    def pooled(self, role: str) -> NDArray[np.float32]:
        return self.features.pooled[self.rows(role)]

    def take(self, role: str) -> World:
        rows = self.rows(role)
        return World(self.cases.take(rows), self.features.take(rows))


def make_world(seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, str]] = []
    values = []
    names = [*TRAIN, "unseen"]
    centre = {m: rng.normal(size=WIDTH) * 3 + 6 for m in names}
    offset = {(m, f): rng.normal(size=WIDTH) * 0.8 for m in names for f in range(FINDINGS)}
    spread = rng.uniform(0.3, 1.0, WIDTH)
    spread[:6] = 5.0  # what varies most says nothing: plain cosine is misled by it
    sizes = {"train": TRAIN, "tune": HELD_OUT, "calibration": HELD_OUT}
    sizes["test"] = HELD_OUT | {"unseen": 20}
    for role, by in sizes.items():
        for modality, n in by.items():
            for f in range(FINDINGS):
                for _ in range(n):
                    rows.append((role, modality, f"finding-{f}"))
                    noise = rng.normal(size=WIDTH) * spread
                    values.append(centre[modality] + offset[modality, f] + noise)
    roles, modalities, labels = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    ids = np.array([f"case-{i}" for i in range(n)])
    groups = np.array([f"patient-{i}" for i in range(n)])
    features = Features(
        np.array(values, np.float32), tuple(f"{i:064x}" for i in range(n)), {}, "encoder-a"
    )
    return World(Columns(ids, modalities, labels, roles, groups), features)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()
