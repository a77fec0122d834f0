"""Makes small VLMs of several seeds, judges them on ``test``, and puts one into the fleet.

Everything is kept under one folder and resumed: stages of training, answers, and the table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from curbside.agents.contract import Agent
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.making import Courses, Maker
from curbside.agents.small_vlm.material import Material, Seen, material_of, seen
from curbside.agents.small_vlm.model import Plan, SmallVlm
from curbside.agents.small_vlm.stored import ADAPTER_FILES, FACTS_FILE, Facts, with_adapter
from curbside.agents.small_vlm.visual import Eyes
from curbside.agents.small_vlm.wording import Wording
from curbside.cases import Case, Cases
from curbside.evals.small_vlm import Row, judge_labels, judge_modality, judge_visual, temperature
from curbside.evals.small_vlm_answers import (
    Labels,
    Modalities,
    Visual,
    kept,
    label_answers,
    modality_answers,
    visual_answers,
)
from curbside.progress import Advance, bar
from curbside.readings import Reading
from curbside.storage import new_folder, tree_digest
from curbside.study import Study, content_hash

if TYPE_CHECKING:
    from torch import Tensor

    from curbside.indexes.features import FeatureSource

__all__ = ["SPLITS", "TIERS", "Judged", "Run"]

TIERS = ("common", "rare")
#: Raise when the questions or how they are asked change.
_FORMAT = 1


def disjoint(case: Case) -> bool:
    """Questions of images that the test split does not show."""
    return case.attributes.get("split") == "train" and case.attributes.get("shared_image") != "yes"


def published(case: Case) -> bool:
    """The published training split, which shares images with its test split."""
    return case.attributes.get("split") == "train"


#: Which visual questions are learned, by the name of the split.
SPLITS: Mapping[str, Callable[[Case], bool]] = {"disjoint": disjoint, "published": published}


@dataclass(frozen=True)
class Judged:
    """What is asked of a finished model: cases of one role, and what is seen of them."""

    cases: Cases
    seen: Seen

    def where(self, keep: Callable[[Case], bool]) -> tuple[list[Case], Tensor]:
        """Some cases whose image can be used, and their features."""
        rows = [i for i, c in enumerate(self.cases) if self.seen.rows[i] >= 0 and keep(c)]
        picked = [self.seen.rows[i] for i in rows]
        return [self.cases[i] for i in rows], self.seen.features[picked]


class Run:
    """Several seeds over one manifest.

    Args:
        folder: where everything is kept.
        questions: visual questions with splits (VQA-RAD), or None where they are not at hand.
        load: gives the language model; called once, when something has to be made or asked.
    """

    def __init__(
        self,
        folder: Path,
        cases: Cases,
        questions: Cases | None,
        source: FeatureSource,
        load: Callable[[], Base],
        *,
        plan: Plan | None = None,
        courses: Courses | None = None,
    ) -> None:
        self.folder, self.cases, self.questions, self.source = folder, cases, questions, source
        self.plan, self.courses = plan or Plan(), courses or Courses()
        self._load = load
        self._judged: dict[str, Judged] = {}

    @cached_property
    def base(self) -> Base:
        """The language model.  Raises MissingExtra, AgentUnavailable."""
        return self._load()

    @cached_property
    def material(self) -> Material:
        """What all seeds learn from."""
        return material_of(self.cases, self.questions, self.source)

    def finished(self, seed: int, name: str = "disjoint") -> Path:
        """The adapter of a seed, made or gone on with where it is not there yet.

        Args:
            name: of ``SPLITS``: which visual questions it learned.
        """
        where = self.folder / f"seed-{seed}"
        maker = Maker(
            where, self.material, lambda: self.base,
            seed=seed, plan=self.plan, courses=self.courses,
        )  # fmt: skip
        if self.questions is None:
            return maker.read()
        return maker.visual(f"visual-{name}", SPLITS[name])

    # -- answers -----------------------------------------------------------------------------

    def modalities(self, seed: int) -> Modalities:
        """Of test cases in the common and rare tiers."""
        _, features = self.judged("test").where(has_known_modality)
        return Modalities(
            **self._ask(seed, "disjoint", "modality", len(features), lambda m, w, advance: (
                modality_answers(m, w, features, self.blank, advance)
            ))
        )  # fmt: skip

    def labels(self, seed: int, role: str = "test") -> Labels:
        """Of cases with a task that was learned."""
        cases, features = self.judged(role).where(self.has_known_task)
        return Labels(
            **self._ask(seed, "disjoint", f"labels-{role}", len(cases), lambda m, w, advance: (
                label_answers(m, w, cases, features, self.blank, advance)
            ))
        )  # fmt: skip

    def visual(self, seed: int, name: str) -> Visual:
        """Of the test questions."""
        cases, features = self.asked.where(is_test)
        return Visual(
            **self._ask(seed, name, "visual", len(cases), lambda m, w, advance: (
                visual_answers(m, w, cases, features, self.blank, advance)
            ))
        )  # fmt: skip

    def has_known_task(self, case: Case) -> bool:
        """Whether a case's options were learned from, in a tier that agents are made for."""
        return case.tier in TIERS and case.label in case.options and case.task in self._tasks

    @cached_property
    def _tasks(self) -> set[str | None]:
        return {c.task for c in self.cases if c.role == "train"}

    @cached_property
    def asked(self) -> Judged:
        """Visual questions."""
        assert self.questions is not None
        return Judged(self.questions, seen(self.questions, self.source, "images of questions"))

    def judged(self, role: str) -> Judged:
        """Cases of a role; what is seen of them is computed once."""
        if role not in self._judged:
            some = self.cases.take(self.cases.where(role=role))
            self._judged[role] = Judged(some, seen(some, self.source, f"images of role {role}"))
        return self._judged[role]

    @cached_property
    def blank(self) -> Tensor:
        """What is seen of a black picture, float16 (1, visual, channels)."""
        black = BytesIO()
        Image.new("RGB", (224, 224)).save(black, "PNG")
        return Eyes().see(self.source.of([Study.from_image(black.getvalue())]))

    def _ask(
        self,
        seed: int,
        name: str,
        part: str,
        count: int,
        ask: Callable[[SmallVlm, Wording, Advance], dict[str, Any]],
    ) -> dict[str, Any]:
        adapter = self.finished(seed, name)
        mark = content_hash(json.dumps([_FORMAT, tree_digest(adapter), count]))

        def make() -> dict[str, Any]:
            model = with_adapter(self.base, self.plan, adapter).base_model.model.eval()
            with bar(f"seed {seed}: {part}", count) as advance:
                return ask(model, self.base.wording, advance)

        return kept(self.folder / f"seed-{seed}" / f"{part}-{name}.json", mark, make)

    # -- the table and the agent ---------------------------------------------------------------

    def table(self, seeds: Sequence[int], beside: Mapping[str, Agent]) -> list[Row]:
        """Every line of the report, over all seeds.

        Args:
            beside: agents whose accuracy on the label questions is printed too.
        """
        cases, _ = self.judged("test").where(has_known_modality)
        said = [self.modalities(s) for s in seeds]
        rows = []
        for tier in TIERS:
            at = [i for i, c in enumerate(cases) if c.tier == tier]
            some = [replace(s, said=[s.said[i] for i in at]) for s in said]
            rows.append(judge_modality([cases[i] for i in at], some, f"modality, {tier}"))
        cases, _ = self.judged("test").where(self.has_known_task)
        labels = [self.labels(s) for s in seeds]
        others = {k: _right(a, cases) for k, a in beside.items()}
        rows.append(judge_labels(cases, labels, "label", beside=others))
        if self.questions is None:
            return rows
        asked, _ = self.asked.where(is_test)
        for name in SPLITS:
            answers = [self.visual(s, name) for s in seeds]
            for kind in ("closed", "open"):
                at = [i for i, c in enumerate(asked) if bool(c.options) == (kind == "closed")]
                some_asked = [asked[i] for i in at]
                some_said = [
                    Visual(*([getattr(v, f.name)[i] for i in at] for f in fields(Visual)))
                    for v in answers
                ]
                title = f"VQA-RAD {kind}, {name}"
                rows.append(judge_visual(some_asked, some_said, title))
                if kind == "open":
                    rows.append(judge_visual(some_asked, some_said, f"{title}, F1", f1=True))
        return rows

    def agent(self, seed: int) -> Path:
        """The folder of an agent, with a temperature fitted on ``tune``; named by its content."""
        adapter = self.finished(seed)
        cases, _ = self.judged("tune").where(self.has_known_task)
        fitted = temperature(cases, self.labels(seed, "tune").said)
        files = {k: v for k, v in tree_digest(adapter).items() if k in ADAPTER_FILES}
        facts = Facts(
            plan=asdict(self.plan),
            language=self.base.name,
            encoder=self.source.fingerprint,
            temperature=round(fitted, 4),
            fitted_on=len(cases),
            files=files,
        )
        text = facts.model_dump_json(indent=1) + "\n"
        out = self.folder / f"agent-{content_hash(text)[:16]}"
        if not (out / FACTS_FILE).is_file():
            with new_folder(out) as folder:
                for name in files:
                    shutil.copyfile(adapter / name, folder / name)
                (folder / FACTS_FILE).write_text(text, encoding="utf-8")
        return out

    def facts(self, seeds: Sequence[int]) -> dict[str, str]:
        """What the table was made of, for its reader."""
        material, courses = self.material, self.courses
        return {
            "language model": self.base.name,
            "visual tokens": f"{self.plan.visual}, seen from layer {self.plan.entry} on",
            "seeds": ", ".join(map(str, seeds)),
            "images to learn from": str(len(material.cases)),
            "lessons": f"{courses.align.count} to align, {courses.read.count} to read, "
            f"{courses.passes} rounds of visual questions with "
            f"{100 * courses.earlier:.0f} % earlier ones",
        }


def has_known_modality(case: Case) -> bool:
    """Whether a case's modality was learned."""
    return case.tier in TIERS and bool(case.modality)


def is_test(case: Case) -> bool:
    """The published test split."""
    return case.attributes.get("split") == "test"


def _right(agent: Agent, cases: Sequence[Case]) -> list[bool]:
    said = agent.read_batch([c.study() for c in cases])
    return [
        isinstance(r, Reading) and r.answer == c.label for r, c in zip(said, cases, strict=True)
    ]
