"""Training an :class:`~curbside.agents.readers.OptionScorer`: the same arithmetic in torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from curbside.agents.readers import OptionScorer

__all__ = ["TrainedScorer"]


class TrainedScorer(nn.Module):
    """Learns a projection of features, and a residual for each label's text vector.

    Args:
        features: float32 (n, d), of the training cases; they are standardised by these.
        text: task → unit vectors, float32 (k, 384).
        dropout: of standardised features, in training alone.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        text: Mapping[str, NDArray[np.float32]],
        *,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = next(iter(text.values())).shape[1] if text else 384
        self.project = nn.Linear(features.shape[1], width)
        # a list: a task's name may be one that torch does not accept of a parameter
        self.residuals = nn.ParameterList(torch.zeros(v.shape) for v in text.values())
        self._dropout, self._vectors = dropout, dict(text)
        self._mean, self._scale = features.mean(0), features.std(0) + np.float32(1e-3)
        self._of_task = dict(zip(text, self.residuals, strict=True))

    def image(self, features: Tensor) -> Tensor:
        """float32 (n, d) to unit vectors (n, 384)."""
        mean, scale = torch.from_numpy(self._mean), torch.from_numpy(self._scale)
        standard = functional.dropout((features - mean) / scale, self._dropout, self.training)
        return functional.normalize(self.project(standard), dim=1)

    def known(self, image: Tensor, task: str) -> Tensor:
        """Logits over a known task's labels, (n, k)."""
        options = torch.from_numpy(self._vectors[task]) + self._of_task[task]
        logits: Tensor = OptionScorer.SHARPNESS * image @ options.T
        return logits

    def by_name(self, image: Tensor, task: str) -> Tensor:
        """Logits over the same labels by their names alone, (n, k)."""
        return OptionScorer.SHARPNESS * image @ torch.from_numpy(self._vectors[task]).T

    def served(self) -> OptionScorer:
        """What was learned, without torch."""
        weight, bias = (p.detach().numpy().copy() for p in self.project.parameters())
        residual = {t: r.detach().numpy().copy() for t, r in self._of_task.items()}
        return OptionScorer(self._mean, self._scale, weight, bias, residual, self._vectors)
