"""Report drafts as a structured template: every sentence cites a reading, or it is not written.

A template asks closed questions and has a sentence for each answer.  The model only
chooses options; not a word of the draft is its own, so there is nothing to make up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbside.agents.prompting import versioned_file
from curbside.config import load_model, model_digest
from curbside.readings import Reading, Sentence

__all__ = ["Item", "ReportTemplate", "draft", "load_report", "unsupported"]

_SHIPPED = Path(__file__).parent / "reports"


class Item(BaseModel):
    """One question of a template, and the sentence that each answer becomes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    section: str
    question: str
    sentences: dict[str, str] = Field(min_length=2)

    @property
    def options(self) -> tuple[str, ...]:
        """The answers to choose from."""
        return tuple(self.sentences)


class ReportTemplate(BaseModel):
    """A report template.  Below ``sure_from`` the draft says ``unsure`` in place of a finding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    sure_from: float = Field(ge=0, le=1)
    unsure: str
    items: tuple[Item, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _place(self) -> Self:
        if "{question}" not in self.unsure:
            raise ValueError("unsure must hold {question}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the template."""
        return model_digest(self)

    def sentence(self, item: Item, reading: Reading) -> str:
        """What the draft says of an item that was read so."""
        if reading.confidence < self.sure_from:
            return self.unsure.replace("{question}", item.question)
        return item.sentences[reading.answer]


def load_report(name: str, beside: Path | None = None) -> ReportTemplate:
    """A report template by name or path.  Raises ConfigError."""
    path = versioned_file("report", name, _SHIPPED, beside)
    return load_model(ReportTemplate, path, hint=f"edit {path.name}, or take one that ships")


def draft(template: ReportTemplate, parts: Sequence[Reading]) -> tuple[Sentence, ...]:
    """The sentences of a draft; ``parts`` are the readings of the template's items, in order."""
    return tuple(
        Sentence(section=item.section, text=template.sentence(item, part), cites=(i,))
        for i, (item, part) in enumerate(zip(template.items, parts, strict=True))
    )


def unsupported(template: ReportTemplate, reading: Reading) -> list[str]:
    """Sentences of a draft that no cited reading supports; empty is what is promised.

    A sentence is supported when it is word for word what the template says for the answer
    of a reading that it cites.
    """
    bad = []
    for sentence in reading.sentences:
        said = {
            template.sentence(template.items[i], reading.parts[i])
            for i in sentence.cites
            if 0 <= i < min(len(reading.parts), len(template.items))
        }
        if sentence.text not in said:
            bad.append(sentence.text)
    told = "\n".join(f"{s.section}: {s.text}" for s in reading.sentences)
    return bad if told == reading.text else [*bad, reading.text]
