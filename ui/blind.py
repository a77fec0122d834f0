"""Blind first: what agents said is not shown to a person who has not yet answered."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from curbside.router.entries import Entry
from curbside.router.review import Kind
from curbside.router.worklist import View
from curbside.ui.components import state
from curbside.ui.serving import ledger
from curbside.ui.session import reader
from curbside.ui.worklist_rows import blinded

__all__ = ["hidden", "seen", "switch", "switched_on", "withheld"]

_KEY = "cb_blind"
#: What a person says of a case by doing it.
_ANSWERS = frozenset((Kind.BLIND, Kind.AGREE, Kind.ANSWER, Kind.OVERRIDE))


def switch(on_change: Callable[[], None] | None = None) -> None:
    """The switch; one for all pages of a session."""
    st.toggle(
        "Blind first",
        key=_KEY,
        help="You answer before you see what the agents said; both are recorded.",
        persist_state="session",
        on_change=on_change,
    )


def switched_on() -> bool:
    """Whether this session reads blind first."""
    return bool(st.session_state.get(_KEY))


def hidden(entry: Entry) -> bool:
    """It is on, and this person has not yet answered this case; others may have."""
    if not switched_on():
        return False
    who = reader()
    return not any(e.kind in _ANSWERS and e.who == who for e in ledger().events(entry.study))


def seen(view: View) -> View:
    """The view as this session may see it: search, order and filters can give answers away."""
    return blinded(view) if switched_on() else view


def withheld() -> str:
    """HTML in place of what is hidden."""
    return state("Blind first", "Shown once you have answered.")
