"""How fast the small VLM learns and answers on this machine, on made-up images.

Speed does not depend on what the images show, so nothing but the language model is needed.
Lessons are the corpus's in kind: a dozen modalities with tasks of two to five labels.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from curbside.agents.device import torch_device
from curbside.agents.finetuning.export import machine
from curbside.agents.small_vlm.courses import READING, packed_batches, run_course
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.lessons import corpus_lessons, drawn
from curbside.agents.small_vlm.model import Plan
from curbside.agents.small_vlm.packing import pack
from curbside.agents.small_vlm.speaking import compare
from curbside.agents.small_vlm.stored import adapted
from curbside.agents.small_vlm.wording import plain
from curbside.cases import Case
from curbside.study import Question

__all__ = ["SmallVlmBench", "bench_small_vlm"]

_MODALITIES = (
    "cxr", "ct_abdomen", "ct_chest", "mri_brain", "us_breast", "fundus", "oct", "dermoscopy",
    "histopathology", "cytology", "blood_smear", "xray_msk",
)  # fmt: skip
_LABELS = ("normal", "benign", "malignant", "inflamed", "fractured")
_IMAGES = 240
_ANSWERED = 64
_WARM = 8


@dataclass(frozen=True)
class SmallVlmBench:
    """Results.

    Args:
        machine, device: in words.
        lessons, tokens: that were learned, without padding, in ``seconds``.
        peak_mib: greatest memory of the training: of the GPU where there is one.
        answers_rate: closed questions of four options answered a second, eight images at once.
    """

    machine: str
    device: str
    lessons: int
    tokens: int
    seconds: float
    peak_mib: float
    answers_rate: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, with rates."""
        rates = {"lessons_rate": self.lessons / self.seconds}
        return {**asdict(self), **rates, "tokens_rate": self.tokens / self.seconds}


def bench_small_vlm(base: Base, plan: Plan, *, lessons: int) -> SmallVlmBench:
    """Measure; the first rows of the course are learned once before, unmeasured."""
    cases, wording = _cases(), base.wording
    torch.manual_seed(0)
    features = torch.randn(len(cases), plan.visual, plan.channels).half()
    model = adapted(base.fresh(plan))
    learned = corpus_lessons(cases, drawn(cases, lessons, 0), wording, 0)
    rows, collate = packed_batches(learned, features, plan.visual)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, some in (("warming up", rows[:_WARM]), ("learning", rows)):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            took = run_course(
                model, some, collate, READING, folder / part.split()[0], seed=0, label=part
            )
    return SmallVlmBench(
        machine=machine(),
        device=str(torch_device()),
        lessons=len(learned),
        tokens=sum(pack([row], plan.visual).tokens for row in rows),
        seconds=took.seconds,
        peak_mib=took.peak_mib,
        answers_rate=_answers_rate(model.base_model.model.eval(), wording, features),
    )


def _answers_rate(model: Any, wording: Any, features: torch.Tensor) -> float:
    options = _LABELS[:4]
    prompt, answers = wording.closed(Question(options)), [wording.answer(o) for o in options]
    compare(model, features[:8], prompt, answers)
    started = time.perf_counter()
    for at in range(0, _ANSWERED, 8):
        compare(model, features[at : at + 8], prompt, answers)
    return _ANSWERED / (time.perf_counter() - started)


def _cases() -> list[Case]:
    made = []
    for i in range(_IMAGES):
        modality = _MODALITIES[i % len(_MODALITIES)]
        options = _LABELS[: 2 + i % len(_MODALITIES) % 4]
        made.append(
            Case(id=str(i), image=Path(f"{i}.png"), modality=modality, role="train",
                 label=options[i // len(_MODALITIES) % len(options)], options=options,
                 task=f"which {plain(modality)}")
        )  # fmt: skip
    return made
