"""Getting answers out of the model: comparing given ones, or writing one word by word.

Images that are asked the same are read together; rows are then of one length and nothing is
padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curbside.agents.small_vlm.model import SmallVlm
from curbside.agents.small_vlm.packing import Asked, Group, Tokens, pack

__all__ = ["Said", "compare", "write"]


@dataclass(frozen=True)
class Said:
    """A written answer: its tokens, whether it came to its end, and the geometric mean of the
    probabilities of what was said."""

    tokens: Tokens
    finished: bool
    confidence: float


def compare(
    model: SmallVlm, features: Tensor | None, prompt: Tokens, answers: Sequence[Tokens]
) -> Tensor:
    """Log-probability of each whole answer after the prompt: float64 (n, k).

    Each answer is read alone after the prompt and sees no other.

    Args:
        features: (n, visual, channels) of n images; None: nothing is shown, n = 1.
    """
    n = 1 if features is None else len(features)
    asked = Asked(prompt, tuple(answers))
    rows = [[Group(None if features is None else i, (asked,))] for i in range(n)]
    packed = pack(rows, model.plan.visual)
    with torch.inference_mode():
        shown = torch.zeros(0) if features is None else features.float()
        said = model.log_probabilities(packed, shown).double().cpu()
    out = torch.zeros(n * len(answers), dtype=torch.float64)
    out.index_add_(0, packed.predict[:, 3], said)
    return out.view(n, len(answers))


def write(
    model: SmallVlm, features: Tensor | None, prompt: Tokens, *, end: int, most: int
) -> list[Said]:
    """The likeliest next token, again and again, until ``end`` or ``most`` tokens.

    Args:
        features: as for :func:`compare`.
    """
    from transformers import DynamicCache

    n = 1 if features is None else len(features)
    rows = [[Group(None if features is None else i, (Asked(prompt),))] for i in range(n)]
    packed = pack(rows, model.plan.visual)
    said: list[list[int]] = [[] for _ in range(n)]
    sure: list[list[float]] = [[] for _ in range(n)]
    with torch.inference_mode():
        cache = DynamicCache()
        shown = torch.zeros(0) if features is None else features.float()
        states = model.states(packed, shown, cache)[:, -1]
        for _ in range(most):
            chances, picked = (
                x.tolist() for x in model.logits(states).double().log_softmax(-1).max(-1)
            )
            for i in range(n):
                if not said[i] or said[i][-1] != end:
                    said[i].append(picked[i])
                    sure[i].append(chances[i])
            if all(s[-1] == end for s in said):
                break
            # an answer that has ended goes on unheard, so that rows stay of one length
            so_far = [(*prompt, *s) for s in said]
            longest = max(map(len, so_far))
            texts = [x + (end,) * (longest - len(x)) for x in so_far]
            states = model.step(texts, cache)
    return [
        Said(
            tokens=tuple(t for t in s if t != end),
            finished=s[-1] == end,
            confidence=float(torch.tensor(c).mean().exp()),
        )
        for s, c in zip(said, sure, strict=True)
    ]
