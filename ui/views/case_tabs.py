"""Below the images: why this route, what each agent said, the nearest cases, the story."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from curbside.errors import CurbsideError
from curbside.indexes.store import read_store
from curbside.readings import CaseRecord
from curbside.router.entries import Entry
from curbside.ui.blind import hidden, withheld
from curbside.ui.case_story import (
    Said,
    event_line,
    moment,
    posterior,
    readings,
    version_lines,
    whisker_rows,
)
from curbside.ui.charts import bars, calibration_histogram, whiskers
from curbside.ui.components import state, table, tag, text
from curbside.ui.drawing import draw
from curbside.ui.index_facts import served_cases, served_index
from curbside.ui.pictures import image_paths, neighbour_picture
from curbside.ui.serving import config, ledger
from curbside.ui.session import where
from curbside.ui.theme import TIER_WORDS

__all__ = ["tabs"]


def tabs(entry: Entry, record: CaseRecord) -> None:
    """All of them."""
    why, said, near, ask, story = st.tabs(
        ["Why this route", "Readings", "Nearest cases", "Ask & re-route", "Story & versions"]
    )
    blind = hidden(entry)
    with why:
        _why(record, blind=blind)
    for tab, show in ((said, _readings), (near, _neighbours)):
        with tab:
            if blind:
                st.html(withheld())
            else:
                show(record)
    with ask:
        from curbside.ui.views.case_ask import ask_and_reroute

        if blind:
            st.html(withheld())
        else:
            ask_and_reroute(entry, record)
    with story:
        _story(record, blind=blind)


# -- why -------------------------------------------------------------------------------------


@st.cache_resource(show_spinner=False, max_entries=2)
def _scores(folder: str, changed: float) -> tuple[str, dict[str, NDArray[np.float64]]]:
    stored = read_store(Path(folder), "index")
    return str(stored.facts["calibration_digest"]), stored.tensors("calibration.safetensors")


def _why(record: CaseRecord, *, blind: bool) -> None:
    if record.familiarity is None:
        st.html(
            state("Nothing was assessed", "There was no image to assess, so there is no route.")
        )
        return
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.markdown("##### Taken for")
        st.html(bars(posterior(record), chosen=record.modality))
        words = TIER_WORDS[record.tier] if record.tier else "no tier"
        specialist = record.specialist or "none"
        st.html(
            f'<p class="cb-small"><b class="cb-num">{record.support or 0:,}</b> labelled training '
            f'cases support it; specialist: {text(specialist)}<br><span class="cb-quiet">'
            f"{text(words)}</span></p>"
        )
    with middle:
        st.markdown("##### Have we seen the like?")
        _familiarity(record)
    with right:
        st.markdown("##### Who reads this well?")
        rows = whisker_rows(record)
        if rows:
            draw(whiskers(rows), key="competence")
            st.caption("Estimated chance of being right on cases like this, with 95 % intervals.")
        else:
            st.caption("Nothing is known of who reads cases like this well.")
    st.markdown("##### What would have sent it elsewhere")
    found = record.outcome.counterfactuals
    if blind:
        # among them is the floor at which the reading would have been held: how sure it was
        st.html(withheld())
    elif found:
        st.html(
            table(
                ("change", "then"),
                [[text(c.change), text(c.then)] for c in found],
            )
        )
    else:
        st.caption("No single change of threshold or support would have.")


def _familiarity(record: CaseRecord) -> None:
    f = record.familiarity
    assert f is not None
    try:
        folder = served_index(where(), config())
        digest, scores = _scores(str(folder), (folder / "manifest.json").stat().st_mtime)
    except (CurbsideError, OSError):
        digest, scores = "", {}
    if digest == record.versions.calibration and f.stratum in scores:
        draw(
            calibration_histogram(
                scores[f.stratum], f.score, f.threshold, p_value=f.p_value, stratum=f.stratum
            ),
            key="familiarity",
        )
    else:
        st.html(
            f'<p><b class="cb-num">p = {f.p_value:.3f}</b></p><p class="cb-quiet cb-small">'
            "The index was calibrated anew since: its histogram is not this decision's.</p>"
        )
    pooled = " (pooled: this modality has too few of its own)" if f.stratum == "all" else ""
    st.caption(
        f"Of {f.stratum_n} calibration cases of stratum “{f.stratum}”{pooled}, a share of "
        f"{f.p_value:.3f} is at least as strange. Novel at {f.alpha:g} or below: that bounds false "
        "alarms on cases like these, not how many novel ones are missed."
    )


# -- readings --------------------------------------------------------------------------------


def _readings(record: CaseRecord) -> None:
    said = readings(record)
    if not said:
        st.html(state("Nobody was asked", "No agent has read this case."))
        return
    for start in range(0, len(said), 3):
        for column, one in zip(st.columns(3, gap="medium"), said[start : start + 3], strict=False):
            with column:
                _reading(one)


def _reading(one: Said) -> None:
    marks = tag("read for this case") if one.read_for_case else ""
    if one.differs:
        marks += ' <span class="cb-mark cb-review cb-small">≠ differs</span>'
    st.html(
        f'<div><b style="font-weight:600">{text(one.agent)}</b> {marks}<br>'
        + (
            f'<span class="cb-answer-small">{text(one.answer)}</span>'
            if not one.why_not
            else f'<span class="cb-mark cb-unread">{text(one.answer)}</span>'
            f'<p class="cb-small cb-quiet">{text(one.why_not)}</p>'
        )
        + bars(one.options[:6], chosen=one.answer)
        + f'<span class="cb-quiet cb-small cb-id">{text(one.fingerprint[:12])}'
        + (f" · {one.latency_ms:.0f} ms" if one.latency_ms else "")
        + "</span></div>"
    )


# -- neighbours ------------------------------------------------------------------------------


@st.cache_data(show_spinner=False, max_entries=256)
def _thumbnails(built: str, cases: tuple[str, ...]) -> dict[str, bytes | None]:
    paths = image_paths(Path(built), cases)
    return {c: neighbour_picture(paths.get(c)) for c in cases}


def _neighbours(record: CaseRecord) -> None:
    if not record.neighbours:
        st.html(state("No neighbours", "This case was not searched in the index."))
        return
    shown = record.neighbours[:5]
    with st.skeleton(height=200):
        try:
            built = str(served_cases(where(), config()))
        except CurbsideError:
            built = ""  # every image is then said not to be here
        pictures = _thumbnails(built, tuple(n.case for n in shown))
    for column, n in zip(st.columns(5, gap="small"), shown, strict=False):
        with column:
            image = pictures.get(n.case)
            if image is None:
                st.html('<div class="cb-noimage">image not on this machine</div>')
            else:
                st.image(image, width="stretch", alt=f"{n.modality}, {n.label or 'no label'}")
            st.html(
                f'<b style="font-weight:600">{text(n.label or "no label")}</b><br>'
                f'<span class="cb-quiet cb-small">{text(n.modality)} · cosine '
                f'{n.similarity:.2f}<br><span class="cb-id">{text(n.case)}</span></span>'
            )
    st.caption("Labelled training cases, nearest first, by the index's own similarity.")


# -- story -----------------------------------------------------------------------------------


def _story(record: CaseRecord, *, blind: bool) -> None:
    """Blind, it says who did something and when, and not what: that may hold an answer."""
    left, right = st.columns([1.6, 1], gap="large")
    later = '<span class="cb-quiet">shown once you have answered</span>'
    with left:
        st.markdown("##### Story")
        decided = moment(datetime.fromisoformat(record.decided_at))
        first = [
            f'<span class="cb-num">{decided}</span>',
            "router",
            f"decided: {text(str(record.outcome.status).replace('_', ' '))}",
        ]
        lines = [first] + [
            [
                f'<span class="cb-num">{text(when)}</span>',
                text(who),
                later if blind else text(what),
            ]
            for when, who, what in map(event_line, ledger().events(record.case))
        ]
        st.html(table(("when", "who", "what"), lines))
    with right:
        st.markdown("##### Decided with")
        st.html(
            table(
                ("", ""),
                [
                    [f'<span class="cb-quiet">{k}</span>', f'<span class="cb-id">{text(v)}</span>']
                    for k, v in version_lines(record)
                ],
            )
        )
