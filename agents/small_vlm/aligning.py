"""First lesson of the projector: an image's mean token points to the words of its names.

The names are modality and label; a name is where the language model's head looks for its words.
The loss is a softmax over all modalities and, beside it, over the options of the case's task
(Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, with
fixed texts).  No layer above the entry runs, so this costs little, and the upper layers then only
have to hand on what they find.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from curbside.agents.small_vlm.model import SmallVlm
from curbside.agents.small_vlm.wording import Wording, plain
from curbside.cases import Case

__all__ = ["Aligner", "Targets", "settle"]

#: Inverse temperature of the cosine, and how much the labels count beside the modality.
SHARPNESS = 20.0
LABELS = 2.0


class Targets:
    """Names to align with, and which of them stand to choice for each case.

    Args:
        states: float32 (k, width), unit vectors, one a name.
        truth: long (n, 2): name of modality and of label, −1 where there is none.
        allowed: bool (n, 2, k).
    """

    def __init__(self, states: Tensor, truth: Tensor, allowed: Tensor) -> None:
        self.states, self.truth, self.allowed = states, truth, allowed


def settle(model: SmallVlm, cases: Sequence[Case], features: Tensor, wording: Wording) -> Targets:
    """Set the projector's units from the training cases, and find where the names lie.

    Args:
        features: float16 (n, visual, channels) of the cases.
    """
    with torch.no_grad():
        return _settle(model, cases, features, wording)


def _settle(model: SmallVlm, cases: Sequence[Case], features: Tensor, wording: Wording) -> Targets:
    modalities = sorted({c.modality or "" for c in cases})
    labels = sorted({o for c in cases for o in c.options})
    names = [*modalities, *labels]
    states = [x[1:] for x in model.lower([wording.tokens(f" {plain(n)}") for n in names])]
    every = torch.cat(states)
    projector = model.projector
    projector.shift.copy_(every.mean(0))
    projector.spread.copy_(every.std(0))
    # a share of the images is enough for means, and half the memory
    some = features[:: max(1, len(features) // 2000)].float().flatten(0, 1)
    projector.mean.copy_(some.mean(0))
    projector.deviation.copy_(some.std(0) + 1e-3)
    targets = torch.stack([model.heard(wording.tokens(f" {plain(n)}")) for n in names])
    of_label = {n: len(modalities) + i for i, n in enumerate(labels)}
    truth = torch.full((len(cases), 2), -1)
    allowed = torch.zeros(len(cases), 2, len(names), dtype=torch.bool)
    for i, c in enumerate(cases):
        truth[i, 0] = modalities.index(c.modality or "")
        allowed[i, 0, : len(modalities)] = True
        if c.label in c.options:
            truth[i, 1] = of_label[c.label or ""]
            allowed[i, 1, [of_label[o] for o in c.options]] = True
    return Targets(functional.normalize(targets - targets.mean(0), dim=1), truth, allowed)


class Aligner(nn.Module):
    """The projector under the loss of this lesson."""

    def __init__(self, model: SmallVlm, states: Tensor) -> None:
        super().__init__()
        self.projector = model.projector
        self.register_buffer("states", states, persistent=False)
        self.register_buffer("gain", model.language.model.norm.weight, persistent=False)

    states: Tensor
    gain: Tensor

    def forward(self, features: Tensor, truth: Tensor, allowed: Tensor) -> dict[str, Tensor]:
        """``loss`` of b images: features (b, visual, channels), the rest as in ``Targets``."""
        mean = self.projector.spread * self.projector.inner(features).mean(1)
        image = functional.normalize(mean * self.gain, dim=1)
        logits = SHARPNESS * image @ self.states.T
        loss = logits.new_zeros(())
        for column, weight in ((0, 1.0), (1, LABELS)):
            known = truth[:, column] >= 0
            if known.any():
                among = logits[known].masked_fill(~allowed[known, column], -torch.inf)
                loss = loss + weight * functional.cross_entropy(among, truth[known, column])
        return {"loss": loss}
