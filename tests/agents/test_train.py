"""Training is reproducible, goes on where it was stopped, and never harms the fleet before."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curbside.agents import fleet_plan, learners
from curbside.agents import train as train_module
from curbside.agents.fleet import AGENT_FILE, FLEET_FILE, Fleet
from curbside.agents.heads import Blend
from curbside.agents.stored import reader_files
from curbside.agents.train import train_fleet
from curbside.agents.upper import Recipe, fine_tune
from curbside.cases import Cases
from curbside.config import Config, FleetConfig
from curbside.errors import (
    ConfigError,
    IndexCorrupt,
    IndexMismatch,
    NotBuilt,
    StorageError,
    UserError,
)
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import FeatureSource
from curbside.readings import Abstention, Reading
from curbside.storage import tree_digest
from curbside.study import Question

NAMES = (
    "specialist-discs",
    "specialist-stripes",
    "generalist-16",
    "generalist-full",
    "generalist-full-b",
    "linear-16",
    "linear-full",
    "linear-lite2",
)


def seeded(seed: int) -> Config:
    return Config(fleet=FleetConfig(specialist_minimum=40, shots=4, seed=seed))


@pytest.fixture
def copy(world: Any, tmp_path: Path) -> Path:
    """A copy of the trained fleet, to be damaged."""
    folder = tmp_path / "fleet"
    shutil.copytree(world.folder, folder)
    return folder


def tensors(folder: Path) -> dict[str, str]:
    return {k: v for k, v in tree_digest(folder).items() if k.endswith(".safetensors")}


def of(folder: Path, name: str) -> Path:
    stored = json.loads((folder / FLEET_FILE).read_text())["agents"]
    return folder / str(next(a["folder"] for a in stored if a["name"] == name))


def flip(path: Path, at: int = -5) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As if the disk were full after this many bytes of a file (EFBIG, an OSError)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_fleet(fleet: Fleet) -> None:
    assert fleet.names == NAMES
    assert fleet.specialists == {"discs": "specialist-discs", "stripes": "specialist-stripes"}
    assert fleet.generalist == "generalist-full"
    first = ("specialist-discs", "specialist-stripes", "generalist-full")
    assert fleet.serving == (*first, "linear-lite2")
    assert fleet.colleagues == ("linear-lite2",)
    assert fleet.tasks["discs_size"] == ("benign", "malignant", "normal")
    assert fleet.commonest_task == {
        "discs": "discs_size",
        "dots": "dots_kind",
        "stripes": "stripes_width",
    }
    assert len(fleet.fingerprint) == 64


def test_what_it_cost(fleet: Fleet) -> None:
    cost = fleet.build_cost
    assert tuple(cost) == NAMES
    # 45 own labels; 4 a label of the two other tasks
    assert cost["specialist-discs"].labels == 45 + 4 * 4
    assert cost["generalist-full"].labels == cost["linear-full"].labels == 45 + 40 + 10
    assert cost["generalist-16"].labels == cost["linear-16"].labels == 4 * 7
    for name, c in cost.items():
        assert c.train_seconds > 0, name
        assert c.peak_mib > 50, name
        assert c.trainable_parameters > 0, name
    linear = 7 * (1280 + 1)  # 3 + 2 + 2 rows of weights
    assert cost["linear-full"].trainable_parameters == linear


def test_files_are_tensors_and_json_alone(world: Any) -> None:
    endings = {p.suffix for p in world.folder.rglob("*") if p.is_file()}
    assert endings == {".safetensors", ".json"}
    for path in world.folder.rglob("*.safetensors"):
        raw = path.read_bytes()
        assert raw[8:9] == b"{"  # the header of safetensors; neither a zip nor a pickle
    size = sum(p.stat().st_size for p in of(world.folder, "generalist-full").iterdir())
    assert size < 8 * 2**20  # what was learned, not the trunk


def test_the_same_seed_gives_the_same_bytes(world: Any, tmp_path: Path) -> None:
    again = tmp_path / "again"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)  # what the caller drew before must not matter
        before = torch.random.get_rng_state()
        assert tuple(world.train(again)) == tuple(n for n in NAMES if n != "generalist-full-b")
        assert torch.equal(torch.random.get_rng_state(), before), "the caller's stream was used"
    first = {k: v for k, v in tensors(world.folder).items() if "full-b" not in k}
    assert tensors(again) == first
    whole = world.load().agents
    for name, agent in world.load(again).agents.items():
        assert agent.card == whole[name].card
    marks = {world.load(again).fingerprint for _ in range(2)}
    assert len(marks) == 1


def test_fingerprint_is_of_weights_and_not_of_seconds(world: Any, copy: Path) -> None:
    path = of(copy, "linear-16") / AGENT_FILE
    body = json.loads(path.read_text())
    body["build_cost"]["train_seconds"] += 1.5
    rewrite(copy, "linear-16", body)
    assert world.load(copy).fingerprint == world.load().fingerprint
    body["blend"]["frozen"] += 0.5
    rewrite(copy, "linear-16", body)
    assert world.load(copy).fingerprint != world.load().fingerprint


def rewrite(folder: Path, name: str, body: dict[str, Any]) -> None:
    """As if the agent had been written so: with its new checksum in the fleet's record."""
    from curbside.storage import file_digest

    path = of(folder, name) / AGENT_FILE
    path.write_text(json.dumps(body))
    record = json.loads((folder / FLEET_FILE).read_text())
    for a in record["agents"]:
        if a["name"] == name:
            a["sha256"] = file_digest(path)
    (folder / FLEET_FILE).write_text(json.dumps(record))


