"""Worklist: every case of the ledger, those that wait for a person first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from curbside.errors import UserError
from curbside.readings import Status
from curbside.router.worklist import SORTS, Counts, Page, View, count
from curbside.router.worklist import page as page_of_ledger
from curbside.ui.blind import hidden, seen, switch
from curbside.ui.components import error_state, mark, row, state, tag, text
from curbside.ui.links import link_to
from curbside.ui.serving import ledger
from curbside.ui.session import frame, param, reader
from curbside.ui.theme import MARKS
from curbside.ui.worklist_rows import (
    BLIND_SORTS,
    OF_READINGS,
    SORT_WORDS,
    Row,
    address_of,
    flag_words,
    row_of,
    view_of,
)

__all__ = ["PAGE_SIZE", "page"]

PAGE_SIZE = 25
_STACK = "cb_cursors"
_FACETS = {"modality": "Modality", "tier": "Tier", "route": "Asked", "flags": "Flags"}
#: Keys of the filter widgets, and their names in the address.
_FILTERS = ("status", "waiting", "q", *_FACETS, "sort", "down")
#: What the address said of them when it was looked at last.
_SEEN = "cb_address"
#: A person has used a widget since then.
_USED = "cb_used"
_COLUMNS = (
    "7.4rem 6.6rem 4.2rem minmax(8rem,1.3fr) 3.4rem 3.2rem minmax(7rem,1fr) minmax(6rem,1fr) 6rem"
)
_HEAD = ("status", "modality", "tier", "reading", "sure", "p", "asked", "flags", "waiting")


def page() -> None:
    """See the module."""
    frame("Worklist")
    view = _chosen()
    counts = count(ledger(), view)
    if not counts.total and not page_of_ledger(ledger(), View(), limit=1).entries:
        st.html(
            state(
                "The ledger is empty",
                "Upload a study, or route a whole folder:",
                "curbside batch FOLDER --out results",
            )
        )
        link_to("upload", "Upload studies", icon=":material/upload_file:")
        return
    _filters(view, counts)
    _list(view, counts)


def _chosen() -> View:
    """What the filters say; the address, where it was changed from outside: a link, a step back.

    A browser sends its address with whatever a person does, and the address that the last run
    gave it may not have reached it yet.  So what comes with a widget is never a step back: taken
    for one, it would undo the last choices, and with them what was just typed.

    Streamlit's own binding to the address writes a choice as it is shown, count and all, so
    that tomorrow's page would not know it.
    """
    said = {name: st.query_params.get_all(name) for name in _FILTERS}
    used = st.session_state.get(_USED, False)
    outside = said != st.session_state.get(_SEEN) and not used
    if outside or "status" not in st.session_state:
        view = seen(view_of(said.__getitem__))
        st.session_state[_SEEN] = said
        st.session_state[_USED] = False
        st.session_state.update(
            {name: list(getattr(view, name)) for name in ("status", *_FACETS)},
            waiting=view.waiting,
            q=view.text,
            sort=view.sort,
            down=view.descending,
        )
        return view
    view = seen(view_of(_widget))
    # reading blind first may since have taken away what was chosen; else nothing is set, for
    # that would undo in the browser what is chosen while this run lasts
    for name, value in (("sort", view.sort), ("flags", list(view.flags))):
        if st.session_state[name] != value:
            st.session_state[name] = value
    address = address_of(view)
    if used or address != address_of(view_of(said.__getitem__)):
        others = {n: st.query_params.get_all(n) for n in st.query_params if n not in _FILTERS}
        st.session_state[_SEEN] = {name: address.get(name, []) for name in _FILTERS}
        st.query_params.from_dict(address | others)
        # only now: what a person does meanwhile ends this run before it
        st.session_state[_USED] = False
    return view


def _widget(name: str) -> Sequence[str]:
    value = st.session_state[name]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [value] if isinstance(value, str) else list(value or ())


def _filters(view: View, counts: Counts) -> None:
    """The filter widgets; :func:`_chosen` says what they start with."""
    by = counts.by
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.pills(
            "Status",
            [str(s) for s in Status],
            selection_mode="multi",
            key="status",
            format_func=lambda s: (
                f"{MARKS[Status(s)].glyph} {MARKS[Status(s)].word} {by['status'].get(s, 0):,}"
            ),
            label_visibility="collapsed",
            on_change=_first_page,
        )
        st.toggle(
            "Waiting only",
            key="waiting",
            on_change=_first_page,
            help="Cases that a person must still look at. Switch off to see answered ones too.",
        )
        switch(_first_page)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input(
            "Search",
            key="q",
            placeholder="Search ids, tasks" if view.blind else "Search ids, answers, tasks",
            label_visibility="collapsed",
            icon=":material/search:",
            on_change=_first_page,
            width=200,
        )
        for facet, label in _FACETS.items():
            # a count of disagreements tells of answers too
            told = {f: n for f, n in by[facet].items() if not (view.blind and f in OF_READINGS)}
            _facet(facet, label, told, getattr(view, facet))
        st.selectbox(
            "Order",
            list(BLIND_SORTS if view.blind else SORTS),
            key="sort",
            format_func=SORT_WORDS.__getitem__,
            label_visibility="collapsed",
            on_change=_first_page,
            width=165,
        )
        st.toggle("Reverse", key="down", on_change=_first_page)


def _facet(name: str, label: str, counts: dict[str, int], chosen: Sequence[str]) -> None:
    values = list(dict.fromkeys([*(v for v in counts if v), *chosen]))
    words = flag_words if name == "flags" else (lambda v: v.replace("+", ", "))
    st.multiselect(
        label,
        values,
        key=name,
        format_func=lambda v: f"{words(v)} {counts.get(v, 0):,}",
        placeholder=label,
        label_visibility="collapsed",
        on_change=_first_page,
        width=150,
    )


def _used() -> None:
    st.session_state[_USED] = True


def _first_page() -> None:
    _used()
    st.session_state.pop(_STACK, None)
    st.query_params.pop("after", None)


def _list(view: View, counts: Counts) -> None:
    try:
        found = page_of_ledger(ledger(), view, after=param("after") or None, limit=PAGE_SIZE)
    except UserError as e:
        st.html(error_state("There is no such page of this view", e.message, ""))
        link_to("worklist", "To its first page", address_of(view), icon=":material/first_page:")
        return
    if not found.entries:
        _nothing(view)
        return
    now = time.time()
    rows = [row_of(e, now, view.wait_cap, hidden=hidden(e)) for e in found.entries]
    _bar(view, counts, found, rows)
    _rows(rows, view)


def _nothing(view: View) -> None:
    if replace(view, blind=False) == View(waiting=True):
        st.html(
            state(
                "Nothing waits", "Every case has an answer. Switch “Waiting only” off to see them."
            )
        )
        return
    more = " Read blind first, answers are not searched." if view.blind and view.text else ""
    st.html(
        state("No case matches", f"Loosen a filter, or switch “Waiting only” off.{more}"),
    )


def _bar(view: View, counts: Counts, found: Page, rows: Sequence[Row]) -> None:
    stack: list[str] = st.session_state.setdefault(_STACK, [])
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        late = sum(r.late for r in rows)
        shown = counts.waiting if view.waiting else counts.total
        st.html(
            f'<span class="cb-small cb-quiet"><b class="cb-num" style="color:var(--cb-ink)">'
            f"{shown:,}</b> {'waiting' if view.waiting else 'case' if shown == 1 else 'cases'}"
            + (
                f" · {late} here beyond the wait cap, lifted"
                if late and view.sort == "priority"
                else ""
            )
            + "</span>"
        )
        link_to(
            "case",
            "Start triage",
            {**address_of(view), "case": [rows[0].study]},
            icon=":material/play_arrow:",
            key="triage",
            shortcut="T",
            help="Opens the first case; each action goes on to the next."
            if reader()
            else "Opens the first case. Say who reads before you act.",
        )
        if st.button(
            "",
            icon=":material/chevron_left:",
            key="back",
            shortcut="Left",
            disabled=not param("after"),
            help="Page before",
            on_click=_used,
        ):
            stack[:] = stack[:-1]
            st.query_params.pop("after", None)
            if stack:
                st.query_params["after"] = stack[-1]
            st.rerun()
        st.html(f'<span class="cb-small cb-quiet">page {_number(stack)}</span>', width="content")
        if st.button(
            "",
            icon=":material/chevron_right:",
            key="on",
            shortcut="Right",
            disabled=found.after is None,
            help="Page after",
            on_click=_used,
        ):
            stack.append(str(found.after))
            st.query_params["after"] = str(found.after)
            st.rerun()


def _number(stack: Sequence[str]) -> str:
    if not param("after"):
        return "1"
    # an address from elsewhere says where it is, not how many pages came before
    return str(len(stack) + 1) if stack and stack[-1] == param("after") else "…"


def _rows(rows: Sequence[Row], view: View) -> None:
    kept = address_of(view)
    with st.container(gap=None, key="cb-list"):
        with _line("head"):
            st.html('<div class="cb-row cb-head"><span>study</span></div>', width=235)
            st.html(row(_HEAD, _COLUMNS, head=True))
        for r in rows:
            with _line(r.study):
                with st.container(width=235):
                    link_to("case", f"`{r.study}`", {**kept, "case": [r.study]})
                st.html(row(_cells(r), _COLUMNS))


def _line(name: str) -> Any:
    """One line; however long its words are, it stays one line."""
    return st.container(
        horizontal=True, wrap=False, vertical_alignment="center", key=f"cb-line-{name}"
    )


def _cells(r: Row) -> list[str]:
    def number(v: float | None, digits: int) -> str:
        return "–" if v is None else f'<span class="cb-num">{v:.{digits}f}</span>'

    if r.hidden:
        said = '<span class="cb-quiet">blind first</span>'
    elif r.provisional:
        # before the answer, which may be cut: it must never be read without the word
        said = f"{tag('provisional', provisional=True)} <i>{text(r.said)}</i>"
    else:
        said = text(r.said) if r.said else '<span class="cb-quiet">no answer</span>'
    if r.by_person:
        said = tag("by a person") + " " + said
    late = ' style="font-weight:650;color:var(--cb-review)"' if r.late else ""
    return [
        mark(r.status),
        text(r.modality) or '<span class="cb-quiet">unknown</span>',
        text(r.tier) or "–",
        said,
        number(r.confidence, 2),
        number(r.p_value, 3),
        text(r.route) or '<span class="cb-quiet">nobody</span>',
        _flags(r.flags),
        f'<span class="cb-num"{late}>{"↑ " if r.late else ""}{r.wait}</span>',
    ]


def _flags(flags: Sequence[str]) -> str:
    """The first flag, and how many more; all of them where the pointer rests."""
    if not flags:
        return ""
    words = ", ".join(map(flag_words, flags))
    more = f" +{len(flags) - 1}" if len(flags) > 1 else ""
    return f'<span title="{text(words)}">{tag(flag_words(flags[0]))}{more}</span>'
