"""Encoders for diagnosis: a head a task on features of which nothing, adapters or a block learn.

Heads start from the logistic regression on frozen features (kept as it is by ``linear``), so
adapting starts from the linear probe and can only be judged against it.  Training is
transformers' Trainer; adapters are peft's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as array_bytes
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn import functional

from curbside.agents.cost import metered
from curbside.agents.finetuning.card import AdapterCard, write_card
from curbside.agents.finetuning.export import machine, plain, versions
from curbside.agents.finetuning.material import Lesson, Material
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.runs import Run, Trained, arguments, fit, metrics_of
from curbside.agents.finetuning.towers import Tower, features_of, open_tower
from curbside.agents.heads import Head, Heads
from curbside.config import model_digest
from curbside.errors import UserError
from curbside.progress import bar

__all__ = ["HEADS_FILE", "TUNED_FILE", "AdaptedEncoder", "finetune_encoder"]

HEADS_FILE, TUNED_FILE = "heads.safetensors", "tuned.safetensors"
_LIMITS = (
    "Closed questions of the tasks that it was adapted to, about one image; abstains on all "
    "others. Read the evaluation before it reads for anybody."
)


def finetune_encoder(
    base: str, folder: Path | None, material: Material, recipe: Recipe, out: Path
) -> tuple[AdapterCard, bool]:
    """Adapt an encoder, or go on where a killed training stopped.

    Args:
        base: ``lite0``, or the name of what lies in ``folder``.

    Returns:
        The card, and whether ``out`` held the finished adapter already.

    Raises:
        ConfigError, AgentUnavailable: of the encoder.
        UserError: ``out`` holds something else; the loss diverged.
        StorageError: the disk is full.
    """
    tower = open_tower(base, folder)
    run = Run(
        out,
        {
            "base": tower.digest,
            "cases": material.digest,
            "recipe": model_digest(recipe),
            "shots": str(material.shots),
            "seed": str(material.seed),
        },
    )
    if run.finished:
        return run.card(), True
    torch.manual_seed(material.seed)
    with metered() as meter:
        start = _regressions(tower, material, base)
        holder = tower.train_what(recipe)
        model = AdaptedEncoder(tower.module, start, recipe)
    trained, before = Trained(0, 0, float("nan"), (), 0.0, 0.0), None
    if recipe.method != "linear":
        trained, before = _trained(tower, model, material, recipe, run, base)
    metrics = metrics_of(trained) if recipe.method != "linear" else {}
    best = metrics.get("loss on held-out groups, best")
    if before is not None:
        metrics["loss on held-out groups, before"] = before
    heads = model.heads()
    learned = sum(p.numel() for p in holder.parameters() if p.requires_grad)
    numbers = heads.parameters
    added = learned if recipe.method == "lora" else 0
    card = AdapterCard(
        agent=base,
        kind="encoder",
        family=tower.family,
        base=base,
        base_digest=tower.digest,
        method=recipe.method,
        parts=("vision",) if recipe.method != "linear" else (),
        recipe=recipe.model_dump(mode="json"),
        manifest=material.cases.path.name,
        data_digest=material.digest,
        shots=material.shots,
        seed=material.seed,
        modalities=material.modalities,
        labels=material.labels,
        tasks=material.by_task,
        options=material.options,
        heads={t: h.labels for t, h in heads.items()},
        held_out=len(material.held_out),
        unusable=material.unusable,
        trainable=learned + numbers,
        parameters=tower.parameters + added + numbers,
        seconds=round(meter.seconds + trained.seconds, 1),
        peak_mib=round(max(meter.peak_mib, trained.peak_mib), 1),
        steps=trained.steps,
        planned_steps=trained.planned,
        metrics=metrics,
        improved=before is None or best is None or best < before,
        vllm="no: an encoder",
        machine=machine(run.threads),
        versions=versions("torch", "transformers", "peft", "accelerate"),
        intended_use="Not stated.",
        limits=_LIMITS,
    )
    with run.finishing() as temporary:
        if recipe.method == "lora":
            holder.save_pretrained(str(temporary))  # type: ignore[operator]  # peft's model, to mypy any nn.Module
            plain(temporary, base)
        elif recipe.method == "last-block":
            tensors = {
                k: p.detach().cpu().contiguous()
                for k, p in holder.named_parameters()
                if p.requires_grad
            }
            (temporary / TUNED_FILE).write_bytes(tensor_bytes(tensors))
        (temporary / HEADS_FILE).write_bytes(array_bytes(heads.arrays()))
        write_card(card, temporary)
    return card, False


class AdaptedEncoder(nn.Module):
    """A tower and a head a task; called with what a collated batch holds.

    Its state is what is learned alone, so that a checkpoint is no copy of the base.
    """

    #: transformers' Trainer asks both of any model.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_save: list[str] | None = None

    def __init__(self, tower: nn.Module, start: Mapping[str, Head], recipe: Recipe) -> None:
        super().__init__()
        self.tower, self._start, self._dropout = tower, dict(start), recipe.dropout
        # a list: a task's name may be one that torch does not accept of a module
        self.layers = nn.ModuleList(_linear(h) for h in start.values())

    def forward(self, task: Tensor, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy; ``task`` and ``labels`` count tasks and their heads' labels."""
        features = self.tower(**inputs).float()
        total = features.new_zeros(())
        for i, (head, layer) in enumerate(zip(self._start.values(), self.layers, strict=True)):
            at = task == i
            if not at.any():
                continue
            mean, scale = (torch.from_numpy(a).to(features.device) for a in (head.mean, head.scale))
            standard = functional.dropout(
                (features[at] - mean) / scale, self._dropout, self.training
            )
            total = total + functional.cross_entropy(layer(standard), labels[at], reduction="sum")
        return {"loss": total / len(labels)}

    def state_dict(self, *args: Any, **given: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's is overloaded
        """Of what is learned."""
        learned = {n for n, p in self.named_parameters() if p.requires_grad}
        return {k: v for k, v in super().state_dict(*args, **given).items() if k in learned}

    def heads(self) -> Heads:
        """As they serve."""
        made = Heads()
        for (task, head), layer in zip(self._start.items(), self.layers, strict=True):
            weight, bias = (p.detach().cpu().numpy().copy() for p in layer.parameters())
            made[task] = Head(head.labels, head.mean, head.scale, weight, bias)
        return made


def _linear(head: Head) -> nn.Linear:
    layer = nn.Linear(head.weight.shape[1], len(head.labels))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))
        layer.bias.copy_(torch.from_numpy(head.bias))
    return layer


