"""Many short questions in one row: groups that share an image, and masks that keep them apart.

A *group* is one image: its prefix (the start token and the visual tokens) and questions.  A
question sees the prefix and itself; each of its answers sees the question and itself.  Groups of
several images lie side by side in a *row* of bounded length, and positions restart, so that each
answer is read as if it were alone (Krell et al., Efficient Sequence Packing without
Cross-contamination, 2021; here with a shared prefix, as a tree).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Asked", "Group", "Packed", "block_mask", "pack", "rows_of"]

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """One question as tokens, and answers to it: one to learn, or several to compare, or none."""

    prompt: Tokens
    answers: tuple[Tokens, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


@dataclass(frozen=True)
class Group:
    """An image and the questions asked of it.

    Args:
        image: row of the visual features, or None: there is no image, only the start token.
    """

    image: int | None
    questions: tuple[Asked, ...]

    def length(self, visual: int) -> int:
        """Tokens of the group in a row, with ``visual`` tokens an image."""
        seen = 0 if self.image is None else visual
        return 1 + seen + sum(len(q) for q in self.questions)


@dataclass(frozen=True)
class Packed:
    """A batch of b rows, all padded to t tokens; every tensor is long.

    Args:
        group, question, answer: (b, t): whose a token is: group of the row (−1: padding),
            question of the group (0: the prefix), answer of the question (0: the prompt).
        position: (b, t), as the language model counts.
        visual: (v, 2), row and column of each image's first token; ``images``: (v,), whose.
        text: (w, 4): row, column, which of ``texts``, place in it.
        predict: (p, 4): row, column, the token that should follow there, and of which answer
            (they are numbered through the whole batch).
        texts: the distinct texts that occur.
    """

    group: Tensor
    question: Tensor
    answer: Tensor
    position: Tensor
    visual: Tensor
    images: Tensor
    text: Tensor
    predict: Tensor
    texts: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.group >= 0).sum())

    def to(self, device: torch.device) -> Packed:
        """The same with its tensors on a device."""
        if self.group.device == device:
            return self
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "texts"}
        return Packed(texts=self.texts, **{k: v.to(device) for k, v in tensors.items()})


def rows_of(groups: Iterable[Group], visual: int, longest: int) -> list[list[Group]]:
    """Groups in rows of at most ``longest`` tokens, in order; a longer group has its own row."""
    rows: list[list[Group]] = []
    room = 0
    for group in groups:
        need = group.length(visual)
        if not rows or need > room:
            rows.append([])
            room = longest
        rows[-1].append(group)
        room -= need
    return rows


def pack(rows: Sequence[Sequence[Group]], visual: int) -> Packed:
    """Lay groups out; every row is padded to the longest.

    Args:
        visual: visual tokens an image, at least 1.
    """
    lengths = [sum(g.length(visual) for g in row) for row in rows]
    shape = (len(rows), max(lengths, default=0))
    group = torch.full(shape, -1)
    question, answer, position = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    seen: list[tuple[int, int]] = []
    images: list[int] = []
    text: list[tuple[int, int, int, int]] = []
    predict: list[tuple[int, int, int, int]] = []
    known: dict[Tokens, int] = {}
    owner = 0
    for b, row in enumerate(rows):
        at = 0
        for g, one in enumerate(row):
            group[b, at : at + one.length(visual)] = g
            prefix = 1 + (0 if one.image is None else visual)
            position[b, at : at + prefix] = torch.arange(prefix)
            text.append((b, at, known.setdefault((), len(known)), 0))
            if one.image is not None:
                seen.append((b, at + 1))
                images.append(one.image)
            at += prefix
            for q, asked in enumerate(one.questions, 1):
                n = len(asked.prompt)
                question[b, at : at + len(asked)] = q
                position[b, at : at + n] = 1 + visual + torch.arange(n)
                whole = asked.prompt + (asked.answers[0] if asked.answers else ())
                first = known.setdefault(whole, len(known))
                text += [(b, at + i, first, i + 1) for i in range(n)]
                last = at + n - 1
                at += n
                for k, said in enumerate(asked.answers, 1):
                    which = known.setdefault(asked.prompt + said, len(known))
                    answer[b, at : at + len(said)] = k
                    position[b, at : at + len(said)] = 1 + visual + n + torch.arange(len(said))
                    text += [(b, at + i, which, 1 + n + i) for i in range(len(said))]
                    places = [last, *range(at, at + len(said) - 1)]
                    predict += [(b, p, x, owner) for p, x in zip(places, said, strict=True)]
                    owner += 1
                    at += len(said)

    def table(rows: list[tuple[int, ...]], width: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.long).reshape(-1, width)

    return Packed(
        group=group,
        question=question,
        answer=answer,
        position=position,
        visual=table([*seen], 2),
        images=torch.tensor(images, dtype=torch.long),
        text=table([*text], 4),
        predict=table([*predict], 4),
        texts=tuple(known),
    )


def block_mask(packed: Packed) -> Tensor:
    """Who may look at whom, bool (b, 1, t, t): the own prefix, question and answer, and nothing
    later.  Padding sees itself alone, so that no row of the softmax is empty."""

    def near(kind: Tensor, shared: bool) -> Tensor:
        same = kind[:, :, None] == kind[:, None, :]
        return same | (kind[:, None, :] == 0) if shared else same

    t, device = packed.group.shape[1], packed.group.device
    past = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    own = near(packed.question, True) & near(packed.answer, True) & near(packed.group, False)
    seen = own & past & (packed.group >= 0)[:, None, :]
    return (seen | torch.eye(t, dtype=torch.bool, device=device))[:, None]
