"""The console's entry: theme, navigation, and the page that the address names.

Run by ``curbside console``.  Pages import what they need when they are opened, so that the
first paint waits for no model library.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import streamlit as st

from curbside.ui.session import guarded, mode
from curbside.ui.theme import css

__all__ = ["PAGES", "main", "page_of"]

#: Address → (module of curbside.ui.views, title, icon).
PAGES = {
    "worklist": ("worklist", "Worklist", ":material/view_list:"),
    "case": ("case", "Case", ":material/radiology:"),
    "upload": ("upload", "Upload", ":material/upload_file:"),
    "lab": ("lab", "Policy lab", ":material/science:"),
    "fleet": ("fleet", "Fleet & index", ":material/hub:"),
}

_ICON = str(Path(__file__).with_name("icon.svg"))


def page_of(address: str, *, default: bool = False) -> st.Page:
    """The page at an address, for navigation and links."""
    module, title, icon = PAGES[address]

    def run() -> None:
        guarded(import_module(f"curbside.ui.views.{module}").page)

    return st.Page(run, title=title, icon=icon, url_path=address, default=default)


def main(first: str = "worklist") -> None:
    """One run of the script; ``first`` is the page shown where the address names none."""
    # a file of our own: a named icon would be fetched from the network
    st.set_page_config(page_title="curbside console", page_icon=_ICON, layout="wide")
    st.html(css(mode()))
    st.navigation([page_of(a, default=a == first) for a in PAGES], position="top").run()


if __name__ == "__main__":
    main()
