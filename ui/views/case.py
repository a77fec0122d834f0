"""Case: the images, what was decided and why, and what a person does about it."""

from __future__ import annotations

import streamlit as st

from curbside.errors import CurbsideError, UserError
from curbside.router.entries import Entry
from curbside.router.worklist import View
from curbside.ui.blind import seen
from curbside.ui.components import error_state, state, text
from curbside.ui.links import go_to, link_to
from curbside.ui.serving import ledger, queue
from curbside.ui.session import frame, param
from curbside.ui.views import case_decide, case_images, case_tabs
from curbside.ui.worklist_rows import address_of, next_case, view_of

__all__ = ["page"]

#: Longest id that a message repeats.
_SHOWN = 80


def page() -> None:
    """See the module."""
    frame("Case")
    case = param("case")
    view = seen(view_of(st.query_params.get_all))
    if not case:
        _none_chosen(view)
        return
    try:
        entry = ledger().get(case)
        record = ledger().record(case, entry.revision)
    except UserError:
        _unknown(case, view)
        return
    except CurbsideError as e:
        st.html(error_state(f"The record of {case[:_SHOWN]} cannot be read", e.message, e.hint))
        _ways_on(view)
        return
    ahead = next_case(queue(view), case)
    _top(entry, view, ahead)
    left, right = st.columns([1.22, 1], gap="medium")
    with left:
        case_images.images(entry, record)
    with right:
        case_decide.panel(entry, record, ahead)
    case_tabs.tabs(entry, record)


def _none_chosen(view: View) -> None:
    if queue(view):
        st.html(state("No case chosen", "Open one from the worklist, or the next that waits."))
    else:
        st.html(state("Nothing waits", "No case of the ledger waits for a person."))
    _ways_on(view)


def _unknown(case: str, view: View) -> None:
    """An address may be mistyped, old, or of another console."""
    named = case if len(case) <= _SHOWN else case[:_SHOWN] + "…"
    st.html(
        state(
            "No such case",
            f"The ledger of this console has no case “{named}”. The address may be mistyped, or of "
            "a console over another ledger.",
        )
    )
    _ways_on(view)


def _ways_on(view: View) -> None:
    """To the worklist, and to the next case that waits."""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        link_to("worklist", "To the worklist", address_of(view), icon=":material/view_list:")
        waiting = queue(view)
        if waiting and st.button(
            "Next waiting case", icon=":material/skip_next:", shortcut="N", key="first"
        ):
            go_to("case", {**address_of(view), "case": [waiting[0]]})


def _top(entry: Entry, view: View, ahead: str | None) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        link_to("worklist", "Worklist", address_of(view), icon=":material/arrow_back:")
        facts = [entry.modality or "modality unknown", entry.task or "no task"]
        facts += [f"tier {entry.tier}"] if entry.tier else []
        st.html(
            f'<span class="cb-id" style="font-weight:600">{text(entry.study)}</span>'
            f'<span class="cb-quiet cb-small"> · {text(" · ".join(facts))} · revision '
            f"{entry.revision}</span>"
        )
        if (
            st.button(
                "Next",
                icon=":material/skip_next:",
                shortcut="N",
                key="next",
                disabled=ahead is None,
                help="The next case of the worklist's view, without acting on this one",
            )
            and ahead is not None
        ):
            go_to("case", {**address_of(view), "case": [ahead]})
