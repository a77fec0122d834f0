"""Image encoders that can be adapted: the embedded one, and those that transformers and
sentence-transformers load.

A tower turns images into the tensors that its module takes, and the module turns those into
one vector an image.  What of it is trained is chosen once: nothing, low-rank adapters, or the
last block.  Knows no task and no label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from curbside.agents.finetuning.export import base_digest
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.runs import quiet
from curbside.agents.network import LORA_SCALE
from curbside.agents.pictures import shown
from curbside.agents.trunk import Trunk, trunk_parameters
from curbside.agents.upper import channels_last, top_block, upper_blocks
from curbside.agents.upper import lora as embedded_lora
from curbside.config import Config, EncoderConfig
from curbside.errors import AgentUnavailable, ConfigError
from curbside.home import home
from curbside.indexes.encoder import load_encoder
from curbside.indexes.features import FeatureSource
from curbside.indexes.pretrained import load_sentence_transformer
from curbside.study import Study

__all__ = ["EMBEDDED", "EmbeddedTower", "Tower", "embedded_trunk", "features_of", "open_tower"]

#: The name of the embedded encoder.
EMBEDDED = "lite0"
#: Linear layers of a vision transformer, under any of the names in use; never of a text tower.
_LAYERS = r"(?!.*text).*\.(q_proj|k_proj|v_proj|out_proj|o_proj|fc1|fc2|qkv|query|key|value|dense)"


class Tower(Protocol):
    """See the module.

    Args:
        family: what kind of encoder; ``digest`` names its weights.
        module: called with what ``inputs`` gave; returns float32 (n, d).
        parameters: numbers of the whole base, also of what runs before the module.
    """

    family: str
    digest: str
    module: nn.Module
    parameters: int

    def inputs(self, studies: Sequence[Study]) -> dict[str, Tensor]:
        """Tensors of studies of one image each.  Raises ImageError."""
        ...

    def train_what(self, recipe: Recipe) -> nn.Module:
        """Let a recipe's part ask for gradients; returns what holds it, for saving."""
        ...


def open_tower(base: str, folder: Path | None) -> Tower:
    """The embedded encoder, or a model from a folder.

    Raises:
        ConfigError: the folder holds no image encoder.
        AgentUnavailable: its files cannot be loaded.
    """
    if base == EMBEDDED:
        return EmbeddedTower(embedded_trunk())
    assert folder is not None
    if (folder / "modules.json").is_file():
        return _SentenceTransformersTower(folder)
    return _TransformersTower(folder)


def embedded_trunk() -> Trunk:
    """The trunk of the embedded agents, over the home folder's cache."""
    cache = home() / Config().stores.cache
    source = FeatureSource(load_encoder(EncoderConfig(), cache), folder=cache)
    # every training image is seen once an epoch: none may fall out in between
    return Trunk(source, memory=65_536)


class EmbeddedTower:
    """EfficientNet-Lite0: frozen up to the grid that enters block 14, trained above it."""

    family = EMBEDDED

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self.digest = trunk.source.fingerprint
        self.module: nn.Module = _OfGrid(upper_blocks())
        self.parameters = trunk_parameters()

    def inputs(self, studies: Sequence[Study]) -> dict[str, Tensor]:
        """Grids, float32 (n, 192, 7, 7)."""
        found, failures = self._trunk.of(studies)
        for problem in failures.values():
            raise problem
        grid = torch.from_numpy(found.grid).float()
        return {"grid": grid.contiguous(memory_format=torch.channels_last)}

    def train_what(self, recipe: Recipe) -> nn.Module:
        """See :class:`Tower`."""
        if recipe.method == "lora":
            if recipe.scale != LORA_SCALE:
                raise ConfigError(
                    f"scale = {recipe.scale:g}; adapters of the embedded encoder are served with "
                    f"{LORA_SCALE:g}",
                    hint=f"scale: {LORA_SCALE:g} in the recipe",
                )
            adapted = embedded_lora(upper_blocks(), recipe.rank)
            self.module = _OfGrid(adapted)
            return adapted
        network = top_block()
        if recipe.method == "linear":
            network.requires_grad_(False)
        self.module = _OfGrid(channels_last(network))
        return network


class _OfGrid(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, grid: Tensor) -> Tensor:
        if self.training:
            # half of the cases mirrored, as the agents that curbside build trains see them
            mirrored = (torch.rand(len(grid)) < 0.5).to(grid.device)
            grid = torch.where(mirrored[:, None, None, None], grid.flip(-1), grid)
        found: Tensor = self.network(grid)
        return found


