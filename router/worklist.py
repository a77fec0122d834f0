"""The ledger as a worklist: filters, order, pages, counts, all in SQL.

Pages go by keyset: a cursor names the last row shown, so a page costs the same at any depth
and a row that comes in above never shifts what follows.  The default order is by urgency;
a case that has waited longer than the cap rises above all others, the longest first.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select

from curbside.errors import UserError
from curbside.router.entries import Entry
from curbside.router.ledger import Ledger
from curbside.router.ledger_schema import cases, flags, reading

__all__ = ["FACETS", "SORTS", "Counts", "Page", "View", "count", "page", "waited"]

#: What a worklist can be narrowed to; ``flags`` counts a case once under each of its flags.
FACETS = ("status", "tier", "modality", "route", "flags")
_COLUMNS = FACETS[:4]
#: Orders; all but ``priority`` also descending.
SORTS = ("priority", "received", "finished", "p_value", "confidence", "modality", "study")
#: Statuses that wait for a person.  What was not analysed waits too: nobody has looked.
WAITING = ("needs_review", "not_analysed", "quarantined")
#: Seconds after which a waiting case rises to the top.
WAIT_CAP = 3600.0
_LIFTED = 0


@dataclass(frozen=True)
class View:
    """Which cases, and in what order.

    Args:
        status, tier, modality, route, flags: any of these values; empty: all.  A route is
            the agents asked, joined by ``+``.
        text: found in ids, answers, tasks, options and flags, ignoring case.
        blind: for a person who is not to know yet what was answered: ``text`` is looked for in
            ids, tasks and modalities alone.
        waiting: only cases that a person must still look at.
        sort: one of :data:`SORTS`; ``descending`` turns it round.
        wait_cap: seconds after which a waiting case rises to the top of ``priority``.
    """

    status: tuple[str, ...] = ()
    tier: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    route: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    text: str = ""
    waiting: bool = False
    sort: str = "priority"
    descending: bool = False
    wait_cap: float = WAIT_CAP
    blind: bool = False

    def __post_init__(self) -> None:
        if self.sort not in SORTS:
            raise UserError(f"sort {self.sort!r} is unknown; valid: {', '.join(SORTS)}")


@dataclass(frozen=True)
class Page:
    """Some rows of a view.  ``after`` is the cursor of the next page, None on the last one."""

    entries: tuple[Entry, ...]
    after: str | None


@dataclass(frozen=True)
class Counts:
    """Cases of a view: all, waiting, and by value of each facet.

    A facet's own counts leave its own filter out, so they say what choosing another value
    would give.
    """

    total: int
    waiting: int
    by: dict[str, dict[str, int]]


def page(ledger: Ledger, view: View, *, after: str | None = None, limit: int = 50) -> Page:
    """One page of a view.

    Args:
        after: cursor of the page before; only of the same view.

    Raises:
        UserError: a cursor that is none, or of another order.
    """
    now = time.time()
    cursor: list[Any] = []
    if after is not None:
        now, cursor = _read_cursor(after, view)
    keys = _order(view, now)
    wanted = _where(view)
    if cursor:
        wanted.append(_beyond(keys, cursor, view.descending))
    rows = select(cases, *(k.label(f"sort_{i}") for i, k in enumerate(keys)))
    turned = [k.desc() if view.descending else k.asc() for k in keys]
    with reading(ledger.engine) as c:
        found = c.execute(rows.where(*wanted).order_by(*turned).limit(limit + 1)).mappings().all()
    shown = found[:limit]
    more = len(found) > limit
    last = [shown[-1][f"sort_{i}"] for i in range(len(keys))] if more else []
    return Page(
        tuple(Entry.of(dict(r)) for r in shown),
        _write_cursor(view, now, last) if more else None,
    )


def count(ledger: Ledger, view: View) -> Counts:
    """How many cases a view has, by facet."""
    columns = [cases.c[f] for f in FACETS]
    n = func.count().label("n")
    # one scan for all facets: what is left after grouping is a few hundred rows
    searched = View(text=view.text, blind=view.blind)
    groups = select(*columns, n).where(*_where(searched)).group_by(*columns)
    with reading(ledger.engine) as c:
        found = c.execute(groups).mappings().all()
    by: dict[str, Counter[str]] = {f: Counter() for f in FACETS}
    shown: Counter[str] = Counter()
    for row in found:
        values = {f: [row[f]] for f in _COLUMNS} | {"flags": row["flags"].split()}
        outside = [f for f in FACETS if not _within(view, f, values[f])]
        if not outside:
            shown[row["status"]] += row["n"]
        for facet in FACETS:
            if outside in ([], [facet]):
                by[facet].update(dict.fromkeys(values[facet], row["n"]))
    return Counts(
        shown.total(),
        sum(shown[s] for s in WAITING),
        {f: dict(by[f].most_common()) for f in FACETS},
    )


def _within(view: View, facet: str, values: Sequence[str]) -> bool:
    if facet == "status" and view.waiting and not set(values) & set(WAITING):
        return False
    wanted: Sequence[str] = getattr(view, facet)
    return not wanted or bool(set(values) & set(wanted))


def waited(entry: Entry, now: float | None = None) -> float | None:
    """Seconds for which a case has waited for a person, None where it does not wait."""
    if entry.status not in WAITING:
        return None
    return max((time.time() if now is None else now) - entry.received_at, 0.0)


def _where(view: View) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    for facet in _COLUMNS:
        values: Sequence[str] = getattr(view, facet)
        if values:
            wanted.append(cases.c[facet].in_(values))
    if view.flags:
        wanted.append(cases.c.study.in_(select(flags.c.study).where(flags.c.flag.in_(view.flags))))
    if view.waiting:
        wanted.append(cases.c.status.in_(WAITING))
    c = cases.c
    within: ColumnElement[Any] = c.search
    if view.blind:
        within = func.lower(c.study + " " + c.task + " " + c.modality)
    return wanted + [within.contains(w, autoescape=True) for w in view.text.lower().split()]


def _order(view: View, now: float) -> list[ColumnElement[Any]]:
    """Sort keys, the last of them unique."""
    c = cases.c
    if view.sort == "priority":
        late = c.status.in_(WAITING) & (c.received_at <= now - view.wait_cap)
        return [case((late, literal(_LIFTED)), else_=c.urgency), c.received_at, c.study]
    first: dict[str, list[ColumnElement[Any]]] = {
        "received": [c.received_at],
        "finished": [c.finished_at],
        # a case without a number comes last, or first when turned round
        "p_value": [func.coalesce(c.p_value, 2.0)],
        "confidence": [func.coalesce(c.confidence, 2.0)],
        "modality": [c.modality, c.received_at],
        "study": [],
    }
    return [*first[view.sort], c.study]


def _beyond(
    keys: Sequence[ColumnElement[Any]], cursor: Sequence[Any], descending: bool
) -> ColumnElement[bool]:
    """Rows after the cursor, in the order of the keys."""
    steps = []
    for i, key in enumerate(keys):
        further = key < cursor[i] if descending else key > cursor[i]
        steps.append(and_(*(k == v for k, v in zip(keys[:i], cursor[:i], strict=True)), further))
    return or_(*steps)


def _write_cursor(view: View, now: float, last: Sequence[Any]) -> str:
    raw = json.dumps([view.sort, view.descending, now, *last]).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_cursor(cursor: str, view: View) -> tuple[float, list[Any]]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        sort, descending, now, *last = json.loads(raw)
        if (sort, descending) != (view.sort, view.descending):
            raise ValueError("another order")
        if len(last) != len(_order(view, now)):
            raise ValueError("another number of keys")
    except (ValueError, TypeError):
        raise UserError(
            "the cursor is not one of this view", hint="start at the first page again"
        ) from None
    return float(now), last
