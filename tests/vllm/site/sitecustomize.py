"""For the environment of ``make test-vllm`` alone: declares two operators of torchvision.

torchvision's build does not fit the CPU build of torch, so its operators are missing and
importing it fails.  Nothing here calls them; their schemas are enough.  Python reads this
file at every start because vLLM starts processes of its own.
"""

from typing import Any

import torch

library: Any = torch.library  # its classes have no types
LIBRARY = library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
