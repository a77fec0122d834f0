"""Fine-tuning the upper blocks of the trunk in torch; what was learned then serves without it.

transformers' Trainer trains a specialist (whole top block) and a generalist (LoRA): AdamW
with one cycle of the learning rate (Smith and Topin, Super-Convergence, 2019), left-right
flips of the cached grid, dropout before the head.  Seeded: the same cases, seed and
machine give the same weights.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from curbside.agents.network import LORA_SCALE, UpperNetwork
from curbside.agents.trunk import FIRST_TUNED
from curbside.indexes.lite0 import UpperBlocks, upper_state
from curbside.progress import Advance

__all__ = [
    "Recipe",
    "by_task",
    "channels_last",
    "fine_tune",
    "learned",
    "lora",
    "steps_of",
    "top_block",
    "upper_blocks",
]

Net = TypeVar("Net", bound=nn.Module)

_TARGETS = r"blocks\.\d+\.(expand|project)|head"


@dataclass(frozen=True)
class Recipe:
    """How the upper part is trained; chosen on held-out groups of ``train`` and on ``tune``."""

    epochs: int
    batch: int
    rate: float
    head_rate: float
    decay: float
    dropout: float


def upper_blocks() -> UpperBlocks:
    """Blocks ``FIRST_TUNED`` and above with the published weights, laid out for speed."""
    network = UpperBlocks(FIRST_TUNED)
    network.load_state_dict(_published())
    return channels_last(network.eval())


@cache
def _published() -> dict[str, Tensor]:
    """Checked and folded once for a process, not once for each agent of a fleet."""
    return upper_state(FIRST_TUNED)


def top_block() -> UpperBlocks:
    """The same, of which only the top block and the head above it ask for gradients."""
    network = upper_blocks()
    for parameter in network.blocks[0].parameters():
        parameter.requires_grad_(False)
    return network


def channels_last(module: Net) -> Net:
    """The same module with its convolution weights laid out for speed on a CPU."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def lora(network: UpperBlocks, rank: int) -> nn.Module:
    """Low-rank adapters on the 1 × 1 convolutions (Hu et al., LoRA, ICLR 2022), through peft."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=LORA_SCALE * rank, target_modules=_TARGETS)
    adapted: nn.Module = get_peft_model(network, config)
    return channels_last(adapted)


def learned(network: nn.Module) -> UpperNetwork:
    """The network as it serves, from what was trained; the rest is the pinned trunk."""
    return UpperNetwork(
        {
            name: np.ascontiguousarray(parameter.detach().numpy())
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
    )


def steps_of(n: int, recipe: Recipe) -> int:
    """Gradient steps of a training over n cases."""
    return recipe.epochs * -(-n // recipe.batch)


def fine_tune(
    network: nn.Module,
    head: nn.Module,
    grid: NDArray[np.float16],
    loss: Callable[[Tensor, NDArray[np.intp]], Tensor],
    recipe: Recipe,
    *,
    seed: int,
    advance: Advance,
) -> None:
    """Train what in ``network`` and ``head`` asks for gradients.

    Args:
        loss: mean loss of a batch, from its features (b, 1280) and its rows.
        advance: called with 1 after every step.
    """
    rng = np.random.default_rng([seed, 7])
    adapted = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": adapted, "lr": recipe.rate, "weight_decay": recipe.decay},
        {"params": list(head.parameters()), "lr": recipe.head_rate, "weight_decay": recipe.decay},
    ]
    optimiser = torch.optim.AdamW(groups)
    steps = steps_of(len(grid), recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [recipe.rate, recipe.head_rate],
        total_steps=steps,
        # a rise that ends with the very first step divides by zero in torch
        pct_start=0.2 if steps != 5 else 0.3,
    )
    batches = list(_batches(len(grid), recipe, rng))

    def collate(one: list[tuple[NDArray[np.intp], NDArray[np.bool_]]]) -> dict[str, Any]:
        ((rows, flipped),) = one
        values = grid[rows]
        values[flipped] = values[flipped][..., ::-1]
        return {"grid": _tensor(values), "rows": rows}

    _train(_Adapted(network, head, loss), batches, collate, (optimiser, schedule), seed, advance)
    network.eval()
    head.eval()


class _Adapted(nn.Module):
    """What transformers' Trainer is given: called with a batch, it returns the loss."""

    accepts_loss_kwargs = False

    def __init__(
        self,
        network: nn.Module,
        head: nn.Module,
        loss: Callable[[Tensor, NDArray[np.intp]], Tensor],
    ) -> None:
        super().__init__()
        self.network, self.head, self._loss = network, head, loss

    def forward(self, grid: Tensor, rows: NDArray[np.intp]) -> dict[str, Tensor]:
        return {"loss": self._loss(self.network(grid), rows)}


def _train(
    model: nn.Module,
    batches: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, Any]],
    optimisers: tuple[Any, Any],
    seed: int,
    advance: Advance,
) -> None:
    """One step a batch, in the order given.

    The Trainer seeds every stream of random numbers.  Dropout goes on with torch's as it was,
    so that the weights are those of a plain loop, and the caller's other streams are put back.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    before = torch.random.get_rng_state()
    streams = np.random.get_state(), random.getstate()  # noqa: NPY002  the Trainer seeds the global stream

    class Watch(TrainerCallback):  # type: ignore[misc]  # mypy skips transformers
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                torch.random.set_rng_state(before)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(1)

    given = TrainingArguments(
        # nothing is written: an agent is trained in a minute and kept whole
        output_dir=tempfile.gettempdir(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,
        num_train_epochs=1,
        max_grad_norm=0.0,
        seed=seed,
    )
    trainer = Trainer(
        model,
        given,
        data_collator=collate,
        train_dataset=list(batches),
        optimizers=optimisers,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    np.random.set_state(streams[0])  # noqa: NPY002  put back as it was
    random.setstate(streams[1])


def _batches(
    n: int, recipe: Recipe, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    for _ in range(recipe.epochs):
        order = rng.permutation(n)
        for start in range(0, n, recipe.batch):
            rows = order[start : start + recipe.batch]
            yield rows, rng.random(len(rows)) < 0.5


def _tensor(grid: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(grid).float().contiguous(memory_format=torch.channels_last)


def by_task(tasks: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """Positions of each task, in order of name."""
    names = np.asarray(tasks)
    return {str(t): np.flatnonzero(names == t) for t in np.unique(names)}
