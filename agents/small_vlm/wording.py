"""How questions and answers are put into words, and words into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from curbside.agents.small_vlm.packing import Asked
from curbside.study import Question

__all__ = ["MODALITY", "Wording", "plain", "which_of"]

#: The first is what evaluations ask; the others are learned beside it.
MODALITY = (
    "What kind of image is this?",
    "What imaging modality is this?",
    "How was this image taken?",
)
_YES_NO = {"yes", "no"}


def plain(name: str) -> str:
    """A label's or modality's name as words."""
    return " ".join(name.replace("_", " ").split()).lower()


def which_of(options: Sequence[str]) -> str:
    """A choice in words, its options as they come."""
    return f"Which of: {', '.join(plain(o) for o in options)}?"


class Wording:
    """Prompts and answers as tokens of a tokenizer.

    Args:
        longest: most tokens of a question; what is longer loses its middle.
    """

    def __init__(self, tokenizer: Any, *, longest: int = 160) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        self.end = int(tokenizer.eos_token_id)

    def closed(self, question: Question) -> tuple[int, ...]:
        """A closed question.  Options are listed in order of name: theirs cannot matter."""
        words = [question.text.strip()] if question.text.strip() else []
        if not words or {plain(o) for o in question.options} != _YES_NO:
            words.append(which_of(sorted(question.options)))
        return self.prompt(" ".join(words))

    def prompt(self, text: str) -> tuple[int, ...]:
        """A question in words, ready to be answered."""
        ids, tail = self.tokens(f"\nQuestion: {text.strip()}"), self.tokens("\nAnswer:")
        if len(ids) > self.longest:
            half = self.longest // 2
            ids = ids[:half] + ids[-half:]
        return ids + tail

    def answer(self, text: str) -> tuple[int, ...]:
        """An answer and its end."""
        return (*self.tokens(f" {text.strip()}"), self.end)

    def asked(self, text: str, answer: str) -> Asked:
        """A question and its answer, to learn from."""
        return Asked(self.prompt(text), (self.answer(answer),))

    def words(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without marks."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def tokens(self, text: str) -> tuple[int, ...]:
        """Plain text as tokens; the text of a mark stays text."""
        ids = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(ids)
