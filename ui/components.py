"""Pieces of the page as HTML strings: marks, tags, banners, states.  Plain data in, text out.

Everything that comes from a case, a file or a model is escaped here; nothing else in ``ui``
writes HTML.  Knows no Streamlit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from curbside import RESEARCH_USE
from curbside.readings import Status
from curbside.ui.theme import MARKS

__all__ = [
    "banner",
    "error_state",
    "glyph",
    "mark",
    "row",
    "shape",
    "state",
    "table",
    "tag",
    "text",
]

_CLASS = {
    Status.ANSWERED: "answered",
    Status.NEEDS_REVIEW: "review",
    Status.NOT_ANALYSED: "unread",
    Status.QUARANTINED: "unsafe",
}


def text(value: object) -> str:
    """Escaped for HTML."""
    return escape(str(value), quote=True)


def css_class(status: Status) -> str:
    """The part of a class name that stands for a status."""
    return _CLASS[status]


def glyph(status: Status) -> str:
    """Shape and word, for places that take no HTML."""
    found = MARKS[status]
    return f"{found.glyph} {found.word}"


def shape(status: Status) -> str:
    """The status's shape in the current colour, drawn by the style sheet."""
    return f'<i class="cb-shape cb-{MARKS[status].shape}" aria-hidden="true"></i>'


def mark(status: Status, note: str = "") -> str:
    """Shape, word and colour of a status; ``note`` follows in quiet text."""
    found = MARKS[status]
    more = f' <span class="cb-quiet cb-small" style="font-weight:400">{text(note)}</span>'
    return (
        f'<span class="cb-mark cb-{_CLASS[status]}" title="{text(found.meaning)}">{shape(status)}'
        f"{found.word}{more if note else ''}</span>"
    )


def tag(word: str, *, provisional: bool = False) -> str:
    """A small framed word."""
    kind = " cb-provisional" if provisional else ""
    return f'<span class="cb-tag{kind}">{text(word)}</span>'


def banner(*, phantoms: bool = False, note: str = "") -> str:
    """The research-use notice that stands on every page."""
    more = " Phantoms: generated pictures, of nobody." if phantoms else ""
    return (
        f'<div class="cb-banner" role="note"><b>{text(RESEARCH_USE)}</b>{text(more)}'
        f"{' ' + text(note) if note else ''}</div>"
    )


def state(title: str, body: str, command: str = "") -> str:
    """An empty or waiting page says what is missing and the next thing to do."""
    next_step = f"<br><code>{text(command)}</code>" if command else ""
    return f'<div class="cb-state" role="status"><b>{text(title)}</b>{text(body)}{next_step}</div>'


def error_state(title: str, body: str, command: str = "") -> str:
    """What went wrong, and the next command."""
    next_step = f"<br>next: <code>{text(command)}</code>" if command else ""
    return (
        f'<div class="cb-state is-error" role="alert"><b>{text(title)}</b>{text(body)}'
        f"{next_step}</div>"
    )


def row(cells: Sequence[str], columns: str, *, head: bool = False) -> str:
    """One grid row.  ``cells`` are HTML already; ``columns`` is a CSS grid template."""
    kind = "cb-row cb-head" if head else "cb-row"
    inner = "".join(f"<span>{c}</span>" for c in cells)
    return f'<div class="{kind}" style="grid-template-columns:{columns}">{inner}</div>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> str:
    """A plain table.  Cells are HTML already; ``numbers`` are the columns set right."""
    right = set(numbers)

    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=n' if i in right else ''}>{v}</{kind}>" for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', r)}</tr>" for r in rows)
    header = f"<thead><tr>{cells('th', [text(h) for h in head])}</tr></thead>"
    return f'<table class="cb-table">{header}<tbody>{body}</tbody></table>'
