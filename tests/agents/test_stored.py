"""Readers as files: what was learned comes back exactly, and nothing may be missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from curbside.agents.embedded import EmbeddedAgent
from curbside.agents.fleet import AGENT_FILE, Fleet
from curbside.agents.heads import Blend, Heads
from curbside.agents.network import UpperNetwork, adapter_shapes, top_block_shapes
from curbside.agents.readers import GeneralistReader, Reader, SpecialistReader, read
from curbside.agents.stored import load_reader, reader_files
from curbside.agents.upper import learned, lora, top_block, upper_blocks
from curbside.errors import IndexCorrupt
from curbside.indexes.encoder import upper_weights
from curbside.indexes.lite0 import UpperBlocks, folded_weights, upper_state

NAMES = ("specialist-discs", "generalist-full", "linear-16")


def written(agent: Any, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    assert isinstance(agent, EmbeddedAgent)
    blend = {"adapted": agent.reader.blend.adapted, "frozen": agent.reader.blend.frozen}
    meta = {**reader_files(agent.reader, folder), "blend": blend}
    read_back: dict[str, Any] = json.loads(json.dumps(meta))
    return read_back


@pytest.mark.parametrize("name", NAMES)
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
    tensors = load_file(path)
    first = sorted(tensors)[0]
    if damage == "missing":
        del tensors[first]
    elif damage == "unknown":
        tensors["blocks.99.expand.weight"] = np.zeros(2, np.float32)
    else:
        tensors[first] = np.zeros(3, np.float32)
    path.unlink()
    save_file(tensors, path)
    match = {"missing": "lacks", "unknown": "holds an unknown blocks.99", "shape": "is .3,., not"}
    with pytest.raises(ValueError, match=match[damage]):
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

        def opinions(self, inputs: Any, questions: Any, tuned: Any = None) -> Any:
            return []

    with pytest.raises(TypeError, match="Strange"):
        reader_files(Strange(), tmp_path)


def test_no_heads_at_all(tmp_path: Path, world: Any) -> None:
    """A specialist of the only modality has no foreign heads."""
    reader = SpecialistReader(learned(top_block()), Heads(), Heads(), Heads(), Blend())
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


def grids(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 192, 7, 7)).astype(np.float16)


@pytest.mark.parametrize("kind", ["tuned", "adapted"])
def test_what_serves_computes_what_was_trained(kind: str) -> None:
    """Every learned number shifted: the graph follows torch, and peft where it merges."""
    torch.manual_seed(0)
    network = top_block() if kind == "tuned" else lora(upper_blocks(), 4)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    served, grid = learned(network.eval()), grids(11)
    with torch.inference_mode():
        expected = network(torch.from_numpy(grid).float()).numpy()
        plain = upper_blocks()(torch.from_numpy(grid).float()).numpy()
    np.testing.assert_allclose(served.features(grid), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(served.maps(grid).mean((2, 3)), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected - plain).max() > 0.05
    np.testing.assert_allclose(UpperNetwork({}).features(grid), plain, rtol=1e-3, atol=1e-4)


def test_shapes_are_those_that_torch_learns() -> None:
    def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        trained = {k: p for k, p in network.named_parameters() if p.requires_grad}
        return {k: tuple(p.shape) for k, p in trained.items()}

    assert shapes(top_block()) == top_block_shapes()
    assert shapes(lora(upper_blocks(), 3)) == adapter_shapes(3)


def test_published_weights_are_kept_so_that_another_process_needs_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upper_weights(14, tmp_path)
    monkeypatch.setattr("curbside.indexes.encoder._weights", lambda: pytest.fail("again"))
    again = upper_weights(14, tmp_path)
    assert (
        first.keys()
        == again.keys()
        == {
            k.replace("blocks.1", "blocks.15").replace("blocks.0", "blocks.14")
            for k in upper_state(14)
        }
    )
    whole = folded_weights()
    assert all(np.array_equal(first[k], whole[k]) for k in first)
    assert all(np.array_equal(again[k], whole[k]) for k in first)
    monkeypatch.undo()
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    assert upper_weights(14, tmp_path).keys() == first.keys()


def test_reading_loads_no_torch(fleet: Fleet, world: Any, tmp_path: Path) -> None:
    """Nor peft, nor onnx's torch exporters: agents of every kind, from files to probabilities."""
    metas = {n: written(fleet.agents[n], tmp_path / n) for n in NAMES}
    upper_weights(14, tmp_path)
    (tmp_path / "metas.json").write_text(json.dumps(metas))
    code = f"""
import json, sys
from pathlib import Path
import numpy as np
from curbside.agents.readers import read
from curbside.agents.stored import load_reader
from curbside.agents.trunk import Inputs
from curbside.study import Question
folder = Path({str(tmp_path)!r})
inputs = Inputs(np.ones((1, 1280), 'f4'), np.ones((1, 992), 'f4'), np.ones((1, 192, 7, 7), 'f2'))
asked = Question(('benign', 'malignant', 'normal'), task='discs_size')
for name, meta in json.loads((folder / 'metas.json').read_text()).items():
    (found,) = read(load_reader(meta, folder / name, None, folder), inputs, [asked])
    assert abs(found.sum() - 1) < 1e-5, name
heavy = {{'torch', 'peft', 'transformers', 'sklearn'}} & set(sys.modules)
sys.exit(f'loaded {{heavy}}' if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_generalist_learns_adapters_alone(fleet: Fleet) -> None:
    for name in ("generalist-16", "generalist-full"):
        reader = getattr(fleet.agents[name], "reader", None)
        assert isinstance(reader, GeneralistReader)
        assert reader.network.learned.keys() == adapter_shapes(8).keys()
        moved = [v for k, v in reader.network.learned.items() if ".lora_B." in k]
        assert all(np.abs(v).sum() > 0 for v in moved)  # B starts at 0: training moved it


def test_a_specialist_tunes_its_top_block_alone(fleet: Fleet) -> None:
    published = upper_state(14)
    reader = getattr(fleet.agents["specialist-discs"], "reader", None)
    assert isinstance(reader, SpecialistReader)
    assert reader.network.learned.keys() == top_block_shapes().keys()
    assert all(
        not np.array_equal(v, published[k].numpy()) for k, v in reader.network.learned.items()
    )
