"""A small VLM as a folder: peft's adapter with the projector in it, and what it is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from curbside.agents.device import torch_device
from curbside.agents.finetuning.card import AdapterCard, read_card
from curbside.agents.small_vlm.language import Base, load_language
from curbside.agents.small_vlm.model import ADAPTED, Plan, SmallVlm
from curbside.agents.small_vlm.wording import Wording
from curbside.errors import AgentUnavailable, UserError
from curbside.storage import tree_digest

__all__ = [
    "ADAPTER_FILES",
    "FACTS_FILE",
    "Facts",
    "adapted",
    "opened",
    "read_facts",
    "read_made",
    "save_adapter",
    "with_adapter",
]

FACTS_FILE = "small-vlm.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Facts(BaseModel):
    """What an adapter does not say itself.

    Args:
        plan: see :class:`~curbside.agents.small_vlm.model.Plan`.
        language: the language model that it belongs to; another one is refused.
        encoder: fingerprint of the encoder whose features it sees.
        temperature: of closed answers, fitted on ``tune``; its cases in ``fitted_on``.
        files: SHA-256 of the adapter's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    plan: dict[str, int]
    language: str
    encoder: str
    temperature: float = 1.0
    fitted_on: int = 0
    files: dict[str, str]


def adapted(model: SmallVlm) -> Any:
    """The model with LoRA on the layers above the entry; the projector is trained too."""
    from peft import LoraConfig, get_peft_model

    plan = model.plan
    layers = range(plan.entry, model.language.config.num_hidden_layers)
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank,
        target_modules=rf"language\.model\.layers\.({'|'.join(map(str, layers))})\..*"
        rf"\.({'|'.join(ADAPTED)})",
        modules_to_save=["projector"],
    )
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> dict[str, str]:
    """Write peft's files and nothing else; their SHA-256 by name."""
    model.save_pretrained(str(folder))
    for path in folder.iterdir():
        if path.name not in ADAPTER_FILES:
            path.unlink()
    return tree_digest(folder)


def read_facts(folder: Path) -> Facts:
    """What lies in a folder, verified.

    Raises:
        AgentUnavailable: no small VLM, a damaged one, or one of other files.
    """
    hint = "make demo-vlm makes it again"
    try:
        facts = Facts.model_validate_json((folder / FACTS_FILE).read_bytes())
        plan = Plan(**facts.plan)
        found = {k: v for k, v in tree_digest(folder).items() if k in ADAPTER_FILES}
    except (OSError, ValidationError, TypeError) as e:
        raise AgentUnavailable(
            f"there is no whole small VLM here ({type(e).__name__})", hint=hint
        ) from None
    if found != facts.files or facts.plan != asdict(plan):
        raise AgentUnavailable("the small VLM's files are not as they were written", hint=hint)
    return facts


def read_made(folder: Path) -> AdapterCard:
    """The card of the one that lies in a folder.  Raises AgentUnavailable."""
    try:
        return read_card(folder)
    except UserError as e:
        raise AgentUnavailable(e.message, hint="make demo-vlm makes it again") from None


def with_adapter(base: Base, plan: Plan, folder: Path, *, learning: bool = False) -> Any:
    """The base with a stored adapter, as peft gives it, where torch computes here.

    Raises:
        AgentUnavailable: it does not fit.
    """
    from peft import PeftModel

    try:
        model = PeftModel.from_pretrained(base.fresh(plan), str(folder), is_trainable=learning)
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        raise AgentUnavailable(
            f"the small VLM's adapter does not fit ({type(e).__name__})",
            hint="make demo-vlm makes it again",
        ) from None
    return model.to(torch_device())


def opened(folder: Path) -> tuple[SmallVlm, Wording, Facts]:
    """The model, ready to be asked.

    Raises:
        MissingExtra: the language model is not installed.
        AgentUnavailable: see :func:`read_facts`; also where it belongs to another base.
    """
    facts = read_facts(folder)
    base = load_language()
    if base.name != facts.language:
        raise AgentUnavailable(
            f"the small VLM belongs to {facts.language}, and {base.name} is installed",
            hint="make demo-vlm installs what it needs",
        )
    inner: SmallVlm = with_adapter(base, Plan(**facts.plan), folder).base_model.model.eval()
    return inner, base.wording, facts
