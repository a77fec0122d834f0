"""Models and adapters as files: what they are, whether they belong together, names for vLLM."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curbside.agents.finetuning.card import CARD_FILE, read_card
from curbside.agents.finetuning.families import FAMILIES
from curbside.errors import AgentUnavailable, UserError
from curbside.storage import file_digest, new_folder
from curbside.study import content_hash

__all__ = [
    "base_digest",
    "check_adapter",
    "check_base",
    "for_vllm",
    "machine",
    "model_type",
    "plain",
    "versions",
]

_WEIGHTS = (".safetensors", ".json", ".jinja", ".model", ".txt")


def base_digest(folder: Path) -> str:
    """SHA-256 over the files of a model or adapter that change what it says."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    own = [
        n
        for n in names
        if n.endswith(_WEIGHTS) and not n.startswith(".") and n not in (CARD_FILE, "run.json")
    ]
    return content_hash(*(f"{n} {file_digest(folder / n)}" for n in own))


def model_type(folder: Path) -> str:
    """``model_type`` of a model's config.json.  Raises AgentUnavailable."""
    try:
        return str(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise AgentUnavailable(
            f"the model's config.json cannot be read ({type(e).__name__})",
            hint="give the folder of a model as save_pretrained writes it",
        ) from None


def check_adapter(adapter: Path, base: Path, digest: str) -> None:
    """Refuse an adapter of another base, before anything is trained.

    By its card where it has one (made here), else by the shapes of its tensors.

    Raises:
        UserError: it is no adapter in safetensors, or another base's.
    """
    from safetensors import SafetensorError, safe_open

    if (adapter / CARD_FILE).is_file():
        _check_card(adapter, base, digest)
        return
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file() or not (adapter / "adapter_config.json").is_file():
        raise UserError(
            f"{adapter.name} is no LoRA adapter in safetensors (it needs adapter_config.json and "
            "adapter_model.safetensors)",
            hint="name another adapter in the fleet file, or none",
        )
    shapes = _shapes(base)
    try:
        with safe_open(weights, "pt") as f:
            found = {k: tuple(f.get_slice(k).get_shape()) for k in f.keys()}  # noqa: SIM118  safe_open's file is no dict
    except SafetensorError as e:
        raise UserError(
            f"adapter {adapter.name} cannot be read: {type(e).__name__}", hint="save it again"
        ) from None
    for name, shape in found.items():
        layer, _, part = name.removeprefix("base_model.model.").partition(".lora_")
        own = shapes.get(layer.removeprefix("model."))
        axis, side = (1, 1) if part.startswith("A") else (0, 0)
        if own is None or shape[side] != own[axis]:
            was = "has no such layer" if own is None else f"has {own[axis]} there, it {shape[side]}"
            raise UserError(
                f"adapter {adapter.name} belongs to another base: {base.name} {was} ({layer})",
                hint="adapt the base without it, or name the base that it was made on",
            )


def check_base(adapter: Path, base: Path) -> None:
    """Refuse an adapter whose card names another base than lies in a folder, before it serves.

    Raises:
        UserError: see above; what has no card, or a base that is no folder, passes.
    """
    if (adapter / CARD_FILE).is_file() and base.is_dir():
        _check_card(adapter, base, base_digest(base))


def _check_card(adapter: Path, base: Path, digest: str) -> None:
    card = read_card(adapter)
    if card.base_digest != digest:
        raise UserError(
            f"adapter {adapter.name} belongs to base {card.base!r} ({card.base_digest[:12]}), "
            f"not to {base.name} ({digest[:12]})",
            hint="adapt the base without it, or name the base that it was made on",
        )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Layer → shape of its weight, without the beginnings that checkpoints differ in."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            for key in f.keys():  # noqa: SIM118  safe_open's file is no dict
                if key.endswith(".weight"):
                    name = key.removesuffix(".weight")
                    shape = tuple(f.get_slice(key).get_shape())
                    for old in (name, name.removeprefix("model."), _as_loaded(name)):
                        found[old] = shape
    return found


def _as_loaded(name: str) -> str:
    """A checkpoint's name as transformers' modules have it now: LLaVA's were moved about."""
    moved = name.removeprefix("model.")
    return moved.replace("language_model.model.", "language_model.")


def for_vllm(base: Path, out: Path) -> Path:
    """A copy of a checkpoint with the tensor names that vLLM looks for.

    Raises:
        UserError: the family needs no renaming, or ``out`` is there.
        AgentUnavailable: ``base`` is no model.
    """
    from safetensors.torch import load_file, save_file

    kind = model_type(base)
    family = FAMILIES.get(kind)
    renamed = dict(family.renamed) if family else {}
    if not renamed:
        raise UserError(
            f"vLLM reads checkpoints of type {kind!r} as they are",
            hint="name the base itself in the fleet file",
        )
    if out.exists():
        raise UserError(f"{out} is there already", hint="give another folder")

    def name_of(key: str) -> str:
        for old, new in renamed.items():
            if old in key and new not in key:
                return key.replace(old, new)
        return key

    with new_folder(out) as temporary:
        shutil.copytree(base, temporary, dirs_exist_ok=True)
        for path in sorted(temporary.glob("*.safetensors")):
            tensors = {name_of(k): v for k, v in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})
        index = temporary / "model.safetensors.index.json"
        if index.is_file():
            body: dict[str, Any] = json.loads(index.read_text("utf-8"))
            body["weight_map"] = {name_of(k): v for k, v in body["weight_map"].items()}
            index.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return out


def plain(folder: Path, base: str) -> None:
    """peft's own page and the path of this machine's base go; the name stays."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    config["base_model_name_or_path"] = base
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)


def machine(threads: int | None = None) -> str:
    """What this runs on, in words; ``threads``: that a training computed on."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    on = "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores{on}"


def versions(*names: str) -> dict[str, str]:
    """Installed versions of packages."""
    return {n: version(n) for n in names}
