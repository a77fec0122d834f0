"""Labelled training cases as arrays, and the few-shot draws that all agents share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Examples"]


@dataclass(frozen=True)
class Examples:
    """Labelled cases by row; ``rows`` point into the features they were made from.

    Args:
        rows: intp (n,).
        digests, modalities, tasks, labels: str (n,); digests are of image content.
        options: task → its closed set, as in the manifest.
    """

    rows: NDArray[np.intp]
    digests: NDArray[np.str_]
    modalities: NDArray[np.str_]
    tasks: NDArray[np.str_]
    labels: NDArray[np.str_]
    options: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, where: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Some of the cases."""
        kept = self.tasks[where]
        return type(self)(
            self.rows[where],
            self.digests[where],
            self.modalities[where],
            kept,
            self.labels[where],
            {t: o for t, o in self.options.items() if t in set(kept.tolist())},
        )

    def few(self, shots: int, *, seed: int) -> Self:
        """At most ``shots`` cases of each label of each task.

        The draw depends on the seed, the task and the label alone, so agents that are given
        the same number of labels are given the same ones.
        """
        picked = []
        keys = np.array([f"{t}\0{lab}" for t, lab in zip(self.tasks, self.labels, strict=True)])
        for key in np.unique(keys):
            rows = np.flatnonzero(keys == key)
            rng = np.random.default_rng([seed, *key.encode()])
            picked.append(rng.permutation(rows)[:shots])
        empty = np.zeros(0, np.intp)
        return self.take(np.sort(np.concatenate(picked)) if picked else empty)
