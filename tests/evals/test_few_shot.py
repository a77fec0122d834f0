"""Few-shot curves: crossings by hand, linear points on drawn features, budget and resumption."""

from __future__ import annotations

import json
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.cases import read_cases
from curbside.errors import UserError
from curbside.evals.few_shot import ALL, Point, crossing, few_shot_curves, lines
from curbside.indexes.features import Features


def point(labels, right, *, task="t", seed=0):
    return Point(
        key="k", arm="linear", shots=labels, seed=seed, right={task: right}, n={task: 100},
        labels={task: labels}, seconds=1.0,
    )  # fmt: skip


def test_a_crossing_lies_between_points_in_log_labels():
    curve = [point(4, 50), point(16, 70), point(64, 90)]
    assert crossing(curve, "t", 0.8) == pytest.approx(32)
    assert crossing(curve, "t", 0.7) == pytest.approx(16)
    assert crossing(curve, "t", 0.4) == 4
    assert crossing(curve, "t", 0.95) is None
    # the mean over draws counts, not the luckiest
    assert crossing([point(4, 90), point(4, 50, seed=1)], "t", 0.8) is None
    assert crossing(curve, "another", 0.1) is None


@pytest.fixture
def workspace(tmp_path):
    """Two modalities, each with a task of two labels that features tell apart."""
    rows = []
    for role, n in (("train", 40), ("test", 30)):
        for modality in ("cxr", "fundus"):
            for i in range(n):
                label = ("ill", "well")[i % 2]
                rows.append(
                    {
                        "id": f"{role}-{modality}-{i}",
                        "image": "x.png",
                        "modality": modality,
                        "task": f"task-{modality}",
                        "label": label,
                        "options": ["ill", "well"],
                        "role": role,
                    }
                )
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    cases = read_cases(path)

    def features(part, label=""):
        x = np.zeros((len(part), 6), np.float32)
        for i, c in enumerate(part):
            rng = np.random.default_rng([*c.id.encode()])
            x[i] = rng.normal(0, 1, 6)
            x[i, 0 if c.modality == "cxr" else 1] += 3.0 * (c.label == "ill")
        digests = tuple(f"d-{c.id}" for c in part)
        return Features(x, digests, MappingProxyType({}), "encoder")

    def specialist(modality):
        card = AgentCard(name=f"specialist-{modality}", kind="fake", role="specialist",
                         fingerprint=modality)  # fmt: skip
        return FakeAgent(card, lambda q: [0.9, 0.1])

    fleet = SimpleNamespace(
        tasks={"task-cxr": ("ill", "well"), "task-fundus": ("ill", "well")},
        specialists={"cxr": "specialist-cxr"},
        agents={"specialist-cxr": specialist("cxr")},
    )
    built = cases.take(np.flatnonzero(cases.roles == "train"))
    return SimpleNamespace(
        cases=cases, built_cases=lambda: built, fleet=lambda: fleet, features=features
    )


def test_linear_curves_rise_and_stay_within_the_budget(workspace, tmp_path):
    out = tmp_path / "out"
    curves = few_shot_curves(
        workspace, workspace.cases, out, shots=(1, 16, ALL), draws=2, minutes=0
    )
    assert curves.unfinished == 6  # no generalist was begun
    assert {p.arm for p in curves.points} == {"linear"}
    assert len(curves.accuracy("linear", 1)) == 2
    assert np.mean(curves.accuracy("linear", ALL)) > 0.75
    assert np.mean(curves.accuracy("linear", 1)) < np.mean(curves.accuracy("linear", ALL))
    # the specialist always says "ill": half of its cases
    assert curves.specialist == {"task-cxr": 0.5}
    assert curves.crossings["linear"]["task-cxr"] == pytest.approx(2, abs=1e-6)
    one = next(p for p in curves.points if p.shots == 1)
    assert one.labels == {"task-cxr": 2, "task-fundus": 2}
    said = "\n".join(lines(curves))
    assert "6 generalists are still to train" in said and "task-cxr" in said


def test_points_are_kept_and_damaged_ones_made_again(workspace, tmp_path):
    out = tmp_path / "out"
    first = few_shot_curves(workspace, workspace.cases, out, shots=(4,), draws=1, minutes=0)
    (path,) = (out / "points").iterdir()
    before = path.stat().st_mtime_ns
    few_shot_curves(workspace, workspace.cases, out, shots=(4,), draws=1, minutes=0)
    assert path.stat().st_mtime_ns == before
    path.write_text(path.read_text()[:40])
    again = few_shot_curves(workspace, workspace.cases, out, shots=(4,), draws=1, minutes=0)
    assert again.points[0].right == first.points[0].right
    other = workspace.cases.take(np.flatnonzero(workspace.cases.modalities == "cxr"))
    less = few_shot_curves(workspace, other, out, shots=(4,), draws=1, minutes=0)
    assert set(less.points[0].n) == {"task-cxr"}


def test_nothing_to_read_is_said(workspace, tmp_path):
    bare = workspace.cases.take(np.flatnonzero(workspace.cases.roles == "test"))
    workspace.fleet().tasks.clear()
    with pytest.raises(UserError, match="no evaluated case has a task"):
        few_shot_curves(workspace, bare, tmp_path / "out")
