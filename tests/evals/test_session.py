"""Several trained draws: seeds, twins, and going on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.agents.fleet import Fleet
from curbside.cases import read_cases
from curbside.config import Config
from curbside.evals.session import train_draws
from curbside.indexes.features import Features


def agent(name, mark):
    card = AgentCard(name=name, kind="fake", role="generalist", fingerprint=mark)
    return FakeAgent(card, lambda q: [1.0] + [0.0] * (len(q.options) - 1))


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A workspace whose training only writes down the seed it was given."""
    (tmp_path / "m.csv").write_text(
        "image,modality,role,task,label,options\n"
        + "".join(f"{i}.png,cxr,{r},t,a,a|b\n" for i, r in enumerate(["train", "tune", "tune"]))
    )
    cases = read_cases(tmp_path / "m.csv")
    trained = []

    def features(some, label):
        n = len(some)
        digests = tuple(str(i) for i in range(n))
        return Features(np.zeros((n, 2), np.float32), digests, MappingProxyType({}), "e")

    def train(cases, features, config, folder, *, source, text, twin, others):
        trained.append((config.fleet.seed, twin, folder.name))
        # the fleet that serves, then the draws before
        before = [f"fleet-{s}" for s in range(config.fleet.seed)]
        assert [o.name for o in others] == ["serving", *before]

    def load(folder, source, text):
        seed = folder.name.rpartition("-")[2]
        return Fleet(
            agents={"generalist-full": agent("generalist-full", f"full {seed}")},
            specialists={},
            generalist="generalist-full",
            tasks={},
            tasks_of={},
            build_cost={},
            fingerprint=seed,
        )

    monkeypatch.setattr("curbside.agents.train.train_fleet", train)
    monkeypatch.setattr(Fleet, "load", load)
    workspace = SimpleNamespace(
        config=Config(),
        built_cases=lambda: cases,
        features=features,
        source=None,
        text=None,
        fleet_folder=tmp_path / "serving",
    )
    return workspace, trained, tmp_path / "benchmark"


def test_each_draw_has_its_seed_and_the_next_one_for_a_twin(workshop):
    workspace, trained, folder = workshop
    fleets = train_draws(workspace, folder, 3)
    assert trained == [(0, False, "fleet-0"), (1, False, "fleet-1"), (2, False, "fleet-2")]
    assert [f.seed for f in fleets] == [0, 1, 2]
    twins = [f.fleet.agents["generalist-full-b"].card.fingerprint for f in fleets]
    assert twins == ["full 1", "full 2", "full 0"]
    assert fleets[0].tune.agents == ("generalist-full", "generalist-full-b")
    assert len(fleets[0].tune) == 2


def test_one_draw_trains_its_own_twin(workshop):
    workspace, trained, folder = workshop
    (only,) = train_draws(workspace, folder, 1)
    assert trained == [(0, True, "fleet-0")]
    assert "generalist-full-b" not in only.fleet.agents


def test_tune_is_read_once(workshop):
    workspace, _, folder = workshop
    first = train_draws(workspace, folder, 2)
    files = sorted(p.name for p in (folder / "tune").iterdir())
    assert len(files) == 4
    stamps = [p.stat().st_mtime_ns for p in sorted((folder / "tune").iterdir())]
    again = train_draws(workspace, folder, 2)
    assert stamps == [p.stat().st_mtime_ns for p in sorted((folder / "tune").iterdir())]
    assert replace(first[0].tune).cases == again[0].tune.cases
