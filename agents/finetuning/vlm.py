"""Vision-language models: supervised fine-tuning of LoRA adapters through trl and peft."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curbside.agents.finetuning.card import AdapterCard, write_card
from curbside.agents.finetuning.dialogue import dialogues
from curbside.agents.finetuning.export import (
    base_digest,
    check_adapter,
    machine,
    model_type,
    plain,
    versions,
)
from curbside.agents.finetuning.families import FAMILIES, lora_targets
from curbside.agents.finetuning.material import Material
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.runs import (
    Run,
    Trained,
    arguments,
    fit,
    half_precision,
    metrics_of,
)
from curbside.agents.fleet_spec import Limits
from curbside.agents.prompting import PromptTemplate
from curbside.config import model_digest
from curbside.errors import AgentUnavailable, UserError

__all__ = ["VlmBase", "finetune_vlm"]

_LIMITS = (
    "Adapted to the questions and images of its cases; nothing is known of others. Read the "
    "evaluation before it reads for anybody."
)


@dataclass(frozen=True)
class VlmBase:
    """What is adapted.

    Args:
        name: as in the fleet file; ``folder``: where its files are.
        adapter: an adapter to go on from, or None.
    """

    agent: str
    name: str
    folder: Path
    prompt: PromptTemplate
    limits: Limits
    adapter: Path | None = None
    intended_use: str = ""


def finetune_vlm(
    base: VlmBase, material: Material, recipe: Recipe, out: Path
) -> tuple[AdapterCard, bool]:
    """Train an adapter, or go on where a killed training stopped.

    Returns:
        The card, and whether ``out`` held the finished adapter already.

    Raises:
        ConfigError: the recipe does not fit the model.
        UserError: the adapter to go on from is another base's; ``out`` holds something else;
            the loss diverged.
        AgentUnavailable: the model cannot be loaded.
        StorageError: the disk is full.
    """
    if recipe.method != "lora":
        raise UserError(
            f"method {recipe.method!r} is for encoders; a vision-language model takes 'lora'",
            hint="--method lora",
        )
    kind = model_type(base.folder)
    targets = lora_targets(kind, recipe)
    digest = base_digest(base.folder)
    if base.adapter is not None:
        check_adapter(base.adapter, base.folder, digest)
    run = Run(
        out,
        {
            "base": digest,
            "adapter to go on from": base_digest(base.adapter) if base.adapter else "",
            "cases": material.digest,
            "recipe": model_digest(recipe),
            "prompt": base.prompt.digest,
            "limits": model_digest(base.limits),
            "shots": str(material.shots),
            "seed": str(material.seed),
        },
    )
    if run.finished:
        return run.card(), True
    model, processor = _loaded(base, recipe)
    trainer, trained = _trained(model, processor, base, material, recipe, run, targets)
    learned = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in trainer.model.parameters())
    other = [p for p in recipe.parts if p != "language"]
    card = AdapterCard(
        agent=base.agent,
        kind="vlm",
        family=kind,
        base=base.name,
        base_digest=digest,
        method=recipe.method,
        parts=recipe.parts,
        recipe=recipe.model_dump(mode="json"),
        started_from=base.adapter.name if base.adapter else "",
        manifest=material.cases.path.name,
        data_digest=material.digest,
        shots=material.shots,
        seed=material.seed,
        modalities=material.modalities,
        labels=material.labels,
        tasks=material.by_task,
        options=material.options,
        held_out=len(material.held_out),
        unusable=material.unusable,
        trainable=learned,
        parameters=whole,
        seconds=round(trained.seconds, 1),
        peak_mib=round(trained.peak_mib, 1),
        steps=trained.steps,
        planned_steps=trained.planned,
        metrics=metrics_of(trained),
        vllm=f"no: it also adapts {', '.join(other)}" if other else "",
        machine=machine(run.threads),
        versions=versions("torch", "transformers", "peft", "trl", "accelerate"),
        intended_use=base.intended_use or "Not stated.",
        limits=_LIMITS + ("" if kind in FAMILIES else f" Models of type {kind} are not verified."),
    )
    with run.finishing() as folder:
        trainer.model.save_pretrained(str(folder))
        plain(folder, base.name)
        write_card(card, folder)
    return card, False


def _loaded(base: VlmBase, recipe: Recipe) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        processor = AutoProcessor.from_pretrained(str(base.folder), trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            str(base.folder),
            dtype=torch.bfloat16 if half_precision(recipe) else torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as e:
        raise AgentUnavailable(
            f"the model cannot be loaded ({type(e).__name__})",
            hint="curbside fleet check says what is missing",
        ) from e
    return model, processor


def _trained(
    model: Any,
    processor: Any,
    base: VlmBase,
    material: Material,
    recipe: Recipe,
    run: Run,
    targets: str,
) -> tuple[Any, Trained]:
    from peft import LoraConfig, PeftModel
    from trl import SFTConfig, SFTTrainer

    learned, watched = (
        dialogues(material, part, processor, base.prompt, base.limits) if part else None
        for part in (material.train, material.held_out)
    )
    given = arguments(
        run,
        recipe,
        lessons=len(material.train),
        watched=len(material.held_out),
        seed=material.seed,
    )
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.scale * recipe.rank,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    if base.adapter is not None:
        model = PeftModel.from_pretrained(model, str(base.adapter), is_trainable=True)

    def make(callbacks: list[Any]) -> Any:
        return SFTTrainer(
            model,
            # images are as many tokens as they are: nothing is cut
            SFTConfig(**given, max_length=None, completion_only_loss=True),
            train_dataset=learned,
            eval_dataset=watched,
            processing_class=processor,
            peft_config=None if base.adapter is not None else lora,
            callbacks=callbacks,
        )

    label = f"adapting {base.agent}"
    return fit(run, recipe, make, label, watched=bool(material.held_out))
