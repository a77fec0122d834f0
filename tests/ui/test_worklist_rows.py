"""The worklist's plain data: views in an address, waits in words, the next case by id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curbside.readings import Status
from curbside.router.worklist import SORTS, View
from curbside.ui.worklist_rows import (
    OF_READINGS,
    address_of,
    blinded,
    next_case,
    row_of,
    view_of,
    wait_words,
)

WORDS = st.lists(st.text("abc_+", min_size=1, max_size=4), max_size=3, unique=True).map(tuple)


@given(
    st.lists(st.sampled_from([str(s) for s in Status]), unique=True).map(tuple),
    WORDS,
    WORDS,
    st.text("xyz ", max_size=5),
    st.booleans(),
    st.sampled_from(SORTS),
    st.booleans(),
)
def test_a_view_survives_the_address(status, modality, flags, text, waiting, sort, down):
    view = View(
        status=status,
        modality=modality,
        flags=flags,
        text=text,
        waiting=waiting,
        sort=sort,
        descending=down,
    )
    there = address_of(view)
    assert view_of(lambda name: there.get(name, [])) == view


def test_what_an_address_cannot_mean_is_left_out():
    there = {"status": ["fine", "answered"], "sort": ["by heart"]}
    view = view_of(lambda name: there.get(name, []))
    assert view == View(status=("answered",), waiting=True)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(20, "< 1 min"), (59.9 * 60, "59 min"), (3 * 3600 + 61, "3 h 01 min"), (190_000, "2 d 4 h")],
)
def test_waits_in_words(seconds, said):
    assert wait_words(seconds) == said


def test_next_is_by_id_whatever_comes_in_above():
    assert next_case(["a", "b", "c"], "b") == "c"
    assert next_case(["new", "a", "b", "c"], "b") == "c"
    assert next_case(["a", "b"], "b") == "a"
    assert next_case(["a", "b"], "gone") == "a"
    assert next_case(["a"], "a") is None
    assert next_case([], "a") is None


def test_a_row_says_provisional_and_late_only_where_it_is(ledger):
    entry = ledger.get("study-strange")
    row = row_of(entry, entry.received_at + 7200, 3600.0)
    assert row.provisional and row.said in ("intact", "broken")
    assert row.late and row.wait == "2 h 00 min"
    assert not row_of(entry, entry.received_at + 60, 3600.0).late
    done = row_of(ledger.get("study-xray"), entry.received_at, 3600.0)
    assert not done.provisional and not done.wait and not done.by_person
    cut = ledger.get("study-cut")
    assert cut.status is Status.NOT_ANALYSED
    row = row_of(replace_flags(cut), cut.received_at, 3600.0)
    assert row.said == "" and row.flags == ("image_truncated",)


def replace_flags(entry):
    return entry._replace(flags=("image_truncated", "not_analysed"))


def test_a_blind_row_and_a_blind_view_hold_nothing_of_the_reading(ledger):
    entry = ledger.get("study-strange")._replace(flags=("novel", "disagreement", "below_floor"))
    assert set(entry.flags) & OF_READINGS
    row = row_of(entry, entry.received_at, 3600.0, hidden=True)
    assert (row.said, row.confidence, row.provisional) == ("", None, False)
    assert row.flags == ("novel",)
    view = View(text="broken", sort="confidence", flags=("novel", "disagreement"))
    shown = blinded(view)
    assert (shown.blind, shown.sort, shown.flags) == (True, "priority", ("novel",))
    assert blinded(View(sort="received")).sort == "received"
