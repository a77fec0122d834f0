"""How an embedded agent comes to probabilities: three readers behind one Protocol.

- :class:`LinearReader`: heads on the encoder's pooled features, nothing adapted; the
  baseline that the others must beat.
- :class:`SpecialistReader`: the top block fine-tuned on one modality.
- :class:`GeneralistReader`: LoRA on the top blocks, options scored through text.

The last two blend their adapted branch with a linear readout of the frozen features of
several depths (:class:`~curbside.agents.heads.Blend`).  Readers see inputs and
questions, never a file; they know no torch, which loads only where something is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from curbside.agents.heads import Blend, Heads, match_task, softmax
from curbside.agents.network import UpperNetwork
from curbside.agents.trunk import Inputs
from curbside.indexes.text import TextEncoder
from curbside.study import Question

__all__ = [
    "GeneralistReader",
    "LinearReader",
    "OptionScorer",
    "Reader",
    "SpecialistReader",
    "option_text",
    "read",
]

Probabilities = list[NDArray[np.float32] | None]
Tuned = NDArray[np.float32] | None
Opinions = list[tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]]


class Reader(Protocol):
    """``opinions`` gives (adapted, frozen) probabilities over each question's options.

    Either is None where that branch knows nothing of the question; ``blend`` joins them.
    ``tuned``: features of the adapted network, float32 (n, 1280), where they are at hand.
    """

    blend: Blend

    def opinions(
        self, inputs: Inputs, questions: Sequence[Question], tuned: Tuned = None
    ) -> Opinions: ...


def read(reader: Reader, inputs: Inputs, questions: Sequence[Question]) -> Probabilities:
    """Probabilities over each question's options, or None: the reader has no answer."""
    out: Probabilities = []
    for adapted, frozen in reader.opinions(inputs, questions):
        one = adapted if adapted is not None else frozen
        if one is None:
            out.append(None)
        elif adapted is not None and frozen is not None:
            out.append(reader.blend(adapted, frozen))
        else:
            # a branch alone is only sharpened or softened as much as both together are
            uniform = np.full_like(one, 1 / len(one))
            other = reader.blend(one, uniform) if frozen is None else reader.blend(uniform, one)
            out.append(other)
    return out


class LinearReader:
    """Logistic regression a task on the pooled features, with a temperature.

    Args:
        whole: the heads see all that no agent changes, not the pooled features alone.
    """

    def __init__(self, heads: Heads, blend: Blend, *, whole: bool = False) -> None:
        self.heads, self.blend, self.whole = heads, blend, whole
        self._labels = heads.labels()

    def opinions(
        self, inputs: Inputs, questions: Sequence[Question], tuned: Tuned = None
    ) -> Opinions:
        """See :class:`Reader`."""
        tasks = [match_task(q, self._labels, ambiguous=True) for q in questions]
        features = inputs.fixed if self.whole else inputs.pooled
        return [(None, p) for p in _by_head(self.heads, features, questions, tasks)]


class SpecialistReader:
    """The top block fine-tuned on one modality's cases.

    Args:
        network: the upper blocks with the tuned weights.
        own: heads of the modality's tasks on the tuned features, trained with the block.
        frozen: heads of the same tasks on the frozen features.
        foreign: few-shot heads of all other tasks on tuned and frozen features together.
    """

    def __init__(
        self, network: UpperNetwork, own: Heads, frozen: Heads, foreign: Heads, blend: Blend
    ) -> None:
        self.network, self.own, self.frozen, self.foreign = network, own, frozen, foreign
        self.blend = blend
        self._own, self._foreign = own.labels(), foreign.labels()

    def task_of(self, question: Question) -> tuple[str | None, bool]:
        """The task that a question is read as, and whether it is one of its own."""
        q = question
        task = (
            match_task(q, self._own if q.task in self._own else {})
            or match_task(q, self._foreign if q.task in self._foreign else {})
            or match_task(q, self._own, ambiguous=True)
            or match_task(q, self._foreign, ambiguous=True)
        )
        return task, task in self.own

    def opinions(
        self, inputs: Inputs, questions: Sequence[Question], tuned: Tuned = None
    ) -> Opinions:
        """See :class:`Reader`; its own tasks come first where the options fit several."""
        tuned = self.network.features(inputs.grid) if tuned is None else tuned
        tasks = [self.task_of(q)[0] for q in questions]
        home = [t if t in self.own else None for t in tasks]
        away = [t if t in self.foreign else None for t in tasks]
        mine = _by_head(self.own, tuned, questions, home)
        frozen = _by_head(self.frozen, inputs.fixed, questions, home)
        both = np.concatenate([tuned, inputs.fixed], axis=1)
        foreign = _by_head(self.foreign, both, questions, away)
        return [(a, c if a is None else b) for a, b, c in zip(mine, frozen, foreign, strict=True)]


