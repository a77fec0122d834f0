"""The worklist against a plain Python one over the same records."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.errors import UserError
from curbside.router.entries import Entry
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.ledger_bench import bench_ledger
from curbside.router.synthetic import fill
from curbside.router.worklist import FACETS, SORTS, View, count, page, waited


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    made = open_ledger(tmp_path_factory.mktemp("worklist"), "ledger.sqlite")
    fill(made, 400)
    return made


@pytest.fixture(scope="module")
def everything(ledger: Ledger) -> list[Entry]:
    return [e for e, _ in ledger.all()]


def walk(ledger: Ledger, view: View, limit: int = 37) -> list[Entry]:
    rows: list[Entry] = []
    after = None
    while True:
        found = page(ledger, view, after=after, limit=limit)
        assert len(found.entries) <= limit
        rows += found.entries
        after = found.after
        if after is None:
            return rows


def matches(entry: Entry, view: View) -> bool:
    for facet in ("status", "tier", "modality"):
        wanted = getattr(view, facet)
        if wanted and getattr(entry, facet) not in wanted:
            return False
    if view.route and "+".join(entry.route) not in view.route:
        return False
    if view.flags and not set(entry.flags) & set(view.flags):
        return False
    if view.waiting and waited(entry) is None:
        return False
    if view.blind:
        told = f"{entry.study} {entry.task} {entry.modality}".lower()
        return all(word in told for word in view.text.lower().split())
    said = f"{entry.study} {entry.answer} {entry.provisional} {entry.answers} {entry.task}"
    return all(word in (said + " ".join(entry.flags)).lower() for word in view.text.split())


def subsets(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


VIEWS = st.builds(
    View,
    status=subsets("answered", "needs_review", "not_analysed"),
    tier=subsets("common", "rare", "novel", ""),
    modality=subsets("ct", "mri", "fundus", "none"),
    route=subsets("generalist", "specialist-ct", "specialist-ct+generalist"),
    flags=subsets("novel", "tag_disagreement", "disagreement", "not_analysed"),
    text=st.sampled_from(["", "synthetic-0-00001", "mass: x", "generalist", "100%_", "tag_dis"]),
    waiting=st.booleans(),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    blind=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(view=VIEWS)
def test_pages_hold_each_matching_case_once_and_in_order(
    ledger: Ledger, everything: list[Entry], view: View
) -> None:
    rows = walk(ledger, view)
    assert sorted(r.study for r in rows) == [e.study for e in everything if matches(e, view)]

    def number(value: float | None) -> float:
        return 2.0 if value is None else value

    late = time.time() - view.wait_cap
    keys: dict[str, Callable[[Entry], Any]] = {
        "priority": lambda e: (
            0 if waited(e) is not None and e.received_at <= late else e.urgency,
            e.received_at,
        ),
        "received": lambda e: e.received_at,
        "finished": lambda e: e.finished_at,
        "p_value": lambda e: number(e.p_value),
        "confidence": lambda e: number(e.confidence),
        "modality": lambda e: (e.modality, e.received_at),
        "study": lambda e: e.study,
    }
    found = [keys[view.sort](r) for r in rows]
    assert found == sorted(found, reverse=view.descending)


@settings(max_examples=40, deadline=None)
@given(view=VIEWS)
def test_counts_are_what_choosing_would_give(
    ledger: Ledger, everything: list[Entry], view: View
) -> None:
    counts = count(ledger, view)
    shown = [e for e in everything if matches(e, view)]
    assert counts.total == len(shown)
    assert counts.waiting == sum(waited(e) is not None for e in shown)
    for facet in FACETS:
        nothing: dict[str, Any] = {facet: ()}
        free = replace(view, **nothing)
        if facet == "status":
            free = replace(free, waiting=False)  # it is a choice of statuses too
        expected: Counter[str] = Counter()
        for e in everything:
            if matches(e, free):
                value = getattr(e, facet)
                if facet == "flags":
                    expected.update(value)
                else:
                    expected["+".join(value) if facet == "route" else value] += 1
        assert counts.by[facet] == dict(expected), facet


def test_a_case_that_comes_in_above_shifts_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, "l.sqlite")
    fill(ledger, 30)
    view = View(sort="received", descending=True)
    first = page(ledger, view, limit=10)
    fill(ledger, 20, seed=1)
    second = page(ledger, view, after=first.after, limit=10)
    assert not {e.study for e in first.entries} & {e.study for e in second.entries}
    assert second.entries[0].received_at < first.entries[-1].received_at


def test_what_has_waited_beyond_the_cap_rises_above_all(ledger: Ledger) -> None:
    some = page(ledger, View(wait_cap=3 * 86400.0), limit=400).entries
    now = time.time()
    late = [w is not None and w > 3 * 86400 for w in (waited(e, now) for e in some)]
    assert any(late) and late == sorted(late, reverse=True)
    lifted = {e.urgency for e, up in zip(some, late, strict=True) if up}
    assert lifted >= {1, 3}  # what was not analysed rises with the novel ones
    rest = [e.urgency for e, up in zip(some, late, strict=True) if not up]
    assert rest == sorted(rest) and 1 in rest


def test_words_that_are_no_view(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="priority, received"):
        View(sort="colour")
    cursor = page(ledger, View(sort="received"), limit=5).after
    for bad, view in ((cursor, View(sort="p_value")), ("@@", View()), ("YWJj", View())):
        with pytest.raises(UserError, match="cursor"):
            page(ledger, view, after=bad)


def test_the_bench_measures_every_view() -> None:
    result = bench_ledger(60, rounds=1)
    assert result.cases == 60 and len(result.views) == 9
    assert 0 < result.worst == result.to_json()["worst_ms"]
