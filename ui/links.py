"""Links and moves between pages; a case is always named by its id in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

__all__ = ["go_to", "link_to"]

Params = Mapping[str, Sequence[str]]


def link_to(
    address: str,
    label: str,
    params: Params | None = None,
    *,
    key: str | None = None,
    shortcut: str | None = None,
    **look: Any,
) -> None:
    """A link to a page; with a ``shortcut`` a button that goes there."""
    if shortcut is None:
        from curbside.ui.app import page_of

        st.page_link(page_of(address), label=label, query_params=_pairs(params), **look)
    elif st.button(label, key=key, shortcut=shortcut, **look):
        go_to(address, params)


def go_to(address: str, params: Params | None = None) -> None:
    """Open a page; ends this run of the script."""
    from curbside.ui.app import page_of

    st.switch_page(page_of(address), query_params=_pairs(params))


def _pairs(params: Params | None) -> list[tuple[str, str]] | None:
    return [(k, v) for k, values in (params or {}).items() for v in values] or None
