"""Blind first: what agents said is not shown to a person who has not yet answered."""

from __future__ import annotations

import streamlit as st

from curbside.router.entries import Entry
from curbside.router.review import Kind
from curbside.ui.components import state
from curbside.ui.serving import ledger
from curbside.ui.session import reader

__all__ = ["hidden", "switch", "switched_on", "withheld"]

_KEY = "cb_blind"


def switch() -> None:
    """The switch; one for all pages of a session."""
    st.toggle(
        "Blind first",
        key=_KEY,
        help="You answer before you see what the agents said; both are recorded.",
        persist_state="session",
    )


def switched_on() -> bool:
    """Whether this session reads blind first."""
    return bool(st.session_state.get(_KEY))


def hidden(entry: Entry) -> bool:
    """It is on, nobody has settled this case, and this person has not yet answered it."""
    if not switched_on() or entry.truth is not None:
        return False
    return not any(e.kind is Kind.BLIND and e.who == reader() for e in ledger().events(entry.study))


def withheld() -> str:
    """HTML in place of what is hidden."""
    return state("Blind first", "Shown once you have answered.")
