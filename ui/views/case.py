"""Case: the images, what was decided and why, and what a person does about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import streamlit as st

from curbside.errors import CurbsideError, UserError
from curbside.readings import CaseRecord
from curbside.router.entries import Entry
from curbside.router.sources import open_sources
from curbside.router.worklist import View
from curbside.ui.blind import hidden
from curbside.ui.components import error_state, state, text
from curbside.ui.links import go_to, link_to
from curbside.ui.pictures import (
    Explained,
    Picture,
    Slices,
    explained_of,
    picture,
    slices_of,
    with_explanation,
)
from curbside.ui.serving import config, ledger, queue
from curbside.ui.session import frame, param, where
from curbside.ui.viewer import Window, full_window, show
from curbside.ui.views import case_decide, case_tabs
from curbside.ui.worklist_rows import address_of, next_case, view_of

__all__ = ["page"]


def page() -> None:
    """See the module."""
    frame("Case")
    case = param("case")
    view = view_of(st.query_params.get_all)
    if not case:
        _none_chosen(view)
        return
    try:
        entry = ledger().get(case)
        record = ledger().record(case, entry.revision)
    except UserError:
        st.html(
            error_state(
                "No such case",
                f"The ledger has no case {case}.",
                "look it up in the worklist",
            )
        )
        link_to("worklist", "To the worklist", address_of(view))
        return
    ahead = next_case(queue(view), case)
    _top(entry, view, ahead)
    left, right = st.columns([1.22, 1], gap="medium")
    with left:
        _images(entry, record)
    with right:
        case_decide.panel(entry, record, ahead)
    case_tabs.tabs(entry, record)


def _none_chosen(view: View) -> None:
    waiting = queue(view)
    if waiting:
        st.html(state("No case chosen", "Open one from the worklist, or the next that waits."))
        if st.button("Next waiting case", icon=":material/skip_next:", shortcut="N", key="first"):
            go_to("case", {**address_of(view), "case": [waiting[0]]})
    else:
        st.html(state("Nothing waits", "No case of the ledger waits for a person."))
    link_to("worklist", "To the worklist", address_of(view))


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


# -- images ----------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=16, ttl=900)
def _slices(home: str, case: str) -> Slices:
    store = open_sources(where(), config())
    if store is None:
        return slices_of(())
    with closing(store):
        return slices_of(store.images(case))


@st.cache_data(show_spinner=False, max_entries=48, ttl=900)
def _picture(home: str, case: str, at: int) -> Picture:
    return picture(_slices(home, case).instances[at])


def _explained(record: CaseRecord) -> Explained | None:
    store = open_sources(where(), config())
    if store is None or record.explained is None:
        return None
    with closing(store):
        return explained_of(record, store.standing_for(record))


def _images(entry: Entry, record: CaseRecord) -> None:
    case = entry.study
    try:
        slices = _slices(str(where()), case)
    except CurbsideError as e:
        st.html(error_state("The images cannot be found", e.message, e.hint))
        return
    if not len(slices):
        st.html(
            state(
                "No image on this machine",
                "The ledger keeps decisions, not images; where this study came from was not kept "
                "(privacy.keep_sources), or it was routed elsewhere.",
            )
        )
        return
    explained = None if hidden(entry) else _explained(record)
    _viewer(case, slices, explained)


@st.fragment
def _viewer(case: str, slices: Slices, explained: Explained | None) -> None:
    at = 0
    place = st.container()
    if len(slices) > 1:
        at = (
            st.slider(
                "Slice",
                1,
                len(slices),
                (len(slices) + 1) // 2,
                key=f"slice-{case}",
                help="Through all series, in reading order",
            )
            - 1
        )
    shown = _picture(str(where()), case, at)
    if shown.problem:
        with place:
            st.html(error_state("This image cannot be shown", shown.problem, ""))
        return
    window, invert = _controls(case, shown)
    png = shown.png(window, invert=invert)
    alt = f"Image {at + 1} of {len(slices)} of case {case}"
    alt += f", window {window.centre:.0f} ± {window.width / 2:.0f}" if window else ""
    if explained is not None:
        over = explained.instance == slices.instances[at] and st.toggle(
            "Show what the reading rests on", key=f"rests-{case}"
        )
        st.caption(explained.legend if over else explained.said)
        if over:
            png, alt = with_explanation(png, explained.explanation), f"{alt}, {explained.legend}"
    with place:
        show(png, image=f"{case}/{at}", alt=alt)


def _controls(case: str, shown: Picture) -> tuple[Window | None, bool]:
    presets = _presets(shown)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        name = st.selectbox(
            "Window",
            [w.name for w in presets],
            key=f"window-{case}",
            width=150,
            help=None if shown.unit else "This picture has no units: brightness of its grey levels",
        )
        chosen = next(w for w in presets if w.name == name)
        reach = full_window(shown.values)
        low, high = reach.centre - reach.width / 2, reach.centre + reach.width / 2
        step = max((high - low) / 256, 0.5)
        # a preset's own key: choosing another one starts from its values
        centre = st.slider(
            f"Centre{' (HU)' if shown.unit == 'HU' else ''}",
            float(min(low, chosen.centre)),
            float(max(high, chosen.centre)),
            chosen.centre,
            step=step,
            format="%.0f",
            key=f"centre-{case}-{name}",
            width=170,
        )
        width = st.slider(
            "Width",
            1.0,
            float(max(high - low, chosen.width, 2.0)),
            chosen.width,
            step=step,
            format="%.0f",
            key=f"width-{case}-{name}",
            width=170,
        )
        invert = st.toggle("Invert", key=f"invert-{case}")
    window = Window(str(name), centre, width)
    plain = not shown.unit and (centre, width) == (chosen.centre, chosen.width) == (127.5, 255.0)
    return (None if plain else window), invert


def _presets(shown: Picture) -> Sequence[Window]:
    if shown.presets:
        return shown.presets
    return (
        Window("as stored", 127.5, 255.0),
        Window("brighter", 95.0, 190.0),
        Window("darker", 160.0, 190.0),
        Window("more contrast", 127.5, 140.0),
    )
