"""Where torch trains and answers: on the first GPU that it sees, else on the processor.

``CUDA_VISIBLE_DEVICES=`` (set to nothing) keeps everything on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["has_bfloat16", "on_threads", "one_device", "torch_device"]


def torch_device() -> torch.device:
    """The first GPU through CUDA, or the processor."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Whether there is a GPU that computes in bfloat16; on processors it is too slow to ask for."""
    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def one_device(arguments: Any) -> Any:
    """Training arguments of transformers that keep to one device.

    With several GPUs in one process the Trainer would take torch's DataParallel, which splits
    tensors by row and knows nothing of rows that share their texts.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Torch and numpy compute on so many threads: how products are cut over them shows in the
    last digits."""
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
