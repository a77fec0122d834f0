"""Lessons as prompt, images and completion: word for word what the agent is asked later.

The prompt is that of :class:`curbside.agents.vision.VisionAgent` with the same template, the
images go through the same limits, and the completion is what its decoding expects: one letter
for a closed question, a JSON object for an open one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from curbside.agents.finetuning.material import Lesson, Material
from curbside.agents.fleet_spec import Limits
from curbside.agents.pictures import encoded, shown
from curbside.agents.prompting import LETTERS, PromptTemplate
from curbside.agents.transformers_agent import chat_text
from curbside.errors import CasesError

__all__ = ["dialogues", "told"]


def told(
    material: Material, lesson: Lesson, prompt: PromptTemplate, limits: Limits
) -> tuple[str, str]:
    """The user's turn and the answer.

    Options stand in an order that the case's id and the seed choose, so that over many cases
    every letter is right equally often.
    """
    case = material.cases[lesson.row]
    study = case.study()
    said: dict[str, Any] = {"context": study.context, "tags": study.tags, "most": limits.text}
    if not lesson.options:
        answer = json.dumps({"answer": lesson.answer, "evidence": []}, ensure_ascii=False)
        return prompt.ask_open(lesson.question, **said), answer
    names = sorted(lesson.options)
    shift = int(np.random.default_rng([material.seed, *case.id.encode()]).integers(len(names)))
    order = names[shift:] + names[:shift]
    text = prompt.ask_closed(lesson.question, order, **said)
    return text, LETTERS[order.index(lesson.answer)]


def dialogues(
    material: Material,
    lessons: Sequence[Lesson],
    processor: Any,
    prompt: PromptTemplate,
    limits: Limits,
) -> Any:
    """A ``datasets.Dataset`` for trl: prompt, completion, images; images are opened when asked.

    Raises:
        CasesError: a question with more options than there are letters.
    """
    from datasets import Dataset

    many = sorted({x.task for x in lessons if len(x.options) > len(LETTERS)})
    if many:
        raise CasesError(
            f"task {many[0]!r} has more than {len(LETTERS)} options; a vision-language model "
            "chooses among letters",
            hint="split the task, or leave it out of the manifest",
        )
    first = _first_tokens(processor.tokenizer)
    end = processor.tokenizer.eos_token or ""
    rows: dict[str, list[Any]] = {"row": [], "prompt": [], "completion": []}
    for lesson in lessons:
        text, answer = told(material, lesson, prompt, limits)
        images = len(shown(material.cases[lesson.row].study(), limits.images))
        rows["row"].append(lesson.row)
        rows["prompt"].append(first + chat_text(processor, prompt.system, text, images))
        rows["completion"].append(answer + end)
    return Dataset.from_dict(rows).with_transform(_with_images(material, limits))


def _with_images(material: Material, limits: Limits) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def opened(batch: dict[str, Any]) -> dict[str, Any]:
        images = []
        for row in batch["row"]:
            study = material.cases[row].study()
            images.append(
                [Image.open(io.BytesIO(raw)).convert("RGB") for raw in encoded(study, limits)]
            )
        return {"prompt": batch["prompt"], "completion": batch["completion"], "images": images}

    return opened


def _first_tokens(tokenizer: Any) -> str:
    """What a tokenizer puts before every text by itself, which trl asks it not to."""
    bare = tokenizer("x", add_special_tokens=False)["input_ids"]
    full = tokenizer("x")["input_ids"]
    extra = full[: len(full) - len(bare)] if full[-len(bare) :] == bare else []
    return str(tokenizer.decode(extra)) if extra else ""
