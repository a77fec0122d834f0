"""Training through transformers' Trainer: one course at a time, resumable, in float32.

A course is a model with a ``loss``, a fixed list of items and how a batch is made of them.
Checkpoints lie in the course's folder until it is finished.  bfloat16 was slower on a
GPU and read labels worse (docs/small-vlm.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from curbside.agents.device import one_device, torch_device
from curbside.agents.small_vlm.packing import Group, pack, rows_of

__all__ = ["ALIGNING", "READING", "VISUAL", "Course", "Took", "packed_batches", "run_course"]


@dataclass(frozen=True)
class Course:
    """How long and how fast: ``count`` items of ``batch`` a step, at ``rate``."""

    count: int
    batch: int
    rate: float
    decay: float
    every: int = 50


@dataclass(frozen=True)
class Took:
    """What a course took over all its runs, and how it ended.

    Args:
        loss: mean over the last steps that were logged; None where none was.
    """

    seconds: float
    peak_mib: float
    steps: int
    loss: float | None


ALIGNING = Course(count=32_000, batch=64, rate=1e-3, decay=0.05, every=125)
READING = Course(count=4_000, batch=2, rate=1e-3, decay=0.01, every=40)
#: As many items as there are questions; ``count`` is not used.
VISUAL = Course(count=0, batch=2, rate=5e-4, decay=0.01, every=40)
#: Longest packed row, in tokens.
LONGEST = 320


def packed_batches(
    lessons: Sequence[Group], features: Tensor, visual: int
) -> tuple[list[list[Group]], Callable[[list[list[Group]]], dict[str, Any]]]:
    """Rows of lessons, and what makes a batch of some of them.

    Args:
        features: float16 (n, visual, channels) that the lessons' images number.
    """

    def collate(rows: list[list[Group]]) -> dict[str, Any]:
        packed = pack(rows, visual)
        return {"packed": packed, "features": features[packed.images].float()}

    return rows_of(lessons, visual, LONGEST), collate


def run_course(
    model: Any,
    items: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, Any]],
    course: Course,
    folder: Path,
    *,
    seed: int,
    label: str,
) -> Took:
    """Train, or go on from the last whole checkpoint in ``folder``.

    Returns:
        What was seen of it: seconds and memory.

    Raises:
        StorageError: the disk is full; checkpoints written before are whole.
    """
    from transformers import Trainer, TrainingArguments

    from curbside.agents.finetuning.runs import go_on
    from curbside.memory import forget_high_water

    total = -(-len(items) // course.batch)
    gpu = torch_device().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=course.batch,
        num_train_epochs=1,
        learning_rate=course.rate,
        weight_decay=course.decay,
        lr_scheduler_type="cosine",
        warmup_steps=min(20, total // 5),
        max_grad_norm=1.0,
        seed=seed,
        use_cpu=not gpu,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=course.every,
        save_total_limit=1,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=[],
    )

    def make() -> Trainer:
        return Trainer(
            model=model,
            args=one_device(arguments),
            train_dataset=list(items),
            data_collator=collate,
        )

    forget_high_water()
    trainer, watch = go_on(folder, make, label)
    losses = [float(h["loss"]) for h in trainer.state.log_history if "loss" in h]
    return Took(
        round(watch.seconds, 1),
        round(watch.peak_mib, 1),
        int(trainer.state.global_step),
        round(losses[-1], 4) if losses else None,
    )
