"""What in the image an embedded agent's answer rests on: class activation, exact where it can be.

A linear head on pooled features is a sum over positions of the last grid, so each place's
part of a logit can be read off exactly (Zhou et al., Learning Deep Features for
Discriminative Localization, CVPR 2016).  The generalist's score is a cosine; its norm is
taken as it is, and then the same holds.  What is shown is an option against the mean of
the others asked for: parts common to all options decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.agents.heads import Blend, Head, match_task
from curbside.agents.network import UpperNetwork
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    Reader,
    SpecialistReader,
    option_text,
)
from curbside.agents.trunk import Inputs, SecondTrunk
from curbside.indexes.encoder import upper_part
from curbside.indexes.lite0_graph import Part
from curbside.readings import Explanation
from curbside.study import Question

__all__ = ["activation", "overlay"]

Map = NDArray[np.float32]
_POOLED = 1280


@dataclass(frozen=True)
class _Branch:
    """Each option's map, float32 (k, h, w): what places add to its logit.

    ``tuned``: float32 (1, 1280), features of the adapted network where there is one.
    """

    maps: Map
    tuned: NDArray[np.float32] | None = None


def activation(reader: Reader, inputs: Inputs, question: Question, option: str) -> Explanation:
    """Explain one study's probability of an option.

    Args:
        inputs: of one study.
        option: one of the question's.

    Returns:
        A grid in logits, 7 × 7 or on the second trunk 9 × 9, rows from the top, and the share
        that the branch it belongs to has in the decision; kind ``none`` where the reader does
        not know the question.
    """
    branch = _branch(reader, inputs, question)
    if branch is None or len(question.options) < 2:
        return Explanation(kind="none", option=option, note="no explanation available")
    at = question.options.index(option)
    others = np.delete(branch.maps, at, axis=0).mean(axis=0)
    grid = branch.maps[at] - others
    return Explanation(
        kind="class_activation",
        option=option,
        grid=tuple(tuple(round(float(v), 6) for v in row) for row in grid),
        share=_share(reader, inputs, question, at, branch.tuned),
        note="logits by place, of the adapted branch; the rest of the decision has no place",
    )


def _branch(reader: Reader, inputs: Inputs, question: Question) -> _Branch | None:
    if isinstance(reader, LinearReader):
        task = match_task(question, reader.heads.labels(), ambiguous=True)
        if task is None:
            return None
        return _of_head(reader.heads[task], question, [_frozen(inputs)])
    if isinstance(reader, SpecialistReader):
        tuned = reader.network.maps(inputs.grid)[0]
        task, own = reader.task_of(question)
        if task is None:
            return None
        if own:
            return _of_head(reader.own[task], question, [tuned], _pooled(tuned))
        both = [tuned, _frozen(inputs)]
        return _of_head(reader.foreign[task], question, both, _pooled(tuned))
    if isinstance(reader, GeneralistReader):
        return _of_scorer(reader, inputs, question)
    return None


def _pooled(maps: Map) -> NDArray[np.float32]:
    """Maps (1280, 7, 7) to the features that they are the parts of, (1, 1280)."""
    return np.asarray(maps.mean((1, 2))[None])


def _of_head(
    head: Head, question: Question, maps: list[Map], tuned: NDArray[np.float32] | None = None
) -> _Branch | None:
    if any(o not in head.labels for o in question.options):
        return None
    rows = [head.labels.index(o) for o in question.options]
    total = np.zeros((len(rows), *maps[0].shape[1:]), np.float32)
    for i, values in enumerate(maps):
        part = slice(i * _POOLED, (i + 1) * _POOLED)
        weight = head.weight[rows][:, part] / head.scale[part]
        total += np.tensordot(weight, values, 1) / values[0].size
    return _Branch(total, tuned)


def _of_scorer(reader: GeneralistReader, inputs: Inputs, question: Question) -> _Branch:
    scorer, task = reader.scorer, match_task(question, reader.labels)
    values = reader.network.maps(inputs.grid)[0]
    tuned = _pooled(values)
    features = np.concatenate([tuned, inputs.statistics], axis=1)
    if task is None:
        options = reader.text.encode([option_text(o) for o in question.options])
    else:
        columns = [reader.labels[task].index(o) for o in question.options]
        options = scorer.options_of(task)[columns]
    norm = float(np.linalg.norm(scorer.projected(features)))
    matrix = scorer.weight[:, :_POOLED] / scorer.scale[:_POOLED]
    weight = scorer.SHARPNESS / max(norm, 1e-9) * options @ matrix
    return _Branch(np.tensordot(weight, values, 1).astype(np.float32) / values[0].size, tuned)


def _share(
    reader: Reader,
    inputs: Inputs,
    question: Question,
    at: int,
    tuned: NDArray[np.float32] | None,
) -> float:
    """How much of the blend's log-odds for the option the explained branch gives, 0 to 1."""
    ((adapted, frozen),) = reader.opinions(inputs, [question], tuned)
    if adapted is None or frozen is None:
        return 1.0
    blend: Blend = reader.blend
    parts = [
        abs(weight * _odds(opinion, at))
        for weight, opinion in ((blend.adapted, adapted), (blend.frozen, frozen))
    ]
    return round(float(parts[0] / max(sum(parts), 1e-9)), 4)


def _odds(probabilities: NDArray[np.float32], at: int) -> float:
    logs = np.log(probabilities + 1e-9)
    return float(logs[at] - np.delete(logs, at).mean())


@cache
def _first() -> UpperNetwork:
    return UpperNetwork({})


@cache
def _second() -> Part:
    return upper_part(maps=True, network=SecondTrunk.network)


def _frozen(inputs: Inputs) -> Map:
    second = inputs.grid.shape[1:] == SecondTrunk.network.grid
    maps = _second().run(inputs.grid, "maps")["maps"] if second else _first().maps(inputs.grid)
    found: Map = maps[0]
    return found


def overlay(rgb: NDArray[np.uint8], explanation: Explanation) -> NDArray[np.uint8]:
    """The picture with what speaks for the option in orange and what speaks against it in blue.

    Args:
        rgb: uint8 (h, w, 3).

    Returns:
        uint8 (h, w, 3); the same picture where there is no grid.  Colours are relative to
        the greatest part: pale means little, not nothing.
    """
    if not explanation.grid:
        return rgb
    grid = np.asarray(explanation.grid, np.float32)
    strength = grid / max(float(np.abs(grid).max()), 1e-9)
    height, width = rgb.shape[:2]
    smooth = np.asarray(
        Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)
    ).clip(-1, 1)[..., None]
    grey = rgb.mean(axis=2, keepdims=True).repeat(3, axis=2)
    colour = np.where(smooth > 0, np.array([255, 140, 0.0]), np.array([30, 110, 255.0]))
    alpha = 0.6 * np.abs(smooth)
    return np.asarray((grey * (1 - alpha) + colour * alpha).clip(0, 255), np.uint8)
