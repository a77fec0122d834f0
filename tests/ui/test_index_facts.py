"""Agents' health, what the index says of itself, and its map."""

from __future__ import annotations

import json

import numpy as np
import pytest

from curbside.config import load_config
from curbside.errors import NotBuilt, StorageError
from curbside.storage import file_digest
from curbside.ui.index_facts import (
    agent_rows,
    index_facts,
    load_map,
    make_map,
    save_map,
    served_cases,
    served_index,
    versions,
)


def test_an_agent_is_whole_or_its_damage_is_named(home):
    folder = home / "fleet"
    agent = folder / "generalist"
    agent.mkdir()
    (agent / "w.bin").write_bytes(b"weights")
    meta = {
        "card": {"role": "generalist", "tasks": ["a", "b"], "cost": 2.0, "fingerprint": "f"},
        "build_cost": {"labels": 9, "trainable_parameters": 5, "train_seconds": 1, "peak_mib": 3},
        "files": {"w.bin": file_digest(agent / "w.bin")},
    }
    (agent / "agent.json").write_text(json.dumps(meta))
    fleet = json.loads((folder / "fleet.json").read_text())
    fleet["agents"][2]["sha256"] = file_digest(agent / "agent.json")
    (folder / "fleet.json").write_text(json.dumps(fleet))
    rows = {r.name: r for r in agent_rows(folder)}
    whole = rows["generalist"]
    assert (whole.problem, whole.serves, whole.tasks, whole.labels) == ("", True, 2, 9)
    assert "missing" in rows["specialist-ct"].problem
    (agent / "w.bin").write_bytes(b"weighty")
    assert "checksum" in {r.name: r for r in agent_rows(folder)}["generalist"].problem
    with pytest.raises(NotBuilt):
        agent_rows(home / "nowhere")


def test_the_index_describes_itself(home, tmp_path):
    config = load_config(home / "curbside.yaml")
    facts = index_facts(served_index(home, config))
    assert facts.cases == sum(facts.by_modality.values()) and "all" in facts.by_stratum
    assert served_cases(home, config).is_file()
    (version,) = versions(home, config)
    assert version.serves and version.cases == 84 and version.why.startswith("build")
    with pytest.raises(StorageError, match="cannot be described"):
        index_facts(tmp_path)
    with pytest.raises(NotBuilt):
        served_index(tmp_path, config)


def test_a_map_is_seeded_kept_and_belongs_to_its_index(tmp_path):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(c, 0.1, (20, 6)) for c in (0, 3)]).astype(np.float32)
    ids = [f"c{i}" for i in range(40)]
    names = ["a"] * 20 + ["b"] * 20
    made = make_map(vectors, ids, names, [""] * 40)
    np.testing.assert_array_equal(made.at, make_map(vectors, ids, names, [""] * 40).at)
    save_map(made, "digest", tmp_path)
    again = load_map("digest", tmp_path)
    assert again is not None and again.ids == made.ids
    assert load_map("another", tmp_path) is None
    x, y = made.place([("c0", 1.0), ("unknown", 1.0)]) or (0, 0)
    np.testing.assert_allclose((x, y), made.at[0])
    assert made.place([("unknown", 0.9)]) is None


def test_a_tiny_or_large_index_has_a_map(monkeypatch):
    few = make_map(np.ones((3, 1), np.float32), ["a", "b", "c"], ["m"] * 3, [""] * 3)
    assert few.at.shape == (3, 2)
    monkeypatch.setattr("curbside.ui.index_facts._POINTS", 12)
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(30)]
    assert len(make_map(rng.normal(size=(30, 4)), ids, ids, ids).ids) == 12
