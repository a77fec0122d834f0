"""Makes one small VLM of one seed in three stages: align, learn to read, then visual questions.

Every stage leaves a folder of safetensors and is skipped where that is whole and was made of
the same; within a stage a killed run goes on from its last checkpoint.  A stage computes on one
thread, so that its adapter does not say how many the process had.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curbside.agents.device import on_threads
from curbside.agents.small_vlm.aligning import Aligner, settle
from curbside.agents.small_vlm.courses import (
    ALIGNING,
    READING,
    VISUAL,
    Course,
    Took,
    packed_batches,
    run_course,
)
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.lessons import corpus_lessons, drawn, visual_lessons
from curbside.agents.small_vlm.material import Material
from curbside.agents.small_vlm.model import Plan, SmallVlm
from curbside.agents.small_vlm.packing import Group
from curbside.agents.small_vlm.stored import adapted, save_adapter, with_adapter
from curbside.agents.small_vlm.wording import Wording
from curbside.cases import Case
from curbside.storage import new_folder, tree_digest, write_text
from curbside.study import content_hash

__all__ = ["Courses", "Maker"]

#: Raise when the code makes something else of the same inputs.
_FORMAT = 3
_MADE = "made.json"


@dataclass(frozen=True)
class Courses:
    """How long each stage is; the defaults were chosen on ``tune``."""

    align: Course = ALIGNING
    read: Course = READING
    visual: Course = VISUAL
    #: Rounds through the visual questions, and earlier lessons mixed in, as a share of all.
    passes: int = 2
    earlier: float = 0.3


class Maker:
    """Stages of one seed under one folder.

    Args:
        load: gives the base; called when something has to be made.
    """

    def __init__(
        self,
        folder: Path,
        material: Material,
        load: Callable[[], Base],
        *,
        seed: int,
        plan: Plan | None = None,
        courses: Courses | None = None,
    ) -> None:
        self.folder, self.material, self._load, self.seed = folder, material, load, seed
        self.plan, self.courses = plan or Plan(), courses or Courses()

    def read(self) -> Path:
        """The adapter after the corpus's questions; a folder of peft's files."""
        return self._stage("read", self._read_mark, self._learn_to_read)

    def visual(self, name: str, keep: Callable[[Case], bool]) -> Path:
        """The adapter after visual questions too, those that ``keep`` lets through."""
        before = self.read()
        material = self.material.asking(keep)
        mark = self._visual_mark(name, material, before)

        def work(work: Path) -> tuple[Any, Took]:
            base = self._load()
            peft = with_adapter(base, self.plan, before, learning=True)
            lessons = self._mixed(material, base.wording)
            return self._run(peft, lessons, material.features, self.courses.visual, work, name)

        return self._stage(name, mark, work)

    def finished(self, name: str, keep: Callable[[Case], bool] | None) -> bool:
        """Whether :meth:`visual` (:meth:`read` where ``keep`` is None) has nothing to do."""
        before = self.folder / "read"
        if not _is_made(before, self._read_mark) or keep is None:
            return keep is None and _is_made(before, self._read_mark)
        mark = self._visual_mark(name, self.material.asking(keep), before)
        return _is_made(self.folder / name, mark)

    def took(self, *names: str) -> dict[str, Took]:
        """What finished stages took, by name."""
        found = {n: json.loads((self.folder / n / _MADE).read_text("utf-8")) for n in names}
        return {n: Took(**made["took"]) for n, made in found.items()}

    # -- stages ------------------------------------------------------------------------------

    @property
    def _align_mark(self) -> str:
        return self._mark("align", self.material.digest, self.courses.align)

    @property
    def _read_mark(self) -> str:
        return self._mark("read", self._align_mark, self.courses.read)

    def _visual_mark(self, name: str, material: Material, before: Path) -> str:
        learned = {k: v for k, v in tree_digest(before).items() if k != _MADE}
        return self._mark(name, material.asked_digest, self.courses.visual, learned)

    def _learn_to_read(self, work: Path) -> tuple[Any, Took]:
        cases, courses = self.material.cases, self.courses
        features = self.material.features[: len(cases)]
        model, wording = self._model()
        self._aligned(model, wording, features)
        # whether the projector was aligned just now or earlier must not show in the adapter
        torch.manual_seed(self.seed)
        peft = adapted(model)
        course = drawn(cases, courses.read.count, self.seed + 1)
        lessons = corpus_lessons(cases, course, wording, self.seed)
        return self._run(peft, lessons, features, courses.read, work, "learning to read")

    def _aligned(self, model: SmallVlm, wording: Wording, features: Tensor) -> None:
        from safetensors.torch import load_file, save_file

        out, course, mark = self.folder / "align", self.courses.align, self._align_mark

        if not _is_made(out, mark):
            self._begin("align", mark)
            targets = settle(model, self.material.cases, features, wording)

            def collate(rows: list[int]) -> dict[str, Any]:
                shown = {"truth": targets.truth[rows], "allowed": targets.allowed[rows]}
                return {"features": features[rows].float(), **shown}

            took = run_course(
                Aligner(model, targets.states),
                drawn(self.material.cases, course.count, self.seed),
                collate,
                course,
                self.folder / "align-work",
                seed=self.seed,
                label=f"seed {self.seed}: aligning",
            )
            with new_folder(out) as folder:
                save_file(model.projector.state_dict(), str(folder / "projector.safetensors"))
                _say_made(folder, mark, took)
            shutil.rmtree(self.folder / "align-work", ignore_errors=True)
            model.projector.cpu()  # the Trainer moved it alone
        model.projector.load_state_dict(load_file(str(out / "projector.safetensors")))

    def _mixed(self, material: Material, wording: Wording) -> list[Group]:
        courses = self.courses
        rows = {c.id: r for c, r in zip(material.questions, material.rows, strict=True)}
        new = visual_lessons(
            material.questions, lambda c: rows[c.id], wording, self.seed, passes=courses.passes
        )
        questions = sum(len(g.questions) for g in new)
        # two questions each: VQA-RAD calls every radiograph an X-ray, and without the modality
        # asked of every earlier image that name spreads to where it is wrong
        count = round(questions * courses.earlier / (1 - courses.earlier) / 2)
        course = drawn(material.cases, count, self.seed + 2)
        mixed = new + corpus_lessons(material.cases, course, wording, self.seed, modality_too=1.0)
        random.Random(self.seed).shuffle(mixed)
        return mixed

    def _run(
        self,
        peft: Any,
        lessons: Sequence[Group],
        features: Tensor,
        course: Course,
        work: Path,
        label: str,
    ) -> tuple[Any, Took]:
        rows, collate = packed_batches(lessons, features, self.plan.visual)
        label = f"seed {self.seed}: {label}"
        return peft, run_course(peft, rows, collate, course, work, seed=self.seed, label=label)

    # -- what is made once --------------------------------------------------------------------

    def _model(self) -> tuple[SmallVlm, Wording]:
        base = self._load()
        torch.manual_seed(self.seed)
        return base.fresh(self.plan), base.wording

    def _stage(self, name: str, mark: str, work: Callable[[Path], tuple[Any, Took]]) -> Path:
        out = self.folder / name
        if not _is_made(out, mark):
            self._begin(name, mark)
            with on_threads(1):
                peft, took = work(self.folder / f"{name}-work")
            with new_folder(out) as folder:
                save_adapter(peft, folder)
                _say_made(folder, mark, took)
            shutil.rmtree(self.folder / f"{name}-work", ignore_errors=True)
        return out

    def _begin(self, name: str, mark: str) -> None:
        """Checkpoints of another course are not gone on from."""
        work = self.folder / f"{name}-work"
        note = work / "course"
        if work.is_dir() and (not note.is_file() or note.read_text("utf-8") != mark):
            shutil.rmtree(work)
        write_text(note, mark)

    def _mark(self, name: str, *parts: Any) -> str:
        known = [asdict(p) if isinstance(p, Course) else p for p in parts]
        own = [_FORMAT, name, self.seed, asdict(self.plan), self.courses.passes]
        return content_hash(json.dumps([own, known, self.courses.earlier], sort_keys=True))


def _say_made(folder: Path, mark: str, took: Took) -> None:
    made = {"mark": mark, "files": tree_digest(folder), "took": asdict(took)}
    (folder / _MADE).write_text(json.dumps(made), encoding="utf-8")


def _is_made(folder: Path, mark: str) -> bool:
    try:
        made = json.loads((folder / _MADE).read_text(encoding="utf-8"))
        files = tree_digest(folder)
    except (OSError, ValueError):
        return False
    files.pop(_MADE, None)
    return isinstance(made, dict) and made.pop("took", None) is not None and made == {
        "mark": mark, "files": files,
    }  # fmt: skip
