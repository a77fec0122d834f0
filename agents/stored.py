"""Readers as files: safetensors of what was learned, never of the shared trunk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from curbside.agents.heads import Blend, Heads
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    OptionScorer,
    Reader,
    SpecialistReader,
)
from curbside.agents.upper import channels_last, upper_blocks
from curbside.indexes.lite0 import UpperBlocks
from curbside.indexes.text import TextEncoder

__all__ = ["load_reader", "lora", "reader_files"]

_TUNED, _ADAPTER, _SCORER = "tuned.safetensors", "adapter.safetensors", "scorer.safetensors"
_TARGETS = r"blocks\.\d+\.(expand|project)|head"


def lora(network: UpperBlocks, rank: int) -> torch.nn.Module:
    """Low-rank adapters on the 1 × 1 convolutions (Hu et al., LoRA, ICLR 2022), through peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS)
    adapted: torch.nn.Module = get_peft_model(network, config)
    return channels_last(adapted)


def reader_files(reader: Reader, folder: Path) -> dict[str, Any]:
    """Write a reader's tensors into a folder; returns what else :func:`load_reader` needs."""
    if isinstance(reader, LinearReader):
        return {"reader": "linear", "heads": {"heads": _write(reader.heads, folder, "heads")}}
    if isinstance(reader, SpecialistReader):
        save_tensors(_learned(reader.network), folder / _TUNED)
        named = {"own": reader.own, "frozen": reader.frozen, "foreign": reader.foreign}
        return {
            "reader": "specialist",
            "heads": {name: _write(heads, folder, name) for name, heads in named.items()},
        }
    if isinstance(reader, GeneralistReader):
        adapter = _learned(reader.network)
        save_tensors(adapter, folder / _ADAPTER)
        save_tensors(dict(reader.scorer.state_dict()), folder / _SCORER)
        vectors = {t: reader.scorer.text_of(t) for t in reader.labels}
        save_arrays(vectors, folder / "text.safetensors")
        rank = next(v.shape[0] for k, v in adapter.items() if ".lora_A." in k)
        return {
            "reader": "generalist",
            "rank": rank,
            "labels": reader.labels,
            "heads": {"frozen": _write(reader.frozen, folder, "frozen")},
        }
    raise TypeError(f"no files for a reader of type {type(reader).__name__}")


def load_reader(meta: Mapping[str, Any], folder: Path, text: TextEncoder) -> Reader:
    """The reverse of :func:`reader_files`; files were checked against their checksums."""
    blend = Blend(**meta["blend"])
    heads = {
        name: Heads.from_arrays(load_arrays(folder / f"{name}.safetensors"), labels)
        for name, labels in meta["heads"].items()
    }
    if meta["reader"] == "linear":
        return LinearReader(heads["heads"], blend)
    if meta["reader"] == "specialist":
        network = upper_blocks()
        network.load_state_dict(load_tensors(folder / _TUNED), strict=False)
        return SpecialistReader(
            network.eval(), heads["own"], heads["frozen"], heads["foreign"], blend
        )
    adapted = lora(upper_blocks(), int(meta["rank"]))
    adapted.load_state_dict(load_tensors(folder / _ADAPTER), strict=False)
    vectors = load_arrays(folder / "text.safetensors")
    labels: dict[str, list[str]] = meta["labels"]
    tensors = load_tensors(folder / _SCORER)
    scorer = OptionScorer(tensors["project.weight"].shape[1], vectors)
    scorer.load_state_dict(tensors)
    return GeneralistReader(adapted.eval(), scorer.eval(), heads["frozen"], labels, text, blend)


def _learned(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Only what was trained: the rest comes with the pinned trunk."""
    return {k: p.detach().contiguous() for k, p in network.named_parameters() if p.requires_grad}


def _write(heads: Heads, folder: Path, name: str) -> dict[str, list[str]]:
    arrays = heads.arrays() or {"empty": np.zeros(1, np.float32)}
    save_arrays(arrays, folder / f"{name}.safetensors")
    return heads.labels()
