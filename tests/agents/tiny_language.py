"""A tiny random Llama with a tokenizer of its own, in the place of SmolLM2; and made-up images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import tokenizer
from torch import Tensor

from curbside.agents.small_vlm.courses import Course
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.making import Courses
from curbside.agents.small_vlm.material import Material
from curbside.agents.small_vlm.model import Plan
from curbside.cases import Case

PLAN = Plan(entry=1, channels=12, hidden=16, visual=4, rank=4)
LABELS = ("benign", "malignant")


def base(seed: int = 0, layers: int = 3) -> Base:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(())
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 0.5 if "embed" in name else 0.15)
    return Base(model, words, f"tiny {seed}", f"{seed:064}")


def deep() -> Base:
    """With as many layers as the plan of the real one needs."""
    return base(layers=28)


def case(i: int, modality: str, label: str, **more: Any) -> Case:
    return Case(
        id=f"c{i}", image=Path(f"{i}.png"), modality=modality, label=label, task=f"{modality}_kind",
        options=LABELS, role="train", tier="common", group=f"g{i}", **more,
    )  # fmt: skip


def features(cases: list[Case], seed: int = 0) -> Tensor:
    """What the modality and the label add to noise: a planted signal, (n, 4, 12)."""
    torch.manual_seed(seed)
    noise = torch.randn(len(cases), PLAN.visual, PLAN.channels) * 0.3
    for i, c in enumerate(cases):
        noise[i, :, 0 if c.modality == "clear" else 1] += 2
        noise[i, :, 2 if c.label == "benign" else 3] += 2
    return noise.half()


def world(n: int = 32) -> list[Case]:
    return [
        case(i, "clear" if i % 2 else "shadow", LABELS[i // 2 % 2]) for i in range(n)
    ]  # fmt: skip


def question(i: int, text: str, answer: str, options: tuple[str, ...] = ()) -> Case:
    attributes = {"answer": answer, "split": "train", "shared_image": "no"}
    return Case(
        id=f"q{i}", image=Path(f"{i}.png"), question=text, options=options, role="train",
        label=answer if options else None, group=f"g{i}", attributes=attributes,
    )  # fmt: skip


def material(n: int = 32) -> Material:
    cases = world(n)
    asked = [
        question(0, "Is there an opacity?", "yes", ("yes", "no")),
        question(1, "What is it?", "pleural effusion"),
        question(1, "Is the heart enlarged?", "no", ("yes", "no")),
    ]
    return Material(cases, asked, [0, 1, 1], features(cases), f"made up {n}")


def short(steps: int = 6) -> Courses:
    """Courses of a few steps, each with checkpoints."""
    return Courses(
        align=Course(count=steps * 8, batch=8, rate=5e-3, decay=0.0, every=2),
        read=Course(count=48, batch=1, rate=5e-3, decay=0.0, every=2),
        visual=Course(count=0, batch=1, rate=5e-3, decay=0.0, every=2),
        passes=2,
    )