def test_the_blend_is_fitted_on_tune_cases_of_what_the_agent_reads(
    world: Any, fleet: Fleet
) -> None:
    for name, modality in (("specialist-discs", "discs"), ("linear-full", None)):
        agent: Any = fleet.agents[name]
        tune = world.cases.take(world.cases.where(role="tune", modality=modality))
        inputs, _ = agent._trunk.of(tune.studies())
        questions = [s.question for s in tune.studies()]
        found = []
        for (a, b), c in zip(agent.reader.opinions(inputs, questions), tune, strict=True):
            uniform = np.full(len(c.options), 1 / len(c.options), np.float32)
            found.append((uniform if a is None else a, b, c.options.index(c.label)))
        fitted = Blend.fit(found)
        assert agent.reader.blend.frozen == pytest.approx(fitted.frozen, rel=1e-3)
        assert agent.reader.blend.adapted == pytest.approx(fitted.adapted, rel=1e-3)
        assert agent.reader.blend.frozen != Blend().frozen


def test_what_is_reported_on_trains_nothing(world: Any, copy: Path) -> None:
    """Cases of role test, or of none, are in no agent: without them nothing is built again."""
    rest = world.cases.take(world.cases.where(role=("train", "tune")))
    assert world.train(copy, cases=rest, twin=True) == []
    extra = [dataclasses.replace(c, role=None) for c in world.cases if c.role == "test"]
    assert world.train(copy, cases=Cases([*rest, *extra], rest.path), twin=True) == []


def test_twins_differ(world: Any) -> None:
    one, two = (of(world.folder, n) for n in ("generalist-full", "generalist-full-b"))
    a, b = tensors(one), tensors(two)
    assert a["adapter.safetensors"] != b["adapter.safetensors"]
    assert a["frozen.safetensors"] == b["frozen.safetensors"]