def _regressions(tower: Tower, material: Material, name: str) -> Heads:
    """The linear probe: a regression a task on features that nothing has adapted."""
    rows = sorted({x.row for x in material.train})
    studies = [material.cases[r].study() for r in rows]
    with bar(f"frozen features of {name}", len(rows)) as advance:
        features: NDArray[np.float32] = features_of(tower, studies, advance)
    place = {r: i for i, r in enumerate(rows)}
    heads = Heads()
    for task in material.options:
        own = [x for x in material.train if x.task == task]
        at = np.array([place[x.row] for x in own], np.intp)
        heads[task] = Head.fit(features[at], np.array([x.answer for x in own], np.str_))
    return heads


def _trained(
    tower: Tower, model: AdaptedEncoder, material: Material, recipe: Recipe, run: Run, name: str
) -> tuple[Trained, float | None]:
    """How it ended, and the loss on the held-out groups before it (None where none are watched).

    Where no look was better than that, the model is left as it started.
    """
    from transformers import Trainer, TrainingArguments

    numbers = {t: i for i, t in enumerate(material.options)}
    labels = {t: h.labels for t, h in model.heads().items()}

    def known(lessons: Sequence[Lesson]) -> list[Lesson]:
        return [x for x in lessons if x.answer in labels[x.task]]

    def collate(lessons: list[Lesson]) -> dict[str, Tensor]:
        return {
            **tower.inputs([material.cases[x.row].study() for x in lessons]),
            "task": torch.tensor([numbers[x.task] for x in lessons]),
            "labels": torch.tensor([labels[x.task].index(x.answer) for x in lessons]),
        }

    watched = known(material.held_out)
    given = arguments(
        run, recipe, lessons=len(material.train), watched=len(watched), seed=material.seed
    )

    def loss_now() -> float:
        model.eval()
        total = 0.0
        with torch.inference_mode():
            for i in range(0, len(watched), recipe.batch):
                some = watched[i : i + recipe.batch]
                total += float(model(**collate(some))["loss"]) * len(some)
        return total / len(watched)

    before = loss_now() if watched else None
    start = {k: v.detach().clone() for k, v in model.state_dict().items()}

    def make(callbacks: list[Any]) -> Any:
        return Trainer(
            model,
            TrainingArguments(**given | {"gradient_checkpointing": False}),
            data_collator=collate,
            train_dataset=list(material.train),
            eval_dataset=watched or None,
            callbacks=callbacks,
        )

    _, trained = fit(run, recipe, make, f"adapting {name}", watched=bool(watched))
    if trained.steps == 0:
        raise UserError("not one step was trained", hint="raise epochs in the recipe")
    model.eval().cpu()
    if before is not None and min(loss for _, loss in trained.losses) >= before:
        model.load_state_dict(start, strict=False)
    return trained, before
