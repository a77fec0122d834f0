"""Linear heads, one a task: regularised logistic regression on standardised features.

The oldest adapter there is, and on features of a frozen network a hard one to beat
(Chen et al., A Closer Look at Few-shot Classification, ICLR 2019).  Also which head a
question is meant for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from curbside.study import Question

__all__ = ["Blend", "Head", "Heads", "match_task", "softmax"]

#: Inverse of the L2 penalty; .001 to .1 were tried on held-out groups of ``train``.
INVERSE_PENALTY = 0.01


@dataclass(frozen=True)
class Head:
    """One task's answer from features.

    Args:
        labels: the k labels, in the order of the rows of ``weight``.
        mean, scale: float32 (d,), of the training features.
        weight: float32 (k, d); ``bias``: float32 (k,).
    """

    labels: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], labels: NDArray[np.str_]) -> Self:
        """From float32 (n, d) features and n labels; one label alone gives a constant head."""
        from sklearn.linear_model import LogisticRegression

        mean, scale = features.mean(0), features.std(0) + np.float32(1e-3)
        names = np.unique(labels)
        if len(names) == 1:
            zeros = np.zeros((1, features.shape[1]), np.float32)
            return cls((str(names[0]),), mean, scale, zeros, np.zeros(1, np.float32))
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
        model.fit((features - mean) / scale, labels)
        weight, bias = model.coef_, model.intercept_
        if len(names) == 2:  # one row for two classes becomes two of opposite sign
            weight = np.concatenate([-weight / 2, weight / 2])
            bias = np.concatenate([-bias / 2, bias / 2])
        return cls(
            tuple(str(n) for n in model.classes_),
            mean,
            scale,
            weight.astype(np.float32),
            bias.astype(np.float32),
        )

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, k)."""
        return np.asarray(((features - self.mean) / self.scale) @ self.weight.T + self.bias)

    def probabilities(
        self, features: NDArray[np.float32], options: Sequence[str]
    ) -> NDArray[np.float32]:
        """float32 (n, len(options)), rows sum to 1 over the options asked for.

        An option that the head never saw gets 0; where it saw none, all get the same.
        """
        known = [i for i, option in enumerate(options) if option in self.labels]
        out = np.zeros((len(features), len(options)), np.float32)
        if not known:
            return np.full_like(out, 1 / max(len(options), 1))
        # from logits: two options may both be 0 among all labels, and still differ
        columns = [self.labels.index(options[i]) for i in known]
        out[:, known] = softmax(self.logits(features)[:, columns])
        return out


class Heads(dict[str, Head]):
    """Heads by task, to and from plain arrays."""

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Everything but the labels, by ``<task>/<part>``."""
        parts = ("mean", "scale", "weight", "bias")
        return {
            f"{t}/{p}": np.ascontiguousarray(getattr(h, p)) for t, h in self.items() for p in parts
        }

    def labels(self) -> dict[str, list[str]]:
        """Labels by task."""
        return {t: list(h.labels) for t, h in self.items()}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.float32]], labels: Mapping[str, Sequence[str]]
    ) -> Self:
        """The reverse of :meth:`arrays` and :meth:`labels`."""
        return cls(
            {
                t: Head(
                    tuple(names),
                    arrays[f"{t}/mean"],
                    arrays[f"{t}/scale"],
                    arrays[f"{t}/weight"],
                    arrays[f"{t}/bias"],
                )
                for t, names in labels.items()
            }
        )

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return sum(h.weight.size + h.bias.size for h in self.values())


@dataclass(frozen=True)
class Blend:
    """Two opinions as one: p ∝ adapted^a · frozen^b, which stacks and calibrates at once.

    A fine-tuned branch fits its training cases almost perfectly and is sure of itself; an
    average of probabilities would follow it blindly.  The exponents are fitted on ``tune``
    (Wolpert, Stacked Generalization, 1992; Guo et al., On Calibration, ICML 2017).
    """

    adapted: float = 0.3
    frozen: float = 1.0

    #: Pull of the fit towards the defaults, in cases: few tune cases move it little.
    PULL = 10.0

    def __call__(
        self, adapted: NDArray[np.float32], frozen: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Float32 (k,) probabilities from two of the same length."""
        logits = self.adapted * np.log(adapted + 1e-9) + self.frozen * np.log(frozen + 1e-9)
        both: NDArray[np.float32] = softmax(logits[None].astype(np.float32))[0]
        return both

    @classmethod
    def fit(cls, opinions: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], int]]) -> Self:
        """From (adapted, frozen, index of the true option) of cases nothing was trained on."""
        from scipy.optimize import minimize

        start = cls()
        if not opinions:
            return start
        width = max(len(a) for a, _, _ in opinions)
        logs = np.full((2, len(opinions), width), -np.inf)
        for i, (a, b, _) in enumerate(opinions):
            logs[0, i, : len(a)], logs[1, i, : len(b)] = np.log(a + 1e-9), np.log(b + 1e-9)
        real = np.isfinite(logs[0])
        logs[:, ~real] = 0.0
        truth = np.array([t for _, _, t in opinions])
        centre = np.log([start.adapted, start.frozen])

        def loss(weights: NDArray[np.float64]) -> float:
            logits = np.where(real, np.tensordot(np.exp(weights), logs, 1), -np.inf)
            top = logits.max(axis=1)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
            nll = float((total - logits[np.arange(len(truth)), truth]).sum())
            return nll + cls.PULL * float(((weights - centre) ** 2).sum())

        found = np.exp(minimize(loss, centre, method="Nelder-Mead").x)
        return cls(float(found[0]), float(found[1]))


def match_task(
    question: Question, tasks: Mapping[str, Sequence[str]], *, ambiguous: bool = False
) -> str | None:
    """The known task that a question is about, or None.

    By name where the question names one whose labels cover its options; otherwise by its
    options: the task with exactly these, else the one with fewest labels that cover them.
    Where several fit equally (``benign|malignant`` is asked of many organs), the first one
    counts if ``ambiguous``, else none does.
    """
    wanted = set(question.options)
    if not wanted:
        return None
    if question.task and question.task in tasks and wanted <= set(tasks[question.task]):
        return question.task
    covering = [t for t, labels in tasks.items() if wanted <= set(labels)]
    if not covering:
        return None
    fewest = min(len(tasks[t]) for t in covering)
    best = [t for t in covering if len(tasks[t]) == fewest]
    return best[0] if ambiguous or len(best) == 1 else None


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of (n, k) to probabilities."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True), np.float32)
