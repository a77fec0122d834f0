"""The card beside a small VLM: the same page as of an adapter that ``curbside finetune`` makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from curbside.agents.finetuning.card import AdapterCard
from curbside.agents.finetuning.export import machine, versions
from curbside.agents.small_vlm.courses import Took
from curbside.agents.small_vlm.joining import INTENDED_USE, LIMITS, NAME
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.making import Maker
from curbside.agents.small_vlm.material import Material
from curbside.agents.trunk import trunk_parameters

__all__ = ["made_card"]


def made_card(
    maker: Maker,
    base: Base,
    material: Material,
    learned: Any,
    stages: tuple[str, ...],
    manifest: str,
    metrics: Mapping[str, float],
) -> AdapterCard:
    """What is to be said of a finished adapter.

    Args:
        material: what it learned from, visual questions too.
        learned: the model as peft gives it, with what was trained marked as such.
        stages: of its making, in order.
        metrics: what its evaluation found.
    """
    took = maker.took(*stages)
    asked = Counter(c.task for c in material.cases if c.task and c.label in c.options)
    visual = {"visual questions": len(material.questions)} if material.questions else {}
    options = {c.task: c.options for c in material.cases if c.task in asked and c.task}
    whole = sum(p.numel() for p in learned.parameters()) + trunk_parameters()
    steps = sum(t.steps for t in took.values())
    return AdapterCard(
        agent=NAME,
        kind="small-vlm",
        family="a language model that sees an encoder's map through a projector",
        base=base.name,
        base_digest=base.digest,
        method="lora",
        parts=("projector", "language"),
        recipe={"plan": asdict(maker.plan), "courses": asdict(maker.courses)},
        manifest=manifest,
        data_digest=material.asked_digest,
        shots=None,
        seed=maker.seed,
        modalities=tuple(sorted({c.modality for c in material.cases if c.modality})),
        labels=asked.total() + len(material.questions),
        tasks=dict(sorted(asked.items())) | visual,
        options=dict(sorted(options.items())),
        held_out=0,
        unusable=material.unusable,
        trainable=sum(p.numel() for p in learned.parameters() if p.requires_grad),
        parameters=whole,
        seconds=round(sum(t.seconds for t in took.values()), 1),
        peak_mib=max(t.peak_mib for t in took.values()),
        steps=steps,
        planned_steps=steps,
        metrics=_of_stages(took) | dict(metrics),
        vllm="no: vLLM knows no model whose image enters at an upper layer",
        machine=machine(1),
        versions=versions("torch", "transformers", "peft", "accelerate"),
        intended_use=INTENDED_USE,
        limits=LIMITS,
    )


def _of_stages(took: Mapping[str, Took]) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for name, t in took.items():
        out |= {
            f"{name}, seconds": t.seconds,
            f"{name}, GiB at most": round(t.peak_mib / 1024, 2),
            f"{name}, loss at its end": t.loss,
        }
    return out
