"""The embedded encoder beside the same network as its package gives it, in one run.

Eager torch with the package's own model and weights against ONNX Runtime with folded
ones: same images, same threads, rounds taken in turn so that a busy machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.indexes.encoder import Lite0Encoder
from curbside.indexes.lite0_graph import SIDE
from curbside.progress import Advance

__all__ = ["EncoderBench", "bench_encoder", "eager_features", "sample_images"]


@dataclass(frozen=True)
class EncoderBench:
    """What one run measured.

    Args:
        images, rounds, threads: how it was run.
        eager_rate, rate: images per second, median over rounds.
        ratio: ``rate / eager_rate``.
        cosine: the smallest cosine over images between the two feature vectors.
    """

    images: int
    rounds: int
    threads: int
    eager_rate: float
    rate: float
    ratio: float
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def sample_images(n: int, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Seeded pictures, uint8 (224, 224, 3), from smooth to noisy; speed does not depend on them."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(n):
        side = (4, 16, 64, SIDE)[i % 4]
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        images.append(np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return images


def eager_features() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The package's model as it comes: uint8 (n, 224, 224, 3) to pooled float32 (n, 1280)."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from curbside.indexes.lite0 import weights_file

    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights_file(), map_location="cpu", weights_only=True))
    model.eval()

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
            pooled: NDArray[np.float32] = model.extract_features(x).mean((2, 3)).numpy()
        return pooled

    return features


def bench_encoder(
    *,
    images: int = 32,
    rounds: int = 5,
    threads: int = 2,
    cache: Path | None = None,
    advance: Advance = lambda _: None,
) -> EncoderBench:
    """Measure both, alternating; ``advance(1)`` is called after each round.

    Raises:
        AgentUnavailable: the weights are missing or not the pinned ones.
    """
    import torch

    batch = np.stack(sample_images(images))
    ours, eager = Lite0Encoder(cache=cache, threads=threads), eager_features()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = eager(batch), ours.encode(list(batch)).pooled  # the first run also warms up
        slow, fast = [], []
        for _ in range(rounds):
            slow.append(_seconds(lambda: eager(batch)))
            fast.append(_seconds(lambda: ours.encode(list(batch))))
            advance(1)
    finally:
        torch.set_num_threads(before)
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    eager_rate, rate = images / median(slow), images / median(fast)
    return EncoderBench(
        images, rounds, threads, eager_rate, rate, rate / eager_rate, float(cosine.min())
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
