"""Any image encoder that sentence-transformers can load: CLIP, SigLIP and their relatives.

By name (from the local model cache) or by folder.  Nothing is downloaded and no code of
a model's repository is run: what is not here yet is an error that says how to get it.
Preprocessing is the model's own; CLIP's cuts the longer sides off, which Lite0's does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.errors import AgentUnavailable, ConfigError
from curbside.indexes.encoder import Encoded
from curbside.storage import tree_digest
from curbside.study import content_hash

__all__ = ["SentenceTransformersEncoder", "load_sentence_transformer", "model_folder"]

#: Files that change what a model computes; the rest of a folder is documentation.
_RELEVANT = (".safetensors", ".json", ".txt", ".model")
_FORMAT = 1


class SentenceTransformersEncoder:
    """Pooled image features of a sentence-transformers model; it has no grid.

    Args:
        model: a folder, or a name that is in the local model cache.
        batch_size: images per forward pass.
        threads: CPU threads of one call.

    Raises:
        ConfigError: there is no such model here, it reads no images, or it has no
            safetensors weights.
        AgentUnavailable: its files are damaged.
    """

    #: Images whose shorter side is longer are shrunk first, so that few huge ones that are
    #: decoded ahead fit into memory; far above any model's own input.
    SHORTER_SIDE = 1024

    def __init__(self, model: str, *, batch_size: int = 32, threads: int = 2) -> None:
        folder = model_folder(model)
        files = {
            name: digest
            for name, digest in tree_digest(folder).items()
            if name.endswith(_RELEVANT) and not name.startswith(".")
        }
        if not any(name.endswith(".safetensors") for name in files):
            raise ConfigError(
                f"encoder.model = {model!r} has no safetensors weights; "
                "pickled weights can run code and are not loaded",
                hint="save the model again with save_pretrained(…), or choose another one",
            )
        self._model = load_sentence_transformer(folder, model)
        if "image" not in self._model.modalities:
            raise ConfigError(
                f"encoder.model = {model!r} reads {', '.join(self._model.modalities)}, not images",
                hint="choose a CLIP or SigLIP model, or set encoder.kind to lite0",
            )
        what = {"format": _FORMAT, "files": files, "shorter_side": self.SHORTER_SIDE}
        self.fingerprint = content_hash("sentence-transformers", json.dumps(what, sort_keys=True))
        self.grid_shape: tuple[int, int, int] | None = None
        self._batch_size, self._threads = batch_size, threads
        self._lock = Lock()
        self.dimensions: int = self.encode([np.zeros((32, 32, 3), np.uint8)]).pooled.shape[1]

    @property
    def device(self) -> str:
        """Where it computes: the first GPU that torch sees, else ``cpu``."""
        return str(self._model.device)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3), shrunk only if it is very large."""
        height, width = image.shape[:2]
        shorter = min(height, width)
        if shorter <= self.SHORTER_SIDE:
            return image
        scale = self.SHORTER_SIDE / shorter
        size = (
            max(self.SHORTER_SIDE, round(width * scale)),
            max(self.SHORTER_SIDE, round(height * scale)),
        )
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        """RGB uint8 images (h, w, 3) of any size to float32 (n, d), not normalised; no grid."""
        if not len(images):
            return Encoded(np.zeros((0, self.dimensions), np.float32), None)
        import torch

        pictures = [Image.fromarray(self.prepare(i)) for i in images]
        with self._lock:
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                values = self._model.encode(
                    pictures,
                    batch_size=self._batch_size,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
            finally:
                torch.set_num_threads(before)
        return Encoded(np.asarray(values, np.float32), None)


def model_folder(model: str) -> Path:
    """Where a model lies: the folder itself, or its snapshot in the local model cache.

    Raises:
        ConfigError: neither is there.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for name in (model, f"sentence-transformers/{model}"):
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            continue
    raise ConfigError(
        f"encoder.model = {model!r} is neither a folder nor in the local model cache; "
        "curbside downloads no models by itself",
        hint=f"hf download {model}   (or set encoder.model to a folder that holds the model)",
    )


def load_sentence_transformer(folder: Path, name: str, *, device: str | None = None) -> Any:
    """A SentenceTransformer from a local folder: safetensors only, offline, no remote code.

    Raises:
        AgentUnavailable: the files are damaged or of a kind that cannot be loaded here.
    """
    try:
        from sentence_transformers import SentenceTransformer

        with _quiet():
            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except Exception as e:  # the loaders raise anything from KeyError to SafetensorError
        raise AgentUnavailable(
            f"the model {name!r} cannot be loaded: {type(e).__name__}: {e}",
            hint="check the folder against its source, or choose another model",
        ) from e
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which tear ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
