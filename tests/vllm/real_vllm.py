"""What every test on a real vLLM is marked with."""

from __future__ import annotations

import pytest

__all__ = ["MARKS"]

MARKS = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.enable_socket,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
