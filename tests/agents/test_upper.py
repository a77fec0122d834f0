"""Training the upper blocks: transformers' Trainer gives the bits of a plain loop."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from curbside.agents.upper import Recipe, _batches, _tensor, fine_tune, lora, upper_blocks

RECIPE = Recipe(epochs=2, batch=8, rate=1e-3, head_rate=2e-3, decay=0.05, dropout=0.4)
GRID = np.random.default_rng(0).normal(size=(20, 192, 7, 7)).astype(np.float16)
TRUTH = torch.from_numpy(np.random.default_rng(1).integers(0, 3, 20))


def parts() -> tuple[nn.Module, nn.Linear]:
    torch.manual_seed(3)
    return lora(upper_blocks(), 4), nn.Linear(1280, 3)


def loss_of(
    network: nn.Module, head: nn.Linear, features: Tensor, rows: NDArray[np.intp]
) -> Tensor:
    dropped = functional.dropout(features, RECIPE.dropout, network.training)
    return functional.cross_entropy(head(dropped), TRUTH[rows])


def streams() -> tuple[list[int], object]:
    """Where numpy's global stream of random numbers stands, and Python's."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002  the global stream is meant
    return state["state"]["key"].tolist(), random.getstate()


def test_the_trainer_gives_the_bits_of_a_plain_loop() -> None:
    network, head = parts()
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad], "lr": RECIPE.rate},
        {"params": list(head.parameters()), "lr": RECIPE.head_rate},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=RECIPE.decay)
    rates = [RECIPE.rate, RECIPE.head_rate]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=6, pct_start=0.2)
    network.train()
    for rows, flipped in _batches(len(GRID), RECIPE, np.random.default_rng([5, 7])):
        values = GRID[rows]
        values[flipped] = values[flipped][..., ::-1]
        optimiser.zero_grad()
        loss_of(network, head, network(_tensor(values)), rows).backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
        schedule.step()

    ours, own = parts()
    np.random.seed(4)  # noqa: NPY002  the caller's stream
    before = streams()
    taken: list[int] = []
    fine_tune(
        ours, own, GRID, lambda f, r: loss_of(ours, own, f, r), RECIPE, seed=5,
        advance=taken.append,
    )  # fmt: skip
    assert sum(taken) == 6 and not ours.training
    assert streams() == before, "the caller's streams of random numbers were used"
    for a, b in zip([*network.parameters(), *head.parameters()],
                    [*ours.parameters(), *own.parameters()], strict=True):  # fmt: skip
        assert torch.equal(a, b)