@dataclass(frozen=True)
class OptionScorer:
    """Scores options by the cosine of projected features with their names' text vectors.

    A learned residual is added to the text vector of each known (task, label); an option
    that was never trained on is scored through its name alone, as CLIP does (Radford et
    al., 2021).

    Args:
        mean, scale: float32 (d,), of the training features.
        weight: float32 (384, d), and ``bias``, (384,): the projection.
        residual: task → float32 (k, 384), one row a label.
        text: task → unit vectors of the labels' names, float32 (k, 384).
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    residual: Mapping[str, NDArray[np.float32]]
    text: Mapping[str, NDArray[np.float32]]

    #: Inverse temperature of the cosine.
    SHARPNESS: ClassVar[float] = 10.0

    def projected(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, d) to (n, 384), not normalised."""
        return np.asarray(((features - self.mean) / self.scale) @ self.weight.T + self.bias)

    def image(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, d) to unit vectors (n, 384)."""
        vectors = self.projected(features)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, np.float32(1e-12)))

    def known(self, image: NDArray[np.float32], task: str) -> NDArray[np.float32]:
        """Logits over a known task's labels, (n, k)."""
        return self.by_name(image, self.options_of(task))

    def options_of(self, task: str) -> NDArray[np.float32]:
        """What a known task's labels are scored by: text vector and residual, (k, 384)."""
        return np.asarray(self.text[task] + self.residual[task])

    def by_name(self, image: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits over options that only have a name, (n, len(text))."""
        return np.asarray(np.float32(self.SHARPNESS) * image @ text.T)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """What was learned, by name; the text vectors are no part of it."""
        return {
            "mean": self.mean,
            "scale": self.scale,
            "project.weight": self.weight,
            "project.bias": self.bias,
            **{f"residual.{t}": r for t, r in self.residual.items()},
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.float32]], text: Mapping[str, NDArray[np.float32]]
    ) -> Self:
        """The reverse of :meth:`arrays`.  Raises KeyError where one is missing."""
        return cls(
            arrays["mean"],
            arrays["scale"],
            arrays["project.weight"],
            arrays["project.bias"],
            {t: arrays[f"residual.{t}"] for t in text},
            text,
        )


class GeneralistReader:
    """LoRA on the top blocks; answers options that it has never seen.

    Args:
        network: the adapted upper blocks.
        frozen: heads of the known tasks on the frozen features.
        labels: task → labels in the order of the scorer's residuals.
    """

    def __init__(
        self,
        network: UpperNetwork,
        scorer: OptionScorer,
        frozen: Heads,
        labels: Mapping[str, Sequence[str]],
        text: TextEncoder,
        blend: Blend,
    ) -> None:
        self.network, self.scorer, self.frozen, self.text = network, scorer, frozen, text
        self.blend = blend
        self.labels = {t: list(names) for t, names in labels.items()}

    def opinions(
        self, inputs: Inputs, questions: Sequence[Question], tuned: Tuned = None
    ) -> Opinions:
        """See :class:`Reader`; None only for questions without options."""
        tasks = [match_task(q, self.labels) for q in questions]
        frozen = _by_head(self.frozen, inputs.fixed, questions, tasks)
        tuned = self.network.features(inputs.grid) if tuned is None else tuned
        features = np.concatenate([tuned, inputs.statistics], 1)
        out: Opinions = []
        for i, (question, task) in enumerate(zip(questions, tasks, strict=True)):
            if not question.options:
                out.append((None, None))
                continue
            image = self.scorer.image(features[i : i + 1])
            if task is None:
                names = self.text.encode([option_text(o) for o in question.options])
                out.append((softmax(self.scorer.by_name(image, names))[0], None))
                continue
            columns = [self.labels[task].index(o) for o in question.options]
            adapted = softmax(self.scorer.known(image, task)[:, columns])[0]
            # an option that the frozen head never saw would get 0 from it, whatever is seen
            seen = task in self.frozen and set(question.options) <= set(self.frozen[task].labels)
            out.append((adapted, frozen[i] if seen else None))
        return out


def option_text(option: str) -> str:
    """How an option's name is put to the text encoder."""
    return option.replace("_", " ")


def _by_head(
    heads: Heads,
    features: NDArray[np.float32],
    questions: Sequence[Question],
    tasks: Sequence[str | None],
) -> Probabilities:
    out: Probabilities = [None] * len(questions)
    for i, (question, task) in enumerate(zip(questions, tasks, strict=True)):
        if task is not None and task in heads:
            out[i] = heads[task].probabilities(features[i : i + 1], question.options)[0]
    return out
