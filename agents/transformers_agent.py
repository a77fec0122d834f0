"""Models in this process through transformers and peft: the same prompts, the same letters.

Safetensors only, no code from a checkpoint.  A closed question costs one forward pass: the
logits after the prompt, over the tokens of the letters, are the probabilities.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from curbside.agents.fleet_spec import TransformersSpec
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.same_images import SameImages
from curbside.agents.vision import Ask, Said, Unsaid, VisionAgent, card_of
from curbside.errors import AgentUnavailable, UserError
from curbside.storage import tree_digest
from curbside.study import content_hash

__all__ = ["TransformersEngine", "chat_text", "letter_token", "open_transformers_agent"]


class TransformersEngine:
    """See :class:`curbside.agents.vision.Engine`; loads the model with the first ask.

    Args:
        base: folder or name of the model; ``adapter``: folder of a peft adapter, or "".
    """

    def __init__(
        self, base: str, adapter: str = "", *, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        self.base, self.adapter, self.device, self.dtype = base, adapter, device, dtype
        self._loaded: tuple[Any, Any, SameImages] | None = None
        self._lock = Lock()

    def say(self, asks: Iterable[Ask]) -> list[Said | Unsaid]:
        """One after the other: a batch would pad, and padding changes the last digits."""
        with self._lock:
            return [self._say_one(a) for a in asks]

    def _say_one(self, ask: Ask) -> Said | Unsaid:
        try:
            model, processor, same = self._load()
        except AgentUnavailable as e:
            return Unsaid("unavailable", e.message)
        return self._say(model, processor, same, ask)

    def _load(self) -> tuple[Any, Any, SameImages]:
        if self._loaded is None:
            from transformers import AutoModelForImageTextToText, AutoProcessor
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            try:
                processor = AutoProcessor.from_pretrained(self.base, trust_remote_code=False)
                model = AutoModelForImageTextToText.from_pretrained(
                    self.base,
                    dtype=getattr(torch, self.dtype),
                    trust_remote_code=False,
                    use_safetensors=True,
                )
                if self.adapter:
                    model = self._adapted(model)
            except (OSError, ValueError, ImportError, RuntimeError) as e:
                raise AgentUnavailable(
                    f"the model cannot be loaded ({type(e).__name__})",
                    hint="curbside fleet check says what is missing",
                ) from e
            model = model.eval().to(self.device)
            self._loaded = model, processor, SameImages(model, processor)
        return self._loaded

    def _adapted(self, model: Any) -> Any:
        """With the adapter; one of another base would else be left out without a word."""
        from peft import PeftModel

        from curbside.agents.finetuning.export import check_base

        try:
            check_base(Path(self.adapter), Path(self.base))
            with warnings.catch_warnings():
                # peft asks transformers under a name that it is going to drop
                warnings.simplefilter("ignore", FutureWarning)
                # what it finds no weights for stays as it was, which is to do nothing
                warnings.filterwarnings("error", message="Found missing adapter keys")
                return PeftModel.from_pretrained(model, self.adapter)
        except UserWarning:
            name = Path(self.adapter).name
            raise AgentUnavailable(
                f"adapter {name} belongs to another base: it holds nothing for layers of "
                f"{Path(self.base).name}",
                hint="name the base that it was made on in the fleet file, or another adapter",
            ) from None
        except UserError as e:
            raise AgentUnavailable(e.message, hint=e.hint) from None

    def _say(self, model: Any, processor: Any, same: SameImages, ask: Ask) -> Said | Unsaid:
        started = time.perf_counter()
        try:
            inputs = self._inputs(processor, same, ask)
            with torch.inference_mode():
                if ask.letters:
                    return self._choose(model, processor, ask, same.featured(inputs), started)
                return self._write(model, processor, ask, inputs, started)
        except torch.OutOfMemoryError:
            return Unsaid("unavailable", "out of memory")
        except Exception as e:  # a prompt that a processor cannot take must not lose a batch
            return Unsaid("internal", type(e).__name__)

    def _inputs(self, processor: Any, same: SameImages, ask: Ask) -> dict[str, Any]:
        pictures = same.pictures(ask.images)
        text = chat_text(processor, ask.system, ask.text, len(pictures))
        inputs = processor(images=pictures, text=text, return_tensors="pt")
        return {
            k: v.to(self.device, getattr(torch, self.dtype))
            if torch.is_floating_point(v)
            else v.to(self.device)
            for k, v in inputs.items()
        }

    def _choose(
        self, model: Any, processor: Any, ask: Ask, inputs: Any, started: float
    ) -> Said | Unsaid:
        ids = [letter_token(processor.tokenizer, x) for x in ask.letters]
        if None in ids or len(set(ids)) < len(ids):
            return Unsaid("internal", "the tokenizer has no token of its own for each letter")
        logits = model(**inputs).logits[0, -1].double()
        over = torch.softmax(logits[ids], 0).cpu().numpy()
        return Said(
            probabilities=tuple(np.asarray(over).tolist()),
            tokens=int(inputs["input_ids"].shape[1]) + 1,
            seconds=time.perf_counter() - started,
            server=_server(),
        )

    def _write(
        self, model: Any, processor: Any, ask: Ask, inputs: Any, started: float
    ) -> Said | Unsaid:
        if ask.temperature > 0:
            torch.manual_seed(ask.seed)
        made = model.generate(
            **inputs,
            max_new_tokens=ask.max_tokens,
            do_sample=ask.temperature > 0,
            temperature=ask.temperature or None,
            output_scores=True,
            return_dict_in_generate=True,
        )
        start = inputs["input_ids"].shape[1]
        tokens = made.sequences[0, start:]
        scores = torch.stack([s[0] for s in made.scores]).double().log_softmax(-1)
        chosen = scores.gather(1, tokens[: len(scores), None])
        text = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Said(
            # nothing constrains this engine: what is no JSON is taken as the answer itself
            text=text if _is_json(text) else json.dumps({"answer": text, "evidence": []}),
            confidence=float(chosen.mean().exp()),
            tokens=int(made.sequences.shape[1]),
            seconds=time.perf_counter() - started,
            server=_server(),
        )


def chat_text(processor: Any, system: str, text: str, images: int) -> str:
    """A prompt in the model's own chat template, up to where its answer begins."""
    content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    turns = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": content},
    ]
    return str(processor.apply_chat_template(turns, add_generation_prompt=True))


