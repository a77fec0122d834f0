"""How an agent is adapted, as a strict file; what it leaves out has a default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbside.config import load_model

__all__ = ["METHODS", "PARTS", "Method", "Part", "Recipe", "load_recipe"]

Method = Literal["lora", "linear", "last-block"]
Part = Literal["language", "projector", "vision"]
METHODS: tuple[Method, ...] = ("lora", "linear", "last-block")
PARTS: tuple[Part, ...] = ("language", "projector", "vision")


class Recipe(BaseModel):
    """The numbers of an adaptation; ``curbside finetune --recipe FILE``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: Method = "lora"
    """``lora``: low-rank adapters; of encoders also ``linear`` (heads on frozen features) and
    ``last-block`` (the last block and heads)."""
    parts: tuple[Part, ...] = ("language",)
    """Parts of a vision-language model that are adapted.  vLLM serves adapters of the language
    model; one that also holds another part is served in process."""
    targets: dict[Part, str] = Field(default_factory=dict)
    """Regular expressions over names of linear layers, for families that are not known here."""
    rank: int = Field(default=8, ge=1, le=512)
    """Rank of the adapters."""
    scale: float = Field(default=2.0, gt=0)
    """What an adapter's product is multiplied by (LoRA's alpha over rank)."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """On what goes into the adapters, and into the heads of an encoder."""
    epochs: float = Field(default=3.0, gt=0, le=1000)
    """Times round the training cases, at most."""
    batch: int = Field(default=8, ge=1, le=4096)
    """Cases of one step on one device."""
    accumulate: int = Field(default=1, ge=1, le=4096)
    """Steps whose gradients are added up before the weights move."""
    rate: float = Field(default=2e-4, gt=0, le=1)
    """Greatest learning rate; rises over the first tenth and falls to 0 along a cosine."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Weight decay."""
    held_out: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the groups of ``train`` that early stopping watches; 0: every epoch is trained."""
    patience: int = Field(default=3, ge=1, le=1000)
    """Looks at the held-out groups without a lower loss after which training stops."""
    looks: int = Field(default=10, ge=1, le=1000)
    """Checkpoints, each with a look at the held-out groups, over the whole training."""
    gradient_checkpointing: bool | None = None
    """Compute activations again instead of keeping them; None: on a GPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 where the GPU has it, else float32."""

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ValueError("parts names each part once, and at least one")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.  Raises ConfigError."""
    return load_model(Recipe, path, hint=f"edit {path.name} (docs/finetuning.md), run it again")
