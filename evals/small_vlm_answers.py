"""What a small VLM says of cases, and of the same questions with no image or a blank one.

Each part is written once and kept beside the adapter that said it, so a killed evaluation goes
on.  Nothing here knows what is right; :mod:`curbside.evals.small_vlm` does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curbside.agents.small_vlm.agent import MOST
from curbside.agents.small_vlm.model import SmallVlm
from curbside.agents.small_vlm.speaking import compare, write
from curbside.agents.small_vlm.wording import MODALITY, Wording, plain
from curbside.cases import Case
from curbside.progress import Advance
from curbside.storage import write_text
from curbside.study import Question

__all__ = ["Labels", "Modalities", "Visual", "kept", "known", "label_answers", "modality_answers",
           "visual_answers"]  # fmt: skip

_BATCH = 16
_SHUFFLE_SEED = 0


@dataclass(frozen=True)
class Modalities:
    """Free answers to "what kind of image is this?": one a case; one without an image, one to a
    blank one, since the question is always the same."""

    said: list[str]
    without: str
    blank: str


@dataclass(frozen=True)
class Labels:
    """Log-probabilities of the options, one list a case; and by task without or with a blank
    image, in the order of the options."""

    said: list[list[float]]
    without: dict[str, list[float]]
    blank: dict[str, list[float]]


@dataclass(frozen=True)
class Visual:
    """Answers to visual questions, one a question: with its image, another image of the set, a
    blank one, and none."""

    said: list[str]
    shuffled: list[str]
    blank: list[str]
    without: list[str]


def modality_answers(
    model: SmallVlm, wording: Wording, features: Tensor, blank: Tensor, advance: Advance
) -> dict[str, Any]:
    """Fields of :class:`Modalities` for n images, features float16 (n, visual, channels)."""
    prompt = wording.prompt(MODALITY[0])

    def ask(shown: Tensor | None) -> list[str]:
        said = write(model, shown, prompt, end=wording.end, most=MOST)
        return [wording.words(s.tokens) for s in said]

    said: list[str] = []
    for at in range(0, len(features), _BATCH):
        said += ask(features[at : at + _BATCH])
        advance(len(said) - at)
    return {"said": said, "without": ask(None)[0], "blank": ask(blank)[0]}


def label_answers(
    model: SmallVlm,
    wording: Wording,
    cases: Sequence[Case],
    features: Tensor,
    blank: Tensor,
    advance: Advance,
) -> dict[str, Any]:
    """Fields of :class:`Labels` for n cases with options."""
    by: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for i, c in enumerate(cases):
        by.setdefault((c.task or "", c.options), []).append(i)
    said: list[list[float]] = [[]] * len(cases)
    without, blanks = dict[str, list[float]](), dict[str, list[float]]()
    for (task, options), rows in by.items():
        prompt = wording.closed(Question(options))
        answers = [wording.answer(plain(o)) for o in options]
        for at in range(0, len(rows), _BATCH // 2):
            some = rows[at : at + _BATCH // 2]
            scores = compare(model, features[some], prompt, answers).tolist()
            for i, row in zip(some, scores, strict=True):
                said[i] = row
            advance(len(some))
        without[task] = compare(model, None, prompt, answers)[0].tolist()
        blanks[task] = compare(model, blank, prompt, answers)[0].tolist()
    return {"said": said, "without": without, "blank": blanks}


def visual_answers(
    model: SmallVlm,
    wording: Wording,
    cases: Sequence[Case],
    features: Tensor,
    blank: Tensor,
    advance: Advance,
) -> dict[str, Any]:
    """Fields of :class:`Visual` for n questions; features as for the others, one a question."""
    others = _others(cases)
    out: dict[str, list[str]] = {k: [] for k in ("said", "shuffled", "blank", "without")}
    for i, c in enumerate(cases):
        shown = torch.stack([features[i], features[others[i]], blank[0]])
        if c.options:
            prompt = wording.closed(Question(c.options, c.question))
            answers = [wording.answer(plain(o)) for o in c.options]
            best = compare(model, shown, prompt, answers).argmax(1).tolist()
            best += compare(model, None, prompt, answers).argmax(1).tolist()
            words = [c.options[k] for k in best]
        else:
            prompt = wording.prompt(c.question)
            said = write(model, shown, prompt, end=wording.end, most=MOST)
            said += write(model, None, prompt, end=wording.end, most=MOST)
            words = [wording.words(s.tokens) for s in said]
        for key, text in zip(out, words, strict=True):
            out[key].append(text)
        advance(1)
    return out


def _others(cases: Sequence[Case]) -> list[int]:
    """For each question the row of another one, of another image."""
    rng = random.Random(_SHUFFLE_SEED)
    out: list[int] = []
    for c in cases:
        foreign = [i for i, other in enumerate(cases) if other.group != c.group]
        out.append(rng.choice(foreign) if foreign else len(out))
    return out


def kept(path: Path, mark: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, from the file where that was made of the same."""
    found = known(path, mark)
    if found is not None:
        return found
    made = make()
    write_text(path, json.dumps({"mark": mark, **made}))
    return made


def known(path: Path, mark: str) -> dict[str, Any] | None:
    """What the file holds, where it was made of the same."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.pop("mark", None) == mark:
            return found
    return None