def letter_token(tokenizer: Any, letter: str) -> int | None:
    """The one token that a letter is at the start of an answer, or None."""
    ids = tokenizer.encode(letter, add_special_tokens=False)
    return int(ids[-1]) if ids and tokenizer.decode([ids[-1]]).strip() == letter else None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _server() -> str:
    from importlib.metadata import version

    return f"transformers {version('transformers')}"


def open_transformers_agent(
    name: str, spec: TransformersSpec, folder: Path | None = None
) -> VisionAgent:
    """An agent of kind ``transformers`` of a fleet file; the model loads with its first study.

    Raises:
        ConfigError: the prompt or report template is wrong.
    """
    beside = folder or Path()
    prompt, report = load_prompt(spec.prompt, folder), load_report(spec.report, folder)
    base = beside / spec.base if (beside / spec.base).is_dir() else Path(spec.base)
    adapter = beside / spec.adapter if spec.adapter else Path()
    parts = [f"{spec.base} {spec.adapter} {spec.dtype}"]
    # a folder is what its files are; a name is taken at its word
    parts += [json.dumps(tree_digest(p)) for p in (base, adapter) if p != Path() and p.is_dir()]
    engine = TransformersEngine(
        str(base),
        str(adapter) if spec.adapter else "",
        device=spec.device,
        dtype=spec.dtype,
    )
    card = card_of(name, "transformers", spec, content_hash("transformers", *parts))
    return VisionAgent(card, engine, prompt, report, spec.decoding, spec.limits)
