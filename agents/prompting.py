"""Prompts from versioned template files; text from outside goes in as data and as nothing else.

Questions, options, context and tags are written by others, and so may an attacker's text
be.  Each is stripped of control characters, cut, and put in as a JSON string in which
``<``, ``>``, ``[``, ``]`` and ``|`` are escaped, so that no special token of a model and no
image placeholder can be spelled in it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from curbside.config import load_model, model_digest
from curbside.errors import ConfigError

__all__ = ["LETTERS", "PromptTemplate", "as_data", "clean", "load_prompt", "open_schema"]

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SHIPPED = Path(__file__).parent / "prompts"
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>[]|"}
#: Control, format (zero width, direction), surrogate, private use, unassigned.
_DROPPED = ("Cc", "Cf", "Cs", "Co", "Cn")


def clean(text: str, most: int) -> str:
    """Text without control characters, white space made one space, cut to ``most`` characters."""
    # cut first as well: a gigabyte is not walked through character by character
    spaced = "".join(" " if c in "\t\n\r\v\f\x85" else c for c in text[: 4 * most])
    kept = "".join(c for c in spaced if unicodedata.category(c) not in _DROPPED)
    return " ".join(kept.split())[:most]


def as_data(value: Any) -> str:
    """A value as JSON in which no special token can be spelled."""
    written = json.dumps(value, ensure_ascii=False)
    # brackets and bars of JSON itself stay; only those inside strings are escaped
    return written if not isinstance(value, str) else written.translate(_ESCAPED)


class PromptTemplate(BaseModel):
    """A prompt template: ``$question``, ``$context``, ``$tags`` and ``$options`` are filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    system: str
    closed: str
    open: str
    default_question: str = Field(min_length=1)

    @model_validator(mode="after")
    def _places(self) -> Self:
        known = {"question", "context", "tags", "options"}
        for part, needed in (("closed", {"question", "options"}), ("open", {"question"})):
            found = set(Template(getattr(self, part)).get_identifiers())
            if not needed <= found <= known:
                raise ValueError(
                    f"{part} must hold {', '.join('$' + n for n in sorted(needed))} and may hold "
                    f"{', '.join('$' + n for n in sorted(known - needed))}; it holds "
                    f"{', '.join('$' + n for n in sorted(found)) or 'none'}"
                )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the template; part of every fingerprint."""
        return model_digest(self)

    def ask_closed(
        self,
        question: str,
        options: Sequence[str],
        *,
        context: str = "",
        tags: Mapping[str, str] | None = None,
        most: int,
    ) -> str:
        """The user's turn of a closed question; options get letters in the order given."""
        lettered = ", ".join(
            f'"{letter}": {as_data(clean(option.replace("_", " "), most))}'
            for letter, option in zip(LETTERS, options, strict=False)
        )
        filled = self._data(question, context, tags or {}, most)
        return Template(self.closed).substitute(filled, options="{" + lettered + "}")

    def ask_open(
        self,
        question: str,
        *,
        context: str = "",
        tags: Mapping[str, str] | None = None,
        most: int,
    ) -> str:
        """The user's turn of an open question."""
        return Template(self.open).substitute(self._data(question, context, tags or {}, most))

    def _data(
        self, question: str, context: str, tags: Mapping[str, str], most: int
    ) -> dict[str, str]:
        pairs = ", ".join(
            f"{as_data(clean(k, 64))}: {as_data(clean(v, most))}" for k, v in sorted(tags.items())
        )
        return {
            "question": as_data(clean(question, most) or self.default_question),
            "context": as_data(clean(context, most)),
            "tags": "{" + pairs + "}",
        }


def open_schema(most: int) -> dict[str, Any]:
    """JSON Schema that an open answer is held to."""
    return {
        "type": "object",
        "properties": {
            "answer": {"type": "string", "minLength": 1, "maxLength": most},
            "evidence": {
                "type": "array",
                "items": {"type": "string", "maxLength": 200},
                "maxItems": 4,
            },
        },
        "required": ["answer", "evidence"],
        "additionalProperties": False,
    }


def shipped(folder: Path) -> dict[str, Path]:
    """Versioned files of a folder, by name."""
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def versioned_file(kind: str, name: str, folder: Path, beside: Path | None) -> Path:
    """A file that ships, or one beside the fleet's.  Raises ConfigError when it is neither."""
    known = shipped(folder)
    path = known.get(name) or (beside or Path()) / name
    if not path.is_file():
        raise ConfigError(
            f"{kind} {name!r} is neither one that ships ({', '.join(known)}) nor a file",
            hint="name one of these, or the path of a file beside the fleet file",
        )
    return path


def load_prompt(name: str, beside: Path | None = None) -> PromptTemplate:
    """A prompt template by name or path.  Raises ConfigError."""
    path = versioned_file("prompt", name, _SHIPPED, beside)
    return load_model(PromptTemplate, path, hint=f"edit {path.name}, or take one that ships")
