"""What a small VLM learns from: cases, visual questions, and what is seen of their images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from curbside.agents.small_vlm.visual import Eyes
from curbside.cases import Case, Cases
from curbside.errors import UserError
from curbside.indexes.features import FeatureSource
from curbside.study import content_hash

__all__ = ["Material", "Seen", "material_of", "seen"]


@dataclass(frozen=True)
class Material:
    """Cases to learn from and what is seen of them.

    Args:
        cases: of the corpus, role ``train``, each with a modality.
        questions: visual questions, with attribute ``answer``; may be none.
        rows: row of ``features`` for each question; the first rows are those of ``cases``.
        features: float16 (images, visual, channels).
        digest: of the cases, their images, and the encoder.
        unusable: cases and questions whose image cannot be used.
    """

    cases: Sequence[Case]
    questions: Sequence[Case]
    rows: Sequence[int]
    features: Tensor
    digest: str
    unusable: int = 0

    def asking(self, keep: Callable[[Case], bool]) -> Material:
        """The same with some of the questions."""
        some = [(c, r) for c, r in zip(self.questions, self.rows, strict=True) if keep(c)]
        return replace(self, questions=[c for c, _ in some], rows=[r for _, r in some])

    @property
    def asked_digest(self) -> str:
        """Of the cases and the visual questions."""
        asked = [[c.id, c.question, c.attributes["answer"]] for c in self.questions]
        return content_hash(self.digest, json.dumps(asked))


class Seen(NamedTuple):
    """Distinct images and which case shows which.

    Args:
        features: float16 (m, visual, channels); ``rows``: the row of each case, −1 where its
            image cannot be used; ``digests``: SHA-256 of each case's image, or "".
    """

    features: Tensor
    rows: list[int]
    digests: tuple[str, ...]


def seen(cases: Cases, source: FeatureSource, label: str) -> Seen:
    """What is seen of the cases' images."""
    features = source.of(cases.studies(), label=label)
    first: dict[str, int] = {}
    for i, digest in enumerate(features.digests):
        if digest:
            first.setdefault(digest, i)
    place = {d: k for k, d in enumerate(first)}
    rows = np.fromiter(first.values(), np.intp)
    mine = [place.get(d, -1) for d in features.digests]
    return Seen(Eyes().see(features, rows), mine, features.digests)


def material_of(cases: Cases, questions: Cases | None, source: FeatureSource) -> Material:
    """Role ``train`` of a manifest, and visual questions of any role.

    Raises:
        UserError: no train case whose image can be used.
    """
    from torch import cat

    train = cases.take([i for i, c in enumerate(cases) if c.role == "train" and c.modality])
    features, row, images = seen(train, source, "images to learn from")
    known = [i for i in range(len(train)) if row[i] >= 0]
    if not known:
        raise UserError(
            "the manifest has no case of role train with a modality and a usable image",
            hint="docs/cases.md says what the columns hold",
        )
    picked = [train[i] for i in known]
    features = features[[row[i] for i in known]]
    asked, rows, unusable = list[Case](), list[int](), len(train) - len(known)
    if questions is not None:
        more, place, _ = seen(questions, source, "images of visual questions")
        pairs = [(c, r) for c, r in zip(questions, place, strict=True) if r >= 0]
        asked, rows = [c for c, _ in pairs], [len(picked) + r for _, r in pairs]
        unusable += len(questions) - len(pairs)
        features = cat([features, more])
    mark = content_hash(train.digest, source.fingerprint, *images)
    return Material(picked, asked, rows, features, mark, unusable)
