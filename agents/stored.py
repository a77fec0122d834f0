"""Readers as files: safetensors of what was learned, never of the shared trunk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from curbside.agents.heads import Blend, Heads
from curbside.agents.network import UpperNetwork, adapter_shapes, top_block_shapes
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    OptionScorer,
    Reader,
    SpecialistReader,
)
from curbside.indexes.text import TextEncoder

__all__ = ["load_reader", "reader_files"]

_TUNED, _ADAPTER, _SCORER = "tuned.safetensors", "adapter.safetensors", "scorer.safetensors"
_TEXT = "text.safetensors"


def reader_files(reader: Reader, folder: Path) -> dict[str, Any]:
    """Write a reader's tensors into a folder; returns what else :func:`load_reader` needs.

    Files are written by Python, not by safetensors, whose own error for a full disk is not
    an OSError.
    """
    if isinstance(reader, LinearReader):
        heads = _write(reader.heads, folder, "heads")
        return {"reader": "linear", "whole": reader.whole, "heads": {"heads": heads}}
    if isinstance(reader, SpecialistReader):
        (folder / _TUNED).write_bytes(save(reader.network.learned))
        named = {"own": reader.own, "frozen": reader.frozen, "foreign": reader.foreign}
        return {
            "reader": "specialist",
            "heads": {name: _write(heads, folder, name) for name, heads in named.items()},
        }
    if isinstance(reader, GeneralistReader):
        adapter = reader.network.learned
        (folder / _ADAPTER).write_bytes(save(adapter))
        (folder / _SCORER).write_bytes(save(reader.scorer.arrays()))
        (folder / _TEXT).write_bytes(save(dict(reader.scorer.text)))
        rank = next(v.shape[0] for k, v in adapter.items() if ".lora_A." in k)
        return {
            "reader": "generalist",
            "rank": rank,
            "labels": reader.labels,
            "heads": {"frozen": _write(reader.frozen, folder, "frozen")},
        }
    raise TypeError(f"no files for a reader of type {type(reader).__name__}")


def load_reader(
    meta: Mapping[str, Any], folder: Path, text: TextEncoder, cache: Path | None = None
) -> Reader:
    """The reverse of :func:`reader_files`; files were checked against their checksums.

    Args:
        cache: see :class:`~curbside.agents.network.UpperNetwork`.

    Raises:
        ValueError, KeyError or TypeError: the tensors are not exactly those that such a
            reader learns.
        StorageError: the cache cannot be written.
    """
    blend = Blend(**meta["blend"])
    heads = {
        name: Heads.from_arrays(load_file(folder / f"{name}.safetensors"), labels)
        for name, labels in meta["heads"].items()
    }
    if meta["reader"] == "linear":
        return LinearReader(heads["heads"], blend, whole=meta.get("whole", False))
    if meta["reader"] == "specialist":
        network = UpperNetwork(_exactly(folder / _TUNED, top_block_shapes()), cache)
        return SpecialistReader(network, heads["own"], heads["frozen"], heads["foreign"], blend)
    network = UpperNetwork(_exactly(folder / _ADAPTER, adapter_shapes(int(meta["rank"]))), cache)
    scorer = OptionScorer.from_arrays(load_file(folder / _SCORER), load_file(folder / _TEXT))
    labels: dict[str, list[str]] = meta["labels"]
    return GeneralistReader(network, scorer, heads["frozen"], labels, text, blend)


def _exactly(file: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Tensors of a file: those names and shapes, none missing and none besides."""
    tensors = load_file(file)
    wrong = sorted(tensors.keys() ^ expected.keys())
    if wrong:
        what = "lacks" if wrong[0] in expected else "holds an unknown"
        raise ValueError(f"{file.name} {what} {wrong[0]} ({len(wrong)} names differ)")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{file.name}: {name} is {tensors[name].shape}, not {shape}")
    return tensors


def _write(heads: Heads, folder: Path, name: str) -> dict[str, list[str]]:
    arrays = heads.arrays() or {"empty": np.zeros(1, np.float32)}
    (folder / f"{name}.safetensors").write_bytes(save(arrays))
    return heads.labels()
