"""How each kind of embedded agent learns: linear heads, a tuned top block, a LoRA generalist.

Each function gives a reader and the number of parameters that were learned.  None of them
knows which agents a fleet has (:mod:`curbside.agents.fleet_plan`) nor of files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from curbside.agents.examples import Examples
from curbside.agents.heads import Blend, Head, Heads
from curbside.agents.option_training import TrainedScorer
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    Reader,
    SpecialistReader,
    option_text,
)
from curbside.agents.trunk import Inputs
from curbside.agents.upper import (
    Recipe,
    by_task,
    fine_tune,
    learned,
    lora,
    top_block,
    upper_blocks,
)
from curbside.indexes.text import TextEncoder
from curbside.progress import Advance
from curbside.study import Question

__all__ = ["BY_NAME", "LORA_RANK", "fitted_blend", "generalist", "linear", "specialist"]

LORA_RANK = 8
#: Share of the loss that scores options by name alone, for options never seen.
BY_NAME = 0.3


def linear(
    features: NDArray[np.float32], examples: Examples, advance: Advance, *, whole: bool = False
) -> tuple[Reader, int]:
    """A head a task on features as they come.

    Args:
        features: of all inputs.
        whole: they are all that the trunk gives, not the pooled ones alone.
    """
    heads = _heads(features, examples)
    advance(1)
    return LinearReader(heads, Blend(), whole=whole), heads.parameters


def specialist(
    inputs: Inputs,
    foreign: Examples,
    recipe: Recipe,
    examples: Examples,
    seed: int,
    advance: Advance,
) -> tuple[Reader, int]:
    """The top block fine-tuned on one modality, with a head a task.

    Args:
        foreign: a few cases of other modalities, whose tasks get a head on what was tuned.
    """
    torch.manual_seed(seed)
    network = top_block()
    start = _heads(inputs.pooled, examples)
    # a list: a task's name may be one that torch does not accept of a module
    layers = torch.nn.ModuleList(_linear_of(h) for h in start.values())
    layer_of = dict(zip(start, layers, strict=True))
    truth = _indices(examples, start.labels())

    def loss(features: Tensor, rows: NDArray[np.intp]) -> Tensor:
        total = features.new_zeros(())
        for task, at in by_task(examples.tasks[rows].tolist()).items():
            head = start[task]
            standard = (features[at] - torch.from_numpy(head.mean)) / torch.from_numpy(head.scale)
            standard = functional.dropout(standard, recipe.dropout, network.training)
            logits = layer_of[task](standard)
            total = total + functional.cross_entropy(logits, truth[rows[at]], reduction="sum")
        return total / len(rows)

    grids = inputs.grid[examples.rows]
    fine_tune(network, layers, grids, loss, recipe, seed=seed, advance=advance)
    own = Heads({t: _head_of(layer_of[t], start[t]) for t in start})
    frozen = _heads(inputs.fixed, examples)
    served = learned(network)
    tuned = served.features(inputs.grid[foreign.rows])
    both = np.concatenate([tuned, inputs.fixed[foreign.rows]], axis=1)
    away = _heads(both, foreign, rows=False)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    trainable = trained + own.parameters + frozen.parameters + away.parameters
    return SpecialistReader(served, own, frozen, away, Blend()), trainable


def generalist(
    inputs: Inputs,
    text: TextEncoder,
    recipe: Recipe,
    examples: Examples,
    seed: int,
    advance: Advance,
) -> tuple[Reader, int]:
    """LoRA on the upper blocks, and options scored by the vectors of their names."""
    torch.manual_seed(seed)
    network = lora(upper_blocks(), LORA_RANK)
    frozen = _heads(inputs.fixed, examples)
    labels = {t: list(o) for t, o in examples.options.items()}
    vectors = {t: text.encode([option_text(o) for o in names]) for t, names in labels.items()}
    scorer = TrainedScorer(inputs.fixed[examples.rows], vectors, dropout=recipe.dropout)
    statistics = torch.from_numpy(inputs.statistics[examples.rows])
    truth = _indices(examples, labels)

    def loss(features: Tensor, rows: NDArray[np.intp]) -> Tensor:
        image = scorer.image(torch.cat([features, statistics[rows]], 1))
        total = features.new_zeros(())
        for task, at in by_task(examples.tasks[rows].tolist()).items():
            target = truth[rows[at]]
            known = functional.cross_entropy(scorer.known(image[at], task), target, reduction="sum")
            plain = functional.cross_entropy(
                scorer.by_name(image[at], task), target, reduction="sum"
            )
            total = total + known + BY_NAME * plain
        return total / len(rows)

    grids = inputs.grid[examples.rows]
    fine_tune(network, scorer, grids, loss, recipe, seed=seed, advance=advance)
    trained = [p for p in (*network.parameters(), *scorer.parameters()) if p.requires_grad]
    trainable = sum(p.numel() for p in trained) + frozen.parameters
    reader = GeneralistReader(learned(network), scorer.served(), frozen, labels, text, Blend())
    return reader, trainable


def fitted_blend(
    reader: Reader, inputs: Inputs, tune: Examples, options: Mapping[str, tuple[str, ...]]
) -> Blend:
    """How much a reader's two opinions count, fitted on ``tune`` cases of tasks it was taught.

    Args:
        options: task → options, of the training cases.
    """
    known = np.array([t in options for t in tune.tasks.tolist()], bool)
    tune = tune.take(known)
    questions = [Question(options=options[t], task=t) for t in tune.tasks.tolist()]
    opinions = reader.opinions(inputs.take(tune.rows), questions)
    found = []
    for (a, b), question, label in zip(opinions, questions, tune.labels.tolist(), strict=True):
        if (a is None and b is None) or label not in question.options:
            continue
        one = a if a is not None else b
        assert one is not None
        uniform = np.full_like(one, 1 / len(one))
        truth = question.options.index(label)
        found.append((a if a is not None else uniform, b if b is not None else uniform, truth))
    return Blend.fit(found)


def _heads(features: NDArray[np.float32], examples: Examples, *, rows: bool = True) -> Heads:
    """A head a task; ``rows`` says that features are of all inputs, not of the examples."""
    values = features[examples.rows] if rows else features
    found = by_task(examples.tasks.tolist())
    return Heads({t: Head.fit(values[at], examples.labels[at]) for t, at in found.items()})


def _indices(examples: Examples, labels: Mapping[str, list[str]]) -> Tensor:
    pairs = zip(examples.tasks.tolist(), examples.labels.tolist(), strict=True)
    return torch.tensor([labels[t].index(label) for t, label in pairs])


def _linear_of(head: Head) -> torch.nn.Linear:
    layer = torch.nn.Linear(head.weight.shape[1], head.weight.shape[0])
    layer.weight.data.copy_(torch.from_numpy(head.weight))
    layer.bias.data.copy_(torch.from_numpy(head.bias))
    return layer


def _head_of(layer: torch.nn.Module, start: Head) -> Head:
    weight, bias = (p.detach().numpy().copy() for p in layer.parameters())
    return Head(start.labels, start.mean, start.scale, weight, bias)
