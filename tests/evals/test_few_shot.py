"""Few-shot curves: crossings by hand, linear points on drawn features, budget and resumption."""

from __future__ import annotations

import json
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.cases import read_cases
from curbside.errors import UserError
from curbside.evals import few_shot_points
from curbside.evals.curve_plot import figure, write_page
from curbside.evals.curve_text import lines
from curbside.evals.curves import ALL, Curves, Point, crossing
from curbside.evals.few_shot import few_shot_curves, parse_shots
from curbside.indexes.features import Features


def point(labels, right, *, task="t", seed=0):
    return Point(
        key="k", arm="linear", shots=labels, seed=seed, right={task: right}, n={task: 100},
        labels={task: labels}, outcomes="", trainable=10, seconds=1.0, peak_mib=1.0,
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


@pytest.fixture
def trained(monkeypatch):
    """Generalists that read the better, the more labels they were given; nothing is trained."""

    def generalist(workspace, built, features, test, folder, shots, seed):
        share = {1: 0.4, 16: 0.9, ALL: 1.0}[shots]
        right = np.arange(len(test.cases)) % 10 < 10 * share
        return few_shot_points.Made(right, 1000, 30.0 + seed, 512.0)

    monkeypatch.setattr(few_shot_points, "generalist", generalist)


def test_side_by_side_with_what_each_took(workspace, tmp_path, trained):
    curves = few_shot_curves(
        workspace, workspace.cases, tmp_path / "out", shots=(1, 16, ALL), draws=2
    )
    assert curves.unfinished == 0
    assert curves.accuracy("generalist", ALL) == [1.0, 1.0]
    assert curves.accuracy("generalist", 16, common=True) == pytest.approx([0.9, 0.9])
    # 40 % of the cases, then 90 %: half is met between 2 and 32 labels
    assert curves.specialists == {"cxr": 0.5}
    assert 2 < curves.met["generalist"]["cxr"] < 32
    last = {g.shots: g for g in curves.gains}[ALL]
    linear = np.mean(curves.accuracy("linear", ALL))
    assert last.delta == pytest.approx(1 - linear, abs=1e-6)
    assert last.low > 0 and last.draws == 2
    said = "\n".join(lines(curves))
    assert "a significant gain" in said
    assert "30–31 s  0.5 GiB" in said


def test_the_page_shows_both_arms_the_team_and_who_never_got_there(workspace, tmp_path, trained):
    curves = few_shot_curves(workspace, workspace.cases, tmp_path / "out", shots=(1, 16), draws=2)
    never = curves.model_copy(update={"met": {a: {"cxr": None} for a in curves.met}})
    drawn = figure(never)
    names = [t.name for t in drawn.data]
    assert "one generalist, adapted (LoRA)" in names and "specialists together, 50 %" in names
    assert any("x-thin" in (t.marker.symbol or ()) for t in drawn.data if t.marker.symbol)
    write_page(curves, tmp_path / "curve.html")
    text = (tmp_path / "curve.html").read_text()
    for part in ("How many labelled cases", "labels that the specialist had", "Not for clinical"):
        assert part in text
    assert "src=" not in text.split("<script")[0]


def test_shots_as_they_are_typed():
    assert parse_shots("16, 1,all,16") == (1, 16, ALL)
    for wrong in ("", "0", "few", "1;4", "-3", "1,,4"):
        with pytest.raises(UserError, match="no list of numbers"):
            parse_shots(wrong)


def test_the_command_writes_numbers_and_plot(workspace, tmp_path, trained, monkeypatch):
    from typer.testing import CliRunner

    from curbside.cli import app
    from curbside.config import Config, save_config
    from curbside.home import config_path
    from curbside.router import workspace as module

    save_config(Config(), config_path())
    monkeypatch.setattr(module, "Workspace", lambda home, config: workspace)
    out = tmp_path / "out"
    call = ["finetune", "curve", "--cases", str(workspace.cases.path), "--out", str(out)]
    said = CliRunner().invoke(app, [*call, "--shots", "1,16", "--seeds", "1"]).stdout
    assert "labels of the modality until its specialist is matched" in said
    assert (out / "curve.html").is_file()
    kept = Curves.model_validate_json((out / "curve.json").read_bytes())
    assert {p.shots for p in kept.points} == {1, 16}
