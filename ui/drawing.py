"""Mounts a drawing of :mod:`curbside.ui.charts` in the page.

Streamlit's own HTML element takes no SVG.  What comes here is made by our own functions,
which escape every text.
"""

from __future__ import annotations

from typing import Any

__all__ = ["draw"]

_CSS = """
:host, div { width: 100%; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
"""
_JS = """
export default function({data, parentElement}) {
  parentElement.querySelector('div').innerHTML = data.svg;
}
"""
_MADE: list[Any] = []


def draw(svg: str, *, key: str) -> None:
    """Show an SVG drawing as wide as its place."""
    # registered once a process: again would be a warning and a new element
    if not _MADE:
        import streamlit as st

        made = st.components.v2.component("curbside.drawing", html="<div></div>", css=_CSS, js=_JS)
        _MADE.append(made)
    _MADE[0](data={"svg": svg}, key=key)
