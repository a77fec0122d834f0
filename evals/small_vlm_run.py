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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image

from curbside.agents.contract import Agent
from curbside.agents.finetuning.card import write_card
from curbside.agents.small_vlm.cards import made_card
from curbside.agents.small_vlm.language import Base
from curbside.agents.small_vlm.making import Courses, Maker
from curbside.agents.small_vlm.material import Material, Seen, material_of, seen
from curbside.agents.small_vlm.model import Plan, SmallVlm
from curbside.agents.small_vlm.stored import ADAPTER_FILES, FACTS_FILE, Facts, with_adapter
from curbside.agents.small_vlm.visual import Eyes
from curbside.agents.small_vlm.wording import Wording
from curbside.cases import Case, Cases, read_cases
from curbside.evals.small_vlm import (
    CONTROLS,
    Row,
    judge_labels,
    judge_modality,
    judge_visual,
    temperature,
)
from curbside.evals.small_vlm_answers import (
    Labels,
    Modalities,
    Visual,
    kept,
    known,
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

    from curbside.config import EncoderConfig
    from curbside.indexes.features import FeatureSource

__all__ = ["SPLITS", "TIERS", "Judged", "Part", "Run", "open_run"]

TIERS = ("common", "rare")
#: Raise when the questions or how they are asked change.
_FORMAT = 2
#: What serves, and is asked of the corpus: it has seen no image of any test.
_SERVES = "disjoint"


def disjoint(case: Case) -> bool:
    """Questions of images that the test split does not show."""
    return case.attributes.get("split") == "train" and case.attributes.get("shared_image") != "yes"


def published(case: Case) -> bool:
    """The published training split, which shares images with its test split."""
    return case.attributes.get("split") == "train"


#: Which visual questions are learned, by the name of the split.
SPLITS: Mapping[str, Callable[[Case], bool]] = {"disjoint": disjoint, "published": published}


class Part(NamedTuple):
    """What is made in one go: an adapter, or its answers to one kind of question.

    Args:
        on: the split of the visual questions, or the role of the cases.
    """

    seed: int
    what: Literal["adapter", "modality", "labels", "visual"]
    on: str

    @property
    def needs(self) -> tuple[Part, ...]:
        """What must be there before it can begin."""
        first = Part(self.seed, "adapter", _SERVES)
        if self.what == "adapter":  # all stand on what the first has read
            return () if self == first else (first,)
        return (Part(self.seed, "adapter", self.on),) if self.what == "visual" else (first,)


@dataclass(frozen=True)
class Judged:
    """What is asked of a finished model: cases of one role, and what is seen of them."""

    cases: Cases
    seen: Seen

    @cached_property
    def mark(self) -> str:
        """Hash of the cases and their images."""
        return content_hash(self.cases.digest, *self.seen.digests)

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
        maker = self._maker(seed)
        if self.questions is None:
            return maker.read()
        return maker.visual(f"visual-{name}", SPLITS[name])

    def _maker(self, seed: int) -> Maker:
        return Maker(
            self.folder / f"seed-{seed}", self.material, lambda: self.base,
            seed=seed, plan=self.plan, courses=self.courses,
        )  # fmt: skip

    # -- parts -------------------------------------------------------------------------------

    def parts(self, seeds: Sequence[int]) -> list[Part]:
        """All that :meth:`table` and :meth:`agent` stand on, what takes longest first."""
        out = [Part(s, "adapter", _SERVES) for s in seeds]
        visual = [] if self.questions is None else list(SPLITS)
        out += [Part(s, "adapter", n) for s in seeds for n in visual if n != _SERVES]
        out += [Part(s, "visual", n) for n in visual for s in seeds]
        out += [Part(s, "labels", "test") for s in seeds]
        out += [Part(s, "modality", "test") for s in seeds]
        return [*out, *(Part(s, "labels", "tune") for s in seeds[:1])]

    def missing(self, seeds: Sequence[int]) -> list[Part]:
        """Those that are not there, or were made of something else."""
        return [p for p in self.parts(seeds) if not self._has(p)]

    def make(self, part: Part) -> None:
        """Make a part, where it is not there."""
        if part.what == "adapter":
            self.finished(part.seed, part.on)
        elif part.what == "modality":
            self.modalities(part.seed)
        elif part.what == "labels":
            self.labels(part.seed, part.on)
        else:
            self.visual(part.seed, part.on)

    def _has(self, part: Part) -> bool:
        on = part.on if part.what in ("adapter", "visual") else _SERVES
        keep = None if self.questions is None else SPLITS[on]
        if not self._maker(part.seed).finished(f"visual-{on}", keep):
            return False
        if part.what == "adapter":
            return True
        judged = self.asked if part.what == "visual" else self.judged(part.on)
        what = f"labels-{part.on}" if part.what == "labels" else part.what
        path, mark = self._place(part.seed, on, what, judged, self.finished(part.seed, on))
        return known(path, mark) is not None

    # -- answers -----------------------------------------------------------------------------

    def modalities(self, seed: int) -> Modalities:
        """Of test cases in the common and rare tiers."""
        test = self.judged("test")
        _, features = test.where(has_known_modality)
        return Modalities(
            **self._ask(seed, _SERVES, "modality", test, len(features), lambda m, w, advance: (
                modality_answers(m, w, features, self.blank, advance)
            ))
        )  # fmt: skip

    def labels(self, seed: int, role: str = "test") -> Labels:
        """Of cases with a task that was learned."""
        judged = self.judged(role)
        cases, features = judged.where(self.has_known_task)
        return Labels(
            **self._ask(seed, _SERVES, f"labels-{role}", judged, len(cases), lambda m, w, advance: (
                label_answers(m, w, cases, features, self.blank, advance)
            ))
        )  # fmt: skip

    def visual(self, seed: int, name: str) -> Visual:
        """Of the test questions."""
        cases, features = self.asked.where(is_test)
        return Visual(
            **self._ask(seed, name, "visual", self.asked, len(cases), lambda m, w, advance: (
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
        judged: Judged,
        count: int,
        ask: Callable[[SmallVlm, Wording, Advance], dict[str, Any]],
    ) -> dict[str, Any]:
        adapter = self.finished(seed, name)
        path, mark = self._place(seed, name, part, judged, adapter)

        def make() -> dict[str, Any]:
            model = with_adapter(self.base, self.plan, adapter).base_model.model.eval()
            with bar(f"seed {seed}: {part}", count) as advance:
                return ask(model, self.base.wording, advance)

        return kept(path, mark, make)

    def _place(
        self, seed: int, name: str, part: str, judged: Judged, adapter: Path
    ) -> tuple[Path, str]:
        """Where answers are kept, and a hash of what they depend on."""
        mark = content_hash(json.dumps([_FORMAT, _weights(adapter), judged.mark]))
        return self.folder / f"seed-{seed}" / f"{part}-{name}.json", mark

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
        others = {k: self._right(k, a, cases) for k, a in beside.items()}
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

    def _right(self, name: str, agent: Agent, cases: Sequence[Case]) -> list[bool]:
        def make() -> dict[str, Any]:
            said = agent.read_batch([c.study() for c in cases])
            pairs = zip(said, cases, strict=True)
            return {"right": [isinstance(r, Reading) and r.answer == c.label for r, c in pairs]}

        mark = content_hash(agent.card.fingerprint, self.judged("test").mark)
        right: list[bool] = kept(self.folder / f"beside-{name}.json", mark, make)["right"]
        return right

    def agent(self, seed: int, rows: Sequence[Row] = ()) -> Path:
        """The folder of an agent, with a temperature fitted on ``tune``; named by its content.

        Args:
            rows: the table, for the agent's card.
        """
        adapter = self.finished(seed)
        cases, _ = self.judged("tune").where(self.has_known_task)
        fitted = temperature(cases, self.labels(seed, "tune").said)
        files = _weights(adapter)
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
        maker, serves = self._maker(seed), self.questions is not None
        stages = ("align", "read", *([f"visual-{_SERVES}"] if serves else []))
        card = made_card(
            maker, self.base, self.material.asking(SPLITS[_SERVES]),
            with_adapter(self.base, self.plan, adapter, learning=True),
            stages, self.cases.path.name, {"temperature": fitted} | _metrics(rows),
        )  # fmt: skip
        write_card(card, out)
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


def open_run(
    folder: Path,
    cases: Path,
    questions: Path | None,
    encoder: EncoderConfig,
    cache: Path,
    courses: Courses,
    load: Callable[[], Base],
    plan: Plan | None = None,
) -> Run:
    """A run from what another process can be told.

    Args:
        cases, questions: manifests.
        cache: folder of the encoder's features.
    """
    from curbside.indexes.encoder import load_encoder
    from curbside.indexes.features import FeatureSource

    asked = None if questions is None else read_cases(questions)
    source = FeatureSource(load_encoder(encoder, cache), folder=cache)
    return Run(folder, read_cases(cases), asked, source, load, plan=plan, courses=courses)


def has_known_modality(case: Case) -> bool:
    """Whether a case's modality was learned."""
    return case.tier in TIERS and bool(case.modality)


def is_test(case: Case) -> bool:
    """The published test split."""
    return case.attributes.get("split") == "test"


def _weights(adapter: Path) -> dict[str, str]:
    """SHA-256 of an adapter's own files; what making it took is none of it."""
    return {k: v for k, v in tree_digest(adapter).items() if k in ADAPTER_FILES}


def _metrics(rows: Sequence[Row]) -> dict[str, float]:
    """Shares right on ``test`` over all seeds, for a card; not of other adapters."""
    out: dict[str, float] = {}
    for row in rows:
        if "published" in row.name:
            continue
        value, low, high = row.value
        out |= {f"{row.name}": value, f"{row.name}, 95 % from": low, f"{row.name}, to": high}
        out |= {f"{row.name}, seed {i}": s for i, s in enumerate(row.seeds)}
        out |= {f"{row.name}, {k}": row.controls[k][0] for k in CONTROLS}
    return {k: round(v, 4) for k, v in out.items()}
