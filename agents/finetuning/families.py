"""Families of vision-language models: where each keeps its language model and its projector.

Verified: trained, resumed, merged and served here on tiny random weights of the family.  Any
other model that transformers loads is adapted with ``targets`` in the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from curbside.agents.finetuning.recipe import Part, Recipe
from curbside.errors import ConfigError

__all__ = ["FAMILIES", "Family", "lora_targets"]

_LAYERS = r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Family:
    """Regular expressions over the names of a family's linear layers, by part.

    Args:
        renamed: beginnings of tensor names that vLLM looks for under another one.
    """

    targets: Mapping[Part, str]
    renamed: Mapping[str, str] = field(default_factory=dict)


#: ``model_type`` of a checkpoint's config.json → family.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llava": Family(
            {
                "language": rf".*language_model\.layers\.\d+\..*\.{_LAYERS}",
                "projector": r".*multi_modal_projector\.linear_\d",
                "vision": r".*vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj)",
            },
            {"vision_tower.": "vision_tower.vision_model."},
        ),
        "idefics3": Family(
            {
                "language": rf".*text_model\.layers\.\d+\..*\.{_LAYERS}",
                "projector": r".*connector\.modality_projection\.proj",
                "vision": r".*vision_model\.encoder\..*\.(q_proj|k_proj|v_proj|out_proj)",
            }
        ),
    }
)


def lora_targets(model_type: str, recipe: Recipe) -> str:
    """One regular expression over all parts that a recipe adapts.

    Raises:
        ConfigError: a part of which neither the family nor the recipe knows the layers.
    """
    family = FAMILIES.get(model_type)
    known = dict(family.targets) if family else {}
    known |= recipe.targets
    lacking = [p for p in recipe.parts if p not in known]
    if lacking:
        raise ConfigError(
            f"models of type {model_type!r} are not known here; the recipe must say in targets "
            f"which layers are {', '.join(lacking)} (verified families: {', '.join(FAMILIES)})",
            hint=r"targets: {language: '.*language_model\..*\.(q_proj|v_proj)'} in the recipe",
        )
    return "|".join(f"({known[p]})" for p in recipe.parts)
