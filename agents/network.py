"""The upper blocks of the trunk with what an agent has learned, as ONNX Runtime runs them.

What was learned is named arrays: the top block and the head of a specialist, or the
low-rank adapters of a generalist, which are added to the published weights before the graph
is built.  Knows no torch, so that reading loads none; where the arrays come from is
:mod:`curbside.agents.upper`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.agents.trunk import FIRST_TUNED
from curbside.indexes.encoder import upper_weights
from curbside.indexes.lite0_graph import BLOCKS, DIMENSIONS, Part, Weights, grid_shape

__all__ = ["LORA_SCALE", "UpperNetwork", "adapter_shapes", "top_block_shapes"]

Arrays = Mapping[str, NDArray[np.float32]]
Shape = tuple[int, ...]

#: What an adapter's product is multiplied by: alpha over rank, as it is trained.
LORA_SCALE = 2.0
#: Rows of one forward pass: more fall out of the processor's cache and are slower.
_CHUNK = 8
_PEFT = "base_model.model."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


class UpperNetwork:
    """Blocks ``FIRST_TUNED`` and above, published weights with ``learned`` over them.

    A study gets the same numbers alone as in a batch.

    Args:
        learned: float32 arrays by name, see :func:`top_block_shapes` and
            :func:`adapter_shapes`; none: the network as published.
        cache: see :func:`curbside.indexes.encoder.upper_weights`.
    """

    def __init__(self, learned: Arrays, cache: Path | None = None) -> None:
        self.learned = dict(learned)
        weights = _over(_published(cache), self.learned)
        self._part = Part(lambda: weights, first=FIRST_TUNED, maps=True, threads=1)

    def features(self, grid: NDArray[np.float16]) -> NDArray[np.float32]:
        """Grids (n, 192, 7, 7) to pooled features (n, 1280)."""
        return self._run(grid, "pooled", (DIMENSIONS,))

    def maps(self, grid: NDArray[np.float16]) -> NDArray[np.float32]:
        """Grids (n, 192, 7, 7) to what their features are the mean of, (n, 1280, 7, 7)."""
        return self._run(grid, "maps", (DIMENSIONS, *grid_shape(len(BLOCKS) - 1)[1:]))

    def _run(self, grid: NDArray[np.float16], name: str, shape: Shape) -> NDArray[np.float32]:
        out = np.zeros((len(grid), *shape), np.float32)
        for start in range(0, len(grid), _CHUNK):
            rows = slice(start, start + _CHUNK)
            out[rows] = self._part.run(grid[rows], name)[name]
        return out


def top_block_shapes() -> dict[str, Shape]:
    """What a specialist learns: ``blocks.1.<layer>.<part>`` of the top block, and ``head``."""
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in _layers().items()
        if not name.startswith("blocks.0.")
        for part in ("weight", "bias")
    }


def adapter_shapes(rank: int) -> dict[str, Shape]:
    """What a generalist learns: two matrices for each 1 × 1 convolution, as peft names them."""
    shapes: dict[str, Shape] = {}
    for name, (out, into, *_) in _layers().items():
        if not name.endswith("depthwise"):
            shapes[f"{_PEFT}{name}{_A}"] = (rank, into, 1, 1)
            shapes[f"{_PEFT}{name}{_B}"] = (out, rank, 1, 1)
    return shapes


def _layers() -> dict[str, Shape]:
    """Names of the upper convolutions, counted from block ``FIRST_TUNED``, and their shapes."""
    shapes: dict[str, Shape] = {}
    for i, b in enumerate(BLOCKS[FIRST_TUNED:]):
        wide = b.channels_in * b.expand
        shapes[f"blocks.{i}.expand"] = (wide, b.channels_in, 1, 1)
        shapes[f"blocks.{i}.depthwise"] = (wide, 1, b.kernel, b.kernel)
        shapes[f"blocks.{i}.project"] = (b.channels_out, wide, 1, 1)
    shapes["head"] = (DIMENSIONS, BLOCKS[-1].channels_out, 1, 1)
    return shapes


def _over(published: Weights, learned: Arrays) -> Weights:
    weights = dict(published)
    for name, value in learned.items():
        if name.endswith(_B):
            continue
        if name.endswith(_A):
            layer = name.removeprefix(_PEFT).removesuffix(_A)
            low, high = value[:, :, 0, 0], learned[name.removesuffix(_A) + _B][:, :, 0, 0]
            changed = _in_trunk(f"{layer}.weight")
            weights[changed] = weights[changed] + LORA_SCALE * (high @ low)[:, :, None, None]
        else:
            weights[_in_trunk(name)] = value
    return weights


def _in_trunk(name: str) -> str:
    """``blocks.0.…`` counted from the first block of all."""
    if not name.startswith("blocks."):
        return name
    _, block, rest = name.split(".", 2)
    return f"blocks.{int(block) + FIRST_TUNED}.{rest}"


@cache
def _published(kept: Path | None) -> Weights:
    """Checked once for a process, not once for each agent of a fleet."""
    return upper_weights(FIRST_TUNED, kept)
