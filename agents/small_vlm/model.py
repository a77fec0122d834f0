"""The model: visual tokens enter SmolLM2 above its lower layers, and meet the text there.

Frozen lower layers read text alone, so what they make of a question is the same for every
image and is computed once and kept.  Projector and upper layers see image and text together;
only they are trained, and their gradient stops where the image enters.  Late entry costs a
third of the whole model's training time; :doc:`docs/small-vlm.md` says what it gives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from curbside.agents.small_vlm.packing import Packed, block_mask

__all__ = ["ADAPTED", "Plan", "Projector", "SmallVlm"]

#: Linear layers of a block of the language model that LoRA adapts.
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


#: Texts whose lower states are kept, about 80 KB each.
MEMORY = 10_000
#: Tokens that go through the lower layers at once, at least: for fewer than 16 rows, matrix
#: products on a processor take another kernel, and the last digits would say what else was asked.
LEAST = 16


@dataclass(frozen=True)
class Plan:
    """The shape of the model: what is stored beside the adapter.

    Args:
        entry: layer of the language model that sees visual tokens first.
        channels: width of the visual features; ``hidden``: of the projector.
        visual: visual tokens an image.
        rank: of LoRA; its scale is 2.
    """

    entry: int = 26
    channels: int = 1280
    hidden: int = 768
    visual: int = 16
    rank: int = 16


class Projector(nn.Module):
    """From visual features to tokens that look like the text's at the entry layer.

    Features are standardised, two layers follow, and what comes out is in units of the text
    states: ``shift`` and ``spread`` are their mean and deviation, a channel at a time.
    """

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.first = nn.Linear(channels, hidden)
        self.second = nn.Linear(hidden, width)

    mean: Tensor
    deviation: Tensor
    shift: Tensor
    spread: Tensor

    def inner(self, features: Tensor) -> Tensor:
        """float32 (n, visual, channels) to (n, visual, width), in units of text states."""
        standard = (features - self.mean) / self.deviation
        out = self.second(functional.gelu(self.first(standard)))
        return functional.rms_norm(out, out.shape[-1:])

    def forward(self, features: Tensor) -> Tensor:
        """float32 (n, visual, channels) to tokens (n, visual, width)."""
        return self.shift + self.spread * self.inner(features)


class SmallVlm(nn.Module):
    """Projector and language model over packed rows.

    Args:
        language: a LlamaForCausalLM; frozen here, peft adds its adapters.
        kept: lower states of texts, by text; models of one base and plan may share them.
    """

    def __init__(
        self,
        language: Any,
        plan: Plan,
        kept: OrderedDict[tuple[int, ...], Tensor] | None = None,
    ) -> None:
        super().__init__()
        config = language.config
        if not 0 <= plan.entry < config.num_hidden_layers:
            raise ValueError(f"entry {plan.entry} is no layer of {config.num_hidden_layers}")
        self.plan = plan
        self.language = language.requires_grad_(False)
        self.projector = Projector(plan.channels, plan.hidden, config.hidden_size)
        self._kept = OrderedDict() if kept is None else kept

    @property
    def device(self) -> torch.device:
        """Where its weights are; what it is given may lie elsewhere."""
        weight: Tensor = self.language.lm_head.weight
        return weight.device

    @property
    def start(self) -> int:
        """The token that every text begins with."""
        return int(self.language.config.bos_token_id)

    def forward(self, packed: Packed, features: Tensor) -> dict[str, Tensor]:
        """``loss`` over the answers' tokens, a mean.

        Args:
            features: float32 (v, visual, channels), of the images that ``packed.images`` name.
        """
        said = self.log_probabilities(packed, features)
        return {"loss": -said.mean()}

    def log_probabilities(self, packed: Packed, features: Tensor) -> Tensor:
        """Of each token of ``packed.predict``: float32 (p,)."""
        packed = packed.to(self.device)
        row, column, token, _ = packed.predict.unbind(1)
        logits = self.logits(self.states(packed, features)[row, column])
        return -functional.cross_entropy(logits, token, reduction="none")

    def logits(self, states: Tensor) -> Tensor:
        """(…, width) before the last norm to (…, vocabulary)."""
        out: Tensor = self.language.lm_head(self.language.model.norm(states))
        return out

    def heard(self, text: tuple[int, ...]) -> Tensor:
        """Mean over a text's words of where the head looks for them, float32 (width,)."""
        weight: Tensor = self.language.lm_head.weight
        return weight[list(text)].mean(0)

    def states(self, packed: Packed, features: Tensor, cache: Any = None) -> Tensor:
        """Hidden states after the last layer, before its norm: float32 (b, t, width).

        Args:
            cache: a transformers cache, filled with the upper layers' keys and values.
        """
        device, packed = self.device, packed.to(self.device)
        b, t = packed.group.shape
        hidden = torch.zeros(b, t, self.language.config.hidden_size, device=device)
        lower = self.lower(packed.texts)
        row, column, text, place = packed.text.unbind(1)
        starts = torch.tensor([0, *(len(x) for x in lower)], device=device).cumsum(0)
        hidden[row, column] = torch.cat(lower)[starts[text] + place]
        if len(packed.visual):
            columns = packed.visual[:, 1:] + torch.arange(self.plan.visual, device=device)
            tokens = self.projector(features.to(device))
            hidden = hidden.index_put((packed.visual[:, :1], columns), tokens)
        return self._run(
            self.plan.entry, None, hidden, block_mask(packed), packed.position, cache=cache
        )

    def step(self, texts: Sequence[tuple[int, ...]], cache: Any) -> Tensor:
        """States of the last token of b texts of one length, (b, width), after what ``cache``
        holds; the image is in the cache."""
        hidden = torch.stack([x[-1] for x in self.lower(texts)])[:, None]
        position = torch.full((1, 1), len(texts[0]) + self.plan.visual, device=self.device)
        return self._run(self.plan.entry, None, hidden, None, position, cache=cache)[:, 0]

    def _run(
        self,
        first: int,
        last: int | None,
        hidden: Tensor,
        mask: Tensor | None,
        position: Tensor,
        cache: Any = None,
    ) -> Tensor:
        model = self.language.model
        around = model.rotary_emb(hidden, position)
        for layer in model.layers[first:last]:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position,
                position_embeddings=around,
                past_key_values=cache,
            )
        return hidden

    @torch.no_grad()
    def lower(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """What the frozen layers make of texts, start token first: float32 (1 + n, width) each.

        On one thread of a processor a text's states are the same bits whatever is asked with it.
        """
        missing = [x for x in dict.fromkeys(texts) if x not in self._kept]
        # one length at a time: padding would change the last digits
        for length in sorted({len(x) for x in missing}):
            some = [x for x in missing if len(x) == length]
            for at in range(0, len(some), 32):
                block = some[at : at + 32]
                filled = block + block[-1:] * (-(-LEAST // (1 + length)) - len(block))
                for text, states in zip(block, self._lower(filled), strict=False):
                    self._kept[text] = states
        # models that share them may be on other devices
        out = [self._kept[x].to(self.device) for x in texts]
        for x in texts:
            self._kept.move_to_end(x)
        while len(self._kept) > max(MEMORY, len(texts)):
            self._kept.popitem(last=False)
        return out

    def _lower(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        ids = torch.tensor([(self.start, *x) for x in texts], device=self.device)
        place = torch.arange(ids.shape[1], device=self.device)
        position = place + self.plan.visual * (place > 0)
        past = torch.ones(1, 1, len(place), len(place), dtype=torch.bool, device=self.device).tril()
        hidden = self.language.model.embed_tokens(ids)
        return self._run(0, self.plan.entry, hidden, past, position[None])
