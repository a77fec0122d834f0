"""What a browser session knows: the home it looks at, who reads, how it is shown.

Thin wrappers around Streamlit's session, so that pages hold no bookkeeping.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from curbside.errors import CurbsideError
from curbside.home import home
from curbside.ui.components import banner, error_state
from curbside.ui.theme import Palette, palette

__all__ = ["colours", "frame", "guarded", "mode", "param", "reader", "signed_in", "where"]

_READER = "cb_reader"


def where() -> Path:
    """The home that this console looks at."""
    return home()


def mode() -> str:
    """``light`` or ``dark``, as the browser shows it."""
    return "dark" if st.context.theme.type == "dark" else "light"


def colours() -> Palette:
    """The palette of the browser's mode."""
    return palette(mode())


def signed_in() -> str:
    """The name that the server's own sign-in vouches for; ``""`` where it has none."""
    return str(st.user.get("email") or st.user.get("name") or "")


def reader() -> str:
    """Who acts: the signed-in user, else the name given; ``""`` while there is none."""
    return (
        signed_in()
        or str(st.session_state.get(_READER) or os.environ.get("CURBSIDE_READER", "")).strip()
    )


def param(name: str, default: str = "") -> str:
    """A query parameter of the page's address."""
    return str(st.query_params.get(name, default))


def frame(title: str, *, phantoms: bool = False, note: str = "") -> None:
    """The head of a page: its name, the research-use notice, who reads."""
    left, right = st.columns([5, 1.3], vertical_alignment="center", gap="medium")
    with left, st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.html(f'<h1 class="cb-title">{title}</h1>', width="content")
        st.html(banner(phantoms=phantoms, note=note))
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        who = reader()
        with st.popover(
            who or "Who is reading?",
            icon=":material/person:",
            type="secondary" if who else "primary",
        ):
            if signed_in():
                st.caption("Signed in; every action is recorded under this name.")
            else:
                st.text_input(
                    "Your name or initials",
                    key="cb_reader_box",
                    value=who,
                    max_chars=64,
                    help="Stands in the ledger beside everything that you do here.",
                    on_change=_name_given,
                )


def _name_given() -> None:
    st.session_state[_READER] = st.session_state["cb_reader_box"].strip()


def guarded(page: Callable[[], None]) -> None:
    """Run a page; an error on purpose is said in its own words, a bug without its message."""
    try:
        page()
    except CurbsideError as e:
        st.html(error_state(e.message.split("\n")[0], "", e.hint))
    except Exception as e:
        if type(e).__module__.startswith("streamlit.runtime.scriptrunner"):
            raise  # how Streamlit stops or reruns a script
        if os.environ.get("CURBSIDE_DEBUG"):
            raise
        st.html(
            error_state(
                "This page met a bug",
                f"{type(e).__name__} inside curbside. What was stored is unchanged.",
                "start the console again with CURBSIDE_DEBUG=1 and report the traceback",
            )
        )
