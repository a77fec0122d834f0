"""The console's palette and marks, in one place, and the style sheet made from them.

Every state has a shape, a word and a colour, so that no one of the three carries it alone:
colours are told apart in the common forms of colour blindness (Okabe & Ito 2008, darkened or
lightened until text on the page's ground has a contrast of at least 4.5 to 1).  No state is
green, and what was not analysed is drawn hollow and dashed: it can not be taken for "normal".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from curbside.readings import Status, Tier

__all__ = ["MARKS", "PALETTES", "TIER_WORDS", "Mark", "Palette", "css", "palette"]

Mode = Literal["light", "dark"]


@dataclass(frozen=True)
class Mark:
    """How a status is shown.

    Args:
        glyph: for places that take text alone; shape: for drawings.
        word: always beside either.
        token: name of its colour in :class:`Palette`.
    """

    glyph: str
    shape: Literal["disc", "triangle", "hollow", "square"]
    word: str
    token: str
    meaning: str


MARKS: dict[Status, Mark] = {
    Status.ANSWERED: Mark("●", "disc", "Answered", "answered", "a reader answered"),
    Status.NEEDS_REVIEW: Mark("▲", "triangle", "Needs review", "review", "a person must read it"),
    Status.NOT_ANALYSED: Mark(
        "◌", "hollow", "Not analysed", "unread", "nothing is known of it; this is no negative"
    ),
    Status.QUARANTINED: Mark(
        "■", "square", "Quarantined", "unsafe", "the file is unsafe to open; nothing is known of it"
    ),
}

TIER_WORDS: dict[Tier, str] = {
    Tier.COMMON: "common: familiar, and a specialist exists",
    Tier.RARE: "rare: familiar, thinly supported",
    Tier.NOVEL: "novel: unlike the calibration cases",
}


@dataclass(frozen=True)
class Palette:
    """Colours of one mode, as CSS hex."""

    ground: str
    panel: str
    line: str
    ink: str
    quiet: str
    accent: str
    answered: str
    review: str
    unread: str
    unsafe: str
    series: tuple[str, ...]


PALETTES: dict[Mode, Palette] = {
    "light": Palette(
        ground="#fafbfb",
        panel="#ffffff",
        line="#d7dfe3",
        ink="#18262e",
        quiet="#566871",
        accent="#0e6079",
        answered="#0b5fa5",
        review="#9a4a00",
        unread="#5d5470",
        unsafe="#a01f42",
        series=("#0072b2", "#d55e00", "#00805d", "#b0568a", "#5b6b74", "#2b8cc4", "#a87400"),
    ),
    "dark": Palette(
        ground="#0f161a",
        panel="#141d22",
        line="#2b3a43",
        ink="#e2e9ec",
        quiet="#9aabb4",
        accent="#5fb4cc",
        answered="#74b9f0",
        review="#f2a95c",
        unread="#b9b0cc",
        unsafe="#f08ca0",
        series=("#56b4e9", "#f0954a", "#3cc9a0", "#e0a3c6", "#a3b2ba", "#8fd0f5", "#f2c14e"),
    ),
}

_TOKENS = tuple(f.name for f in fields(Palette) if f.name != "series")
_SHEET = Path(__file__).with_name("console.css")


def palette(mode: str | None) -> Palette:
    """The palette of a mode; light where the browser has not said yet."""
    return PALETTES["dark" if mode == "dark" else "light"]


def css(mode: str | None) -> str:
    """The style sheet with the palette as custom properties."""
    p = palette(mode)
    tokens = "".join(f"--cb-{n}: {getattr(p, n)};" for n in _TOKENS)
    series = "".join(f"--cb-series-{i}: {c};" for i, c in enumerate(p.series))
    return f"<style>:root {{{tokens}{series}}}\n{_SHEET.read_text(encoding='utf-8')}</style>"
