"""Readers as files: what was learned comes back exactly, and nothing may be missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from curbside.agents.embedded import EmbeddedAgent
from curbside.agents.fleet import AGENT_FILE, Fleet
from curbside.agents.heads import Blend, Heads
from curbside.agents.readers import GeneralistReader, Reader, SpecialistReader, read
from curbside.agents.stored import load_reader, lora, reader_files
from curbside.agents.upper import upper_blocks
from curbside.errors import IndexCorrupt
from curbside.indexes.lite0 import UpperBlocks, upper_state


def written(agent: Any, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    assert isinstance(agent, EmbeddedAgent)
    blend = {"adapted": agent.reader.blend.adapted, "frozen": agent.reader.blend.frozen}
    meta = {**reader_files(agent.reader, folder), "blend": blend}
    return json.loads(json.dumps(meta))


@pytest.mark.parametrize("name", ["specialist-discs", "generalist-full", "linear-16"])
def test_there_and_back(world: Any, fleet: Fleet, tmp_path: Path, name: str) -> None:
    agent: Any = fleet.agents[name]
    meta = written(agent, tmp_path / "a")
    back = load_reader(meta, tmp_path / "a", world.text)
    assert type(back) is type(agent.reader)
    assert back.blend == agent.reader.blend
    cases = world.cases.take(world.cases.where(role="test"))
    inputs, _ = agent._trunk.of(cases.studies())
    questions = [s.question for s in cases.studies()]
    for a, b in zip(
        read(back, inputs, questions), read(agent.reader, inputs, questions), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "file"),
    [("specialist-discs", "tuned.safetensors"), ("generalist-full", "adapter.safetensors")],
)
@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_exactly_what_was_learned(
    world: Any, fleet: Fleet, tmp_path: Path, name: str, file: str, damage: str
) -> None:
    meta = written(fleet.agents[name], tmp_path / "a")
    path = tmp_path / "a" / file
    tensors = {k: v.clone() for k, v in load_file(path).items()}
    first = sorted(tensors)[0]
    if damage == "missing":
        del tensors[first]
    elif damage == "unknown":
        tensors["blocks.99.expand.weight"] = torch.zeros(2)
    else:
        tensors[first] = torch.zeros(3)
    path.unlink()
    save_file(tensors, path)
    match = {"missing": "lacks", "unknown": "holds an unknown blocks.99", "shape": "size mismatch"}
    with pytest.raises((ValueError, RuntimeError), match=match[damage]):
        load_reader(meta, tmp_path / "a", world.text)


def test_a_fleet_whose_tensors_do_not_fit(
    world: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> Reader:
        raise ValueError("tuned.safetensors lacks blocks.1.project.bias (1 names differ)")

    monkeypatch.setattr("curbside.agents.stored.load_reader", lacking)
    agent = world.load().agents["specialist-discs"]  # whole: its tensors are read when asked
    with pytest.raises(IndexCorrupt, match=f"specialist-discs: {AGENT_FILE}.*lacks") as e:
        agent.read_batch([])
    assert "curbside build" in e.value.hint


def test_no_files_for_a_strange_reader(tmp_path: Path) -> None:
    class Strange:
        blend = Blend()

        def opinions(self, inputs: Any, questions: Any) -> Any:
            return []

    with pytest.raises(TypeError, match="Strange"):
        reader_files(Strange(), tmp_path)


def test_no_heads_at_all(tmp_path: Path, world: Any) -> None:
    """A specialist of the only modality has no foreign heads."""
    network = upper_blocks()
    reader = SpecialistReader(network, Heads(), Heads(), Heads(), Blend())
    for p in network.blocks[0].parameters():
        p.requires_grad_(False)
    meta = {**reader_files(reader, tmp_path), "blend": {"adapted": 0.3, "frozen": 1.0}}
    back = load_reader(meta, tmp_path, world.text)
    assert isinstance(back, SpecialistReader)
    assert len(back.foreign) == 0


def test_lora_trains_low_rank_adapters_alone() -> None:
    network = lora(upper_blocks(), 8)
    trained = {k: p for k, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_A." in k or ".lora_B." in k for k in trained)
    # rank x (in + out) of each 1 x 1 convolution of blocks 14 and 15 and of the head
    shapes = [(192, 1152), (1152, 192), (192, 1152), (1152, 320), (320, 1280)]
    assert sum(p.numel() for p in trained.values()) == 8 * sum(a + b for a, b in shapes) == 56_832
    everything = lora(UpperBlocks.pretrained(), 8)
    count = sum(p.numel() for p in everything.parameters() if p.requires_grad)
    assert count == 113_024  # all blocks above the cached grid


def test_an_untrained_adapter_changes_nothing() -> None:
    plain, adapted = upper_blocks(), lora(upper_blocks(), 4)
    grid = torch.randn(2, 192, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(plain(grid), adapted.eval()(grid))


def test_base_weights_stay_as_published(fleet: Fleet) -> None:
    published = upper_state(14)
    for name in ("generalist-16", "generalist-full"):
        reader = getattr(fleet.agents[name], "reader", None)
        assert isinstance(reader, GeneralistReader)
        base = {
            k.removeprefix("base_model.model.").replace(".base_layer", ""): p
            for k, p in reader.network.named_parameters()
            if ".lora_" not in k
        }
        assert base.keys() == published.keys()
        assert all(torch.equal(base[k], v) for k, v in published.items())
        moved = [p for k, p in reader.network.named_parameters() if ".lora_B." in k]
        assert all(p.abs().sum() > 0 for p in moved)  # B starts at 0: training moved it


def test_a_specialist_tunes_its_top_block_alone(fleet: Fleet) -> None:
    published = upper_state(14)
    reader = getattr(fleet.agents["specialist-discs"], "reader", None)
    assert isinstance(reader, SpecialistReader)
    same = {k for k, p in reader.network.named_parameters() if torch.equal(p, published[k])}
    assert same == {k for k in published if k.startswith("blocks.0.")}
