"""What the model sees of an image: the default encoder's last map, 7 x 7 pooled to 4 x 4.

Overlapping windows (adaptive pooling) keep where things are; 1280 channels are what the
encoder's own classifier stands on.  Computed from the cached grid, a few milliseconds a case.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from curbside.indexes.encoder import upper_part
from curbside.indexes.features import Features
from curbside.indexes.lite0_graph import DIMENSIONS

__all__ = ["SIDE", "Eyes"]

#: Visual tokens an image, along one side.
SIDE = 4
_BLOCK = 128


class Eyes:
    """From the encoder's cached grids to visual features.

    Raises:
        AgentUnavailable: the encoder's weights are missing or not the pinned ones.
    """

    def __init__(self) -> None:
        # loads torch's side of the encoder, which reading features alone does not need
        from curbside.indexes.lite0 import folded_weights

        weights = folded_weights()
        self._weight = torch.from_numpy(weights["head.weight"])
        self._bias = torch.from_numpy(weights["head.bias"])
        self._lower = upper_part(pooled=False, threads=1)

    def see(self, features: Features, rows: NDArray[np.intp] | None = None) -> Tensor:
        """float16 (n, 16, 1280) of some rows (default: all) of features that carry grids."""
        picked = np.arange(len(features)) if rows is None else rows
        out = torch.zeros(len(picked), SIDE * SIDE, DIMENSIONS, dtype=torch.float16)
        for at in range(0, len(picked), _BLOCK):
            some = picked[at : at + _BLOCK]
            grid = self._lower.run(features.grid_rows(some))["grid"]
            with torch.inference_mode():
                wide = torch.from_numpy(grid.astype(np.float32))
                wide = functional.relu6(functional.conv2d(wide, self._weight, self._bias))
                cells = functional.adaptive_avg_pool2d(wide, SIDE).flatten(2).transpose(1, 2)
            out[at : at + len(some)] = cells.half()
        return out