def test_killed_half_way_and_gone_on_with_another_seed(
    world: Any, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = world.load(copy)
    calls = []

    def third(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        fine_tune(*args, **kwargs)

    monkeypatch.setattr(learners, "fine_tune", third)
    with pytest.raises(KeyboardInterrupt):
        world.train(copy, seeded(1))
    still = world.load(copy)
    assert still.fingerprint == old.fingerprint
    study = world.cases[0].study()
    assert isinstance(still.agents["generalist-full"].read(study), Reading)

    monkeypatch.undo()
    rest = world.train(copy, seeded(1))
    # linear-full has no seed
    assert rest == ["generalist-16", "generalist-full", "linear-16"]
    new = world.load(copy)
    assert new.fingerprint != old.fingerprint
    old_weights = tensors(of(world.folder, "generalist-full"))
    new_weights = tensors(of(copy, "generalist-full"))
    assert new_weights["adapter.safetensors"] != old_weights["adapter.safetensors"]
    folders = {p.name for p in copy.iterdir() if p.is_dir()}
    assert folders == {of(copy, n).name for n in new.names}  # nothing old is left
    assert world.train(copy, seeded(1)) == []


def test_full_disk(world: Any, copy: Path) -> None:
    before = tree_digest(copy)
    with files_of_at_most(20_000), pytest.raises(StorageError, match="unchanged") as e:
        world.train(copy, seeded(2))
    assert "space" in e.value.hint
    assert tree_digest(copy) == before
    assert world.load(copy).names == NAMES


@pytest.mark.parametrize("name", ["specialist-discs", "generalist-full", "linear-full"])
@pytest.mark.parametrize("size", [1_000, 300_000])
def test_full_disk_is_an_os_error_in_any_file(
    fleet: Fleet, tmp_path: Path, name: str, size: int
) -> None:
    agent: Any = fleet.agents[name]
    if name == "linear-full" and size > 1_000:
        size = 20_000  # its only file is smaller
    with files_of_at_most(size), pytest.raises(OSError, match="too large"):
        reader_files(agent.reader, tmp_path)


def test_full_disk_at_the_very_last_file(
    world: Any, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise StorageError(f"cannot write {path}: No space left on device")

    config = Config(fleet=FleetConfig(specialist_minimum=40, shots=4, generalist="g16"))
    monkeypatch.setattr(train_module, "write_text", full)
    with pytest.raises(StorageError):
        world.train(copy, config)
    assert world.load(copy).generalist == "generalist-full"
    monkeypatch.undo()
    assert world.train(copy, config) == []
    assert world.load(copy).generalist == "generalist-16"


@pytest.mark.parametrize("agent", ["specialist-discs", "generalist-16", "linear-full"])
def test_a_wrong_byte_in_any_file(world: Any, copy: Path, agent: str) -> None:
    for path in sorted(of(copy, agent).iterdir()):
        flip(path)
        with pytest.raises(IndexCorrupt, match=agent) as e:
            world.load(copy)
        assert path.name in e.value.message
        assert "curbside build" in e.value.hint
        flip(path)
    assert world.load(copy).names == NAMES


def test_a_missing_file(world: Any, copy: Path) -> None:
    (of(copy, "generalist-full") / "adapter.safetensors").unlink()
    with pytest.raises(IndexCorrupt, match=r"adapter\.safetensors cannot be used: it is missing"):
        world.load(copy)
    shutil.rmtree(of(copy, "specialist-discs"))
    with pytest.raises(IndexCorrupt, match="specialist-discs"):
        world.load(copy)


def test_a_file_that_is_a_folder(world: Any, copy: Path) -> None:
    path = of(copy, "linear-16") / "heads.safetensors"
    path.unlink()
    path.mkdir()
    with pytest.raises(IndexCorrupt, match="cannot be read"):
        world.load(copy)


@pytest.mark.parametrize("damage", ["half", "empty", "other json", "no such generalist"])
def test_a_damaged_record(world: Any, copy: Path, damage: str) -> None:
    path = copy / FLEET_FILE
    raw = path.read_text()
    body = json.loads(raw)
    path.write_text(
        {
            "half": raw[: len(raw) // 2],
            "empty": "",
            "other json": "[1, 2]",
            "no such generalist": json.dumps(body | {"generalist": "generalist-99"}),
        }[damage]
    )
    with pytest.raises(IndexCorrupt) as e:
        world.load(copy)
    assert "curbside build" in e.value.hint


def test_nothing_built(world: Any, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotBuilt) as e:
            world.load(folder)
        assert "curbside build" in e.value.hint


def test_another_trunk_or_format(world: Any, copy: Path) -> None:
    body = json.loads((copy / FLEET_FILE).read_text())
    for change in ({"trunk": "0" * 64}, {"format": 99}):
        (copy / FLEET_FILE).write_text(json.dumps(body | change))
        with pytest.raises(IndexMismatch) as e:
            world.load(copy)
        assert "curbside build" in e.value.hint


def test_another_encoder(world: Any, tmp_path: Path) -> None:
    source = FeatureSource(FakeEncoder())
    with pytest.raises(ConfigError, match="lite0") as e:
        Fleet.load(world.folder, source, world.text)
    assert "curbside config check" in e.value.hint
    features = source.of(world.cases.studies())
    with pytest.raises(ConfigError):
        train_fleet(world.cases, features, world.config, tmp_path, source=source, text=world.text)


def test_building_again_mends_damage(world: Any, copy: Path) -> None:
    """The next command that the errors name must help, whatever was damaged."""
    whole = tensors(copy)
    flip(of(copy, "specialist-discs") / "tuned.safetensors")
    flip(of(copy, "linear-16") / AGENT_FILE, 40)
    (of(copy, "linear-full") / "heads.safetensors").unlink()
    (of(copy, "generalist-16") / AGENT_FILE).write_text("[]")
    again = world.train(copy, twin=True)
    assert again == ["specialist-discs", "generalist-16", "linear-16", "linear-full"]
    assert tensors(copy) == whole
    (copy / FLEET_FILE).write_text("half of i")
    assert world.train(copy, twin=True) == []
    assert world.load(copy).fingerprint == world.load().fingerprint


def test_another_fleet_of_the_same_making_is_taken_over(
    world: Any, copy: Path, tmp_path: Path
) -> None:
    flip(of(copy, "linear-16") / AGENT_FILE, 40)
    mine = tmp_path / "mine"
    assert world.train(mine, others=(copy, tmp_path / "none")) == ["linear-16"]
    first = {k: v for k, v in tensors(world.folder).items() if "full-b" not in k}
    assert tensors(mine) == first
    assert not list(mine.glob("generalist-full-b-*"))
    # another seed is another making, but for what no seed changes
    other = world.train(tmp_path / "other", seeded(7), others=(mine,))
    assert "generalist-full" in other and "linear-full" not in other


def test_a_half_written_agent_that_no_record_names(world: Any, copy: Path) -> None:
    (copy / FLEET_FILE).unlink()
    (of(world.folder, "linear-16") / AGENT_FILE).read_bytes()
    name = of(world.folder, "linear-16").name
    (copy / name / AGENT_FILE).write_text('{"card":')
    assert world.train(copy, twin=True) == ["linear-16"]


def test_what_lies_beside_is_left_alone(world: Any, copy: Path) -> None:
    for name in ("index", "cache", "features-1-13d297b046f39526ca062f7ac092f907", ".git"):
        (copy / name).mkdir()
        (copy / name / "kept").write_text("x")
    (copy / ".linear-16-0123456789abcdef.x1_y2z").mkdir()
    (copy / "linear-16-0123456789abcdef").mkdir()
    world.train(copy, twin=True)
    kept = {p.parent.name for p in copy.rglob("kept")}
    assert kept == {"index", "cache", "features-1-13d297b046f39526ca062f7ac092f907", ".git"}
    assert not list(copy.glob("*0123456789abcdef*"))
    assert not list(copy.glob(".linear*"))


def test_no_labelled_case(world: Any, tmp_path: Path) -> None:
    for cases in (
        world.cases.take(world.cases.where(role="test")),
        Cases((dataclasses.replace(c, label=None) for c in world.cases), world.cases.path),
    ):
        with pytest.raises(UserError, match="no labelled case of role 'train'"):
            world.train(tmp_path / "fleet", cases=cases)
    assert not (tmp_path / "fleet").exists()


def test_unusable_training_images_are_left_out(world: Any, tmp_path: Path) -> None:
    cases = world.cases
    rows = cases.where(role="train")
    gone = dataclasses.replace(cases[int(rows[0])], image=tmp_path / "gone.png", id="gone")
    few = Cases([gone, *cases.take(rows[:30]), *cases.take(rows[45:70])], cases.path)
    world.train(tmp_path / "fleet", cases=few)
    assert world.load(tmp_path / "fleet").build_cost["linear-full"].labels == 55


def test_names_that_folders_and_torch_do_not_take(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modalities with a slash or none, tasks with a dot or called like a method, a label alone.

    With so few cases that a published recipe comes to five steps.
    """
    monkeypatch.setattr(fleet_plan, "GENERALIST", Recipe(5, 64, 1e-3, 1e-3, 0.05, 0.4))
    odd = {
        "discs": ("CT/../chest", "v1.0/keys", None),
        "stripes": (None, "keys", None),
        "dots": ("dots", "only", "benign"),
    }
    cases = []
    for modality, (name, task, alone) in odd.items():
        for role in ("train", "tune"):
            for row in world.cases.where(role=role, modality=modality)[::5]:
                c = world.cases[int(row)]
                if alone and c.label != alone:
                    continue
                # one row offers fewer options than the task has, others say none
                options = (c.label,) if alone else () if row % 2 else c.options
                cases.append(dataclasses.replace(c, modality=name, task=task, options=options))
    config = Config(fleet=FleetConfig(specialist_minimum=8, shots=4))
    folder = tmp_path / "fleet"
    names = world.train(folder, config, cases=Cases(cases, world.cases.path))
    assert "specialist-CT/../chest" in names
    assert "specialist-" not in names
    assert {p.parent for p in folder.iterdir()} == {folder}
    fleet = world.load(folder)
    assert set(fleet.specialists) == {"CT/../chest"}
    assert sorted(fleet.tasks["v1.0/keys"]) == ["benign", "malignant", "normal"]
    study = dataclasses.replace(
        cases[0].study(), question=Question(("malignant", "normal"), task="v1.0/keys")
    )
    for agent in fleet.agents.values():
        assert isinstance(agent.read(study), Reading)
    world.train(folder, config, cases=Cases(cases, world.cases.path))
    assert world.built == []


def test_an_option_that_training_never_saw(world: Any, tmp_path: Path) -> None:
    """The linear agents abstain; a generalist answers from the text, and not with zero."""
    cases = [
        c for c in world.cases if c.modality == "discs" and c.label != "normal" and c.role != "test"
    ]
    folder = tmp_path / "fleet"
    world.train(folder, cases=Cases(cases, world.cases.path))
    fleet = world.load(folder)
    study = cases[0].study()
    assert study.question.options == ("benign", "malignant", "normal")
    assert isinstance(fleet.agents["linear-full"].read(study), Abstention)
    response = fleet.agents["generalist-full"].read(study)
    assert isinstance(response, Reading)
    assert response.probabilities[2] > 1e-3
    assert np.isclose(sum(response.probabilities), 1, atol=1e-5)
