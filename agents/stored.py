"""Readers as files: safetensors of what was learned, never of the shared trunk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as array_bytes
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as tensor_bytes

from curbside.agents.heads import Blend, Heads
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    OptionScorer,
    Reader,
    SpecialistReader,
)
from curbside.agents.upper import channels_last, top_block, upper_blocks
from curbside.indexes.lite0 import UpperBlocks
from curbside.indexes.text import TextEncoder

__all__ = ["load_reader", "lora", "reader_files"]

_TUNED, _ADAPTER, _SCORER = "tuned.safetensors", "adapter.safetensors", "scorer.safetensors"
_TEXT = "text.safetensors"
_TARGETS = r"blocks\.\d+\.(expand|project)|head"


def lora(network: UpperBlocks, rank: int) -> torch.nn.Module:
    """Low-rank adapters on the 1 × 1 convolutions (Hu et al., LoRA, ICLR 2022), through peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS)
    adapted: torch.nn.Module = get_peft_model(network, config)
    return channels_last(adapted)


def reader_files(reader: Reader, folder: Path) -> dict[str, Any]:
    """Write a reader's tensors into a folder; returns what else :func:`load_reader` needs.

    Files are written by Python, not by safetensors, whose own error for a full disk is not
    an OSError.
    """
    if isinstance(reader, LinearReader):
        return {"reader": "linear", "heads": {"heads": _write(reader.heads, folder, "heads")}}
    if isinstance(reader, SpecialistReader):
        (folder / _TUNED).write_bytes(tensor_bytes(_learned(reader.network)))
        named = {"own": reader.own, "frozen": reader.frozen, "foreign": reader.foreign}
        return {
            "reader": "specialist",
            "heads": {name: _write(heads, folder, name) for name, heads in named.items()},
        }
    if isinstance(reader, GeneralistReader):
        adapter = _learned(reader.network)
        (folder / _ADAPTER).write_bytes(tensor_bytes(adapter))
        (folder / _SCORER).write_bytes(tensor_bytes(dict(reader.scorer.state_dict())))
        vectors = {t: reader.scorer.text_of(t) for t in reader.labels}
        (folder / _TEXT).write_bytes(array_bytes(vectors))
        rank = next(v.shape[0] for k, v in adapter.items() if ".lora_A." in k)
        return {
            "reader": "generalist",
            "rank": rank,
            "labels": reader.labels,
            "heads": {"frozen": _write(reader.frozen, folder, "frozen")},
        }
    raise TypeError(f"no files for a reader of type {type(reader).__name__}")


def load_reader(meta: Mapping[str, Any], folder: Path, text: TextEncoder) -> Reader:
    """The reverse of :func:`reader_files`; files were checked against their checksums.

    Raises:
        ValueError, KeyError, TypeError or RuntimeError: the tensors are not exactly those
            that such a reader learns.
    """
    blend = Blend(**meta["blend"])
    heads = {
        name: Heads.from_arrays(load_arrays(folder / f"{name}.safetensors"), labels)
        for name, labels in meta["heads"].items()
    }
    if meta["reader"] == "linear":
        return LinearReader(heads["heads"], blend)
    if meta["reader"] == "specialist":
        network = top_block()
        _restore(network, folder / _TUNED)
        return SpecialistReader(
            network.eval(), heads["own"], heads["frozen"], heads["foreign"], blend
        )
    adapted = lora(upper_blocks(), int(meta["rank"]))
    _restore(adapted, folder / _ADAPTER)
    vectors = load_arrays(folder / _TEXT)
    labels: dict[str, list[str]] = meta["labels"]
    tensors = load_tensors(folder / _SCORER)
    scorer = OptionScorer(tensors["project.weight"].shape[1], vectors)
    scorer.load_state_dict(tensors)
    return GeneralistReader(adapted.eval(), scorer.eval(), heads["frozen"], labels, text, blend)


def _learned(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Only what was trained: the rest comes with the pinned trunk."""
    return {k: p.detach().contiguous() for k, p in network.named_parameters() if p.requires_grad}


def _restore(network: torch.nn.Module, file: Path) -> None:
    """Put what was learned over the pinned trunk: exactly those tensors, none missing."""
    tensors, expected = load_tensors(file), _learned(network).keys()
    wrong = sorted(tensors.keys() ^ expected)
    if wrong:
        what = "lacks" if wrong[0] in expected else "holds an unknown"
        raise ValueError(f"{file.name} {what} {wrong[0]} ({len(wrong)} names differ)")
    network.load_state_dict(tensors, strict=False)


def _write(heads: Heads, folder: Path, name: str) -> dict[str, list[str]]:
    arrays = heads.arrays() or {"empty": np.zeros(1, np.float32)}
    (folder / f"{name}.safetensors").write_bytes(array_bytes(arrays))
    return heads.labels()
