"""What a model makes of a study's images, made once for all prompts about them.

A closed question is asked under up to ``decoding.orders`` orders of its options, and a report
is many of them: preparing the images and the vision tower would be the same work each time.
The numbers are the same ones, not like ones: what is kept is what the first prompt computed.
"""

from __future__ import annotations

import copy
import inspect
import io
from typing import Any

from PIL import Image

__all__ = ["SameImages"]

#: ``model_type`` of families whose forward pass was tried with features in the place of pixels.
_TRIED = ("llava", "idefics3")
_PIXELS = ("pixel_values", "pixel_attention_mask")


class SameImages:
    """Keeps the last study's pictures and features.  Not thread-safe.

    Args:
        model: an image-text-to-text model of transformers, also one that peft adapted; of the
            families LLaVA and Idefics3 features are kept, of others prepared pixels alone.
        processor: the model's; its image processor is wrapped.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        processor.image_processor = _Prepared(processor.image_processor)
        own = model.get_base_model() if hasattr(model, "get_base_model") else model
        takes = inspect.signature(own.forward).parameters
        self._splits = own.config.model_type in _TRIED and "mm_encoder_outputs" in takes
        self._model = model
        self._images: tuple[bytes, ...] = ()
        self._pictures: list[Image.Image] = []
        self._features: Any = None

    def pictures(self, images: tuple[bytes, ...]) -> list[Image.Image]:
        """RGB pictures of encoded images; for those of the call before, the same objects."""
        if images != self._images:
            self._pictures = [Image.open(io.BytesIO(raw)).convert("RGB") for raw in images]
            self._images, self._features = images, None
        return self._pictures

    def featured(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A forward pass's inputs with features of the last pictures in the place of pixels."""
        if not self._splits:
            return inputs
        pixels = {k: v for k, v in inputs.items() if k in _PIXELS}
        if self._features is None:
            self._features = _pooled(self._model.get_image_features(**pixels, return_dict=True))
        others = {k: v for k, v in inputs.items() if k not in pixels}
        return {**others, "mm_encoder_outputs": {"image": self._features}}


class _Prepared:
    """An image processor that is not called twice in a row for the same pictures."""

    def __init__(self, whole: Any) -> None:
        self._whole = whole
        self._of: list[Any] = []
        self._given: dict[str, Any] = {}
        self._found: Any = None

    def __call__(self, images: Any, **given: Any) -> Any:
        flat = _flat(images)
        same = len(flat) == len(self._of) and all(
            a is b for a, b in zip(flat, self._of, strict=True)
        )
        if self._found is None or not same or given != self._given:
            self._found = self._whole(images, **given)
            self._of, self._given = flat, given
        # processors take entries out of what they are given
        return copy.copy(self._found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def _flat(images: Any) -> list[Any]:
    """Pictures in nested lists, one after the other."""
    if not isinstance(images, list | tuple):
        return [images]
    return [one for some in images for one in _flat(some)]


def _pooled(made: Any) -> Any:
    """Without the hidden states of every layer, which nobody asks for again."""
    return type(made)(pooler_output=made.pooler_output)