class _Pretrained:
    """What the two kinds of pretrained towers share."""

    family = ""

    def __init__(self, folder: Path) -> None:
        self.digest = base_digest(folder)
        self.module: nn.Module = nn.Identity()
        self.parameters = 0
        self._network: Any = None
        self._prepare: Callable[[list[Image.Image]], dict[str, Any]] = lambda _: {}

    def inputs(self, studies: Sequence[Study]) -> dict[str, Tensor]:
        """What the model's own processor makes of the images."""
        pictures = [Image.fromarray(shown(s, 1)[0].pixels()) for s in studies]
        made = self._prepare(pictures)
        return {k: v for k, v in made.items() if isinstance(v, Tensor)}

    def train_what(self, recipe: Recipe) -> nn.Module:
        """See :class:`Tower`."""
        network: nn.Module = self._network
        network.requires_grad_(False)
        if recipe.method == "lora":
            return self._lora(recipe)
        if recipe.method == "last-block":
            _last_block(network).requires_grad_(True)
        return network

    def _lora(self, recipe: Recipe) -> nn.Module:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.scale * recipe.rank,
            lora_dropout=recipe.dropout,
            target_modules=recipe.targets.get("vision", _LAYERS),
        )
        try:
            # layers are exchanged in place: the model that runs is the adapted one
            with quiet():
                adapted: nn.Module = get_peft_model(self._network, config)
        except ValueError:
            raise ConfigError(
                f"no linear layer of the {self.family} model is called as those of vision "
                "transformers are",
                hint="targets: {vision: 'REGULAR EXPRESSION'} in the recipe",
            ) from None
        return adapted


class _SentenceTransformersTower(_Pretrained):
    family = "sentence-transformers"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # on the CPU: the Trainer moves it where it trains
        whole = load_sentence_transformer(folder, folder.name, device="cpu")
        if "image" not in whole.modalities:
            raise ConfigError(f"{folder.name} reads {', '.join(whole.modalities)}, not images")
        self._network = whole[0].model
        self._prepare = whole.preprocess
        self.module = _Embedding(whole)
        self.parameters = _count(self.module)


class _Embedding(nn.Module):
    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, **inputs: Tensor) -> Tensor:
        found: Tensor = self.whole({**inputs, "modality": "image"})["sentence_embedding"]
        return found


class _TransformersTower(_Pretrained):
    family = "transformers"

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoModel
        from transformers.utils.logging import disable_progress_bar

        super().__init__(folder)
        disable_progress_bar()
        try:
            processor = AutoImageProcessor.from_pretrained(
                str(folder), trust_remote_code=False, backend="pil"
            )
            with quiet():
                network, told = AutoModel.from_pretrained(
                    str(folder),
                    dtype=torch.float32,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except Exception as e:  # the loaders raise anything from KeyError to SafetensorError
            raise AgentUnavailable(
                f"{folder.name} cannot be loaded as an image encoder ({type(e).__name__})",
                hint="give the folder of a vision model in safetensors, with its image processor",
            ) from e
        # what a checkpoint lacks is drawn at random, another time each time that it is loaded
        lacking = sorted(told["missing_keys"])
        if any("pooler" not in k for k in lacking):
            raise AgentUnavailable(
                f"{folder.name} lacks weights of its encoder ({len(lacking)} tensors)",
                hint="save the whole model with save_pretrained",
            )
        self._network = network.eval()
        self._prepare = lambda pictures: dict(processor(images=pictures, return_tensors="pt"))
        self.module = _Pooled(self._network, pooler=not lacking)
        self.parameters = _count(self.module)


class _Pooled(nn.Module):
    def __init__(self, network: Any, *, pooler: bool) -> None:
        super().__init__()
        self.network, self._pooler = network, pooler

    def forward(self, **inputs: Tensor) -> Tensor:
        whole: Any = self.network
        if hasattr(whole, "get_image_features"):
            found = whole.get_image_features(**inputs)
        else:
            found = whole(**inputs)
        if isinstance(found, Tensor):
            return found
        pooled: Tensor | None = found.pooler_output if self._pooler else None
        return found.last_hidden_state.mean(1) if pooled is None else pooled


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _last_block(network: nn.Module) -> nn.Module:
    """The last of the longest list of layers that is no text tower's.

    Raises:
        ConfigError: there is none.
    """
    stacks = [
        m for n, m in network.named_modules() if isinstance(m, nn.ModuleList) and "text" not in n
    ]
    if not stacks:
        raise ConfigError(
            "this encoder keeps its blocks in no list that is known here",
            hint="--method lora, or --method linear",
        )
    return max(stacks, key=len)[-1]


def features_of(tower: Tower, studies: Sequence[Study], advance: Callable[[int], None]) -> Any:
    """float32 (n, d), one image after the other: a study gets the same alone as in a batch."""
    out = []
    tower.module.eval()
    with torch.inference_mode():
        for study in studies:
            out.append(tower.module(**tower.inputs([study]))[0].float().numpy())
            advance(1)
    return np.stack(out) if out else np.zeros((0, 0), np.float32)
