"""The images of a case: series, slices, window, and what of them cannot be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import streamlit as st

from curbside.errors import CurbsideError
from curbside.readings import CaseRecord
from curbside.router.entries import Entry
from curbside.router.sources import open_sources
from curbside.study import Instance
from curbside.ui.blind import hidden
from curbside.ui.components import error_state, state
from curbside.ui.pictures import (
    Explained,
    Opening,
    Picture,
    Slices,
    explained_of,
    numbers,
    opening,
    picture,
    slices_of,
    with_explanation,
)
from curbside.ui.serving import config
from curbside.ui.session import where
from curbside.ui.viewer import Stage, Window, full_window, show

__all__ = ["images"]

#: A look at another series, or another case, and back finds all as it was.
_KEPT: dict[str, Any] = {"persist_state": "session"}


@st.cache_data(show_spinner=False, max_entries=16, ttl=900)
def _slices(home: str, case: str) -> Slices:
    store = open_sources(where(), config())
    if store is None:
        return slices_of(())
    with closing(store):
        return slices_of(store.images(case))


@st.cache_data(show_spinner=False, max_entries=48, ttl=900)
def _picture(home: str, case: str, series: int, at: int) -> Picture:
    return picture(_slices(home, case).series[series][at])


@st.cache_data(show_spinner=False, max_entries=64, ttl=900)
def _opening(home: str, case: str) -> Opening:
    return opening(_slices(home, case), lambda k, i: _picture(home, case, k, i).problem)


def _explained(record: CaseRecord) -> Explained | None:
    store = open_sources(where(), config())
    if store is None or record.explained is None:
        return None
    with closing(store):
        return explained_of(record, store.standing_for(record))


def images(entry: Entry, record: CaseRecord) -> None:
    """The viewer, or why there is nothing to view."""
    try:
        slices = _slices(str(where()), entry.study)
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
    # how the study was read is not told; that objects of it are lost must be
    reasons = Counter(why.replace("_", " ") for why in record.incomplete)
    lost = ", ".join(f"{n} {why}" for why, n in reasons.items())
    _viewer(entry.study, slices, None if hidden(entry) else _explained(record), lost)


@st.fragment
def _viewer(case: str, slices: Slices, explained: Explained | None, lost: str) -> None:
    place = st.container()
    start = _opening(str(where()), case)
    series, at = _chosen(case, slices, start)
    shown = _picture(str(where()), case, series, at)
    bad = {*start.bad, *([(series, at)] if shown.problem else [])}
    spot = _spot(slices, series, at, shown.kind, sum(k == series for k, _ in bad))
    alt = f"{spot or 'Image'} of case {case}"
    png, window = None, ""
    if not shown.problem:
        like = _picture(str(where()), case, series, _first(case, slices, series, start))
        controls = _controls(f"{case}-{series}", like if like.unit == shown.unit else shown)
        over = _over(case, explained, slices.series[series][at])
        png, window, more = _drawn(shown, *controls, over)
        alt += "".join(f", {x}" for x in (window, more) if x)

    def leafed(to: int) -> None:
        st.session_state[_slice_key(case, series)] = to + 1

    said = f"This image cannot be shown: {shown.problem}" if shown.problem else ""
    count = len(slices.series[series])
    with place:
        show(png, Stage(f"{case}/{series}", at, count, alt, spot, window, said), leafed)
    _missing(slices, bad, lost, whole=start.whole)


def _slice_key(case: str, series: int) -> str:
    return f"slice-{case}-{series}"


def _chosen(case: str, slices: Slices, start: Opening) -> tuple[int, int]:
    """Series and image, from the widgets; at first those to start with."""
    series, many = start.series, len(slices.series)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        if many > 1:
            key = f"series-{case}"
            st.session_state.setdefault(key, series)
            series = st.selectbox(
                "Series",
                range(many),
                key=key,
                width=190,
                **_KEPT,
                format_func=lambda k: f"{k + 1} of {many} · {_images(len(slices.series[k]))}",
            )
        n = len(slices.series[series])
        if n == 1:
            return series, 0
        key = _slice_key(case, series)
        if key not in st.session_state:
            st.session_state[key] = 1 + _first(case, slices, series, start)
        help_ = "Wheel over the image, or ↑ ↓ when it has the focus, leaf through the series"
        return series, st.slider("Image", 1, n, key=key, help=help_, **_KEPT) - 1


def _first(case: str, slices: Slices, series: int, start: Opening) -> int:
    """The image that a series opens on: its middle one, or the nearest that can be shown."""
    if series == start.series:
        return start.at
    only = Slices((slices.series[series],))
    home = str(where())
    return opening(only, lambda _, i: _picture(home, case, series, i).problem, further=0.0).at


def _spot(slices: Slices, series: int, at: int, kind: str, bad: int) -> str:
    """Which series, of what kind, which image of it, and how many are known to be broken."""
    n, many = len(slices.series[series]), len(slices.series)
    words = [f"Series {series + 1} of {many}"] if many > 1 else []
    words += [kind] if kind else []
    words += [f"image {at + 1} of {n}"] if n > 1 else []
    words += [f"{bad} cannot be shown"] if bad and n > 1 else []
    return " · ".join(words)


def _images(n: int) -> str:
    return f"{n} image{'' if n == 1 else 's'}"


def _missing(slices: Slices, bad: set[tuple[int, int]], lost: str, *, whole: bool) -> None:
    """What a reader would otherwise not know that the study lacks."""
    said = []
    for k in range(len(slices.series)):
        at = [i for j, i in bad if j == k]
        if at and len(slices) > 1:
            of = f"series {k + 1}: " if len(slices.series) > 1 else ""
            said.append(of + numbers(at))
    if said:
        more = "" if whole else " Those far from the middle are tried when they are looked at."
        st.caption(f":material/warning: Images that cannot be shown: {'; '.join(said)}.{more}")
    if lost:
        st.caption(
            f":material/warning: The study is incomplete: objects of it cannot be used ({lost})."
        )


def _over(case: str, explained: Explained | None, instance: Instance) -> Explained | None:
    """What is to be drawn over the image: only over the one that was read, and when asked."""
    if explained is None:
        return None
    over = explained.instance == instance and st.toggle(
        "Show what the reading rests on", key=f"rests-{case}"
    )
    st.caption(explained.legend if over else explained.said)
    return explained if over else None


def _drawn(
    shown: Picture, window: Window | None, invert: bool, over: Explained | None
) -> tuple[bytes, str, str]:
    """The picture, its window in words, and what is drawn over it."""
    png = shown.png(window, invert=invert)
    words = [f"C {window.centre:.0f} W {window.width:.0f}"] if window else []
    words += ["inverted"] if invert else []
    said = " · ".join(words)
    if over is None:
        return png, said, ""
    return with_explanation(png, over.explanation), said, over.legend


def _controls(key: str, like: Picture) -> tuple[Window | None, bool]:
    """Window and inversion, for all images of a series.

    Args:
        like: the image that the series opens on.  Ranges and the automatic window are its own:
            a window that moved from slice to slice could not be compared by eye.
    """
    presets = _presets(like)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        name = st.selectbox(
            "Window",
            [w.name for w in presets],
            key=f"window-{key}",
            width=150,
            **_KEPT,
            help=None if like.unit else "This picture has no units: brightness of its grey levels",
        )
        chosen = next(w for w in presets if w.name == name)
        reach = full_window(like.values) if like.unit else Window("", 127.5, 255.0)
        low, high = reach.centre - reach.width / 2, reach.centre + reach.width / 2
        step = max((high - low) / 256, 0.5)
        # a preset's own key: choosing another one starts from its values
        centre = st.slider(
            f"Centre{' (HU)' if like.unit == 'HU' else ''}",
            float(min(low, chosen.centre)),
            float(max(high, chosen.centre)),
            chosen.centre,
            step=step,
            format="%.0f",
            key=f"centre-{key}-{name}",
            width=170,
            **_KEPT,
        )
        width = st.slider(
            "Width",
            1.0,
            float(max(high - low, chosen.width, 2.0)),
            chosen.width,
            step=step,
            format="%.0f",
            key=f"width-{key}-{name}",
            width=170,
            **_KEPT,
        )
        invert = st.toggle("Invert", key=f"invert-{key}", **_KEPT)
    window = Window(str(name), centre, width)
    plain = not like.unit and (centre, width) == (chosen.centre, chosen.width) == (127.5, 255.0)
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
