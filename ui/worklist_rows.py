"""The worklist as plain data: a view to and from the page's address, and rows for the eye."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from curbside.readings import Status
from curbside.router.entries import Entry
from curbside.router.worklist import SORTS, View, waited

__all__ = [
    "BLIND_SORTS",
    "FLAG_WORDS",
    "OF_READINGS",
    "SORT_WORDS",
    "Row",
    "address_of",
    "blinded",
    "next_case",
    "row_of",
    "view_of",
    "wait_words",
]

SORT_WORDS: Mapping[str, str] = {
    "priority": "Urgency and wait",
    "received": "Received",
    "finished": "Decided",
    "p_value": "Strangest first",
    "confidence": "Least sure first",
    "modality": "Modality",
    "study": "Study",
}

#: What a flag means, for people; a code that is not here is shown with its underscores gone.
FLAG_WORDS: Mapping[str, str] = {
    "novel": "unlike anything seen",
    "provisional": "provisional reading",
    "disagreement": "readers disagree",
    "assumed_question": "question assumed",
    "tag_disagreement": "tags disagree",
    "below_floor": "below the floor",
    "unproven": "reader unproven here",
    "no_reading": "no reading",
    "fallback": "fallback reader",
    "abstention": "a reader abstained",
    "failure": "a reader failed",
    "not_analysed": "not analysed",
    "quarantined": "quarantined",
    "rerouted": "re-routed",
}
#: Flags that come from what agents said, and not from the study.
OF_READINGS = frozenset(
    ("provisional", "disagreement", "below_floor", "no_reading", "abstention", "failure")
)
#: Orders that tell nothing of what agents said.
BLIND_SORTS = tuple(s for s in SORTS if s != "confidence")
_MANY = ("status", "tier", "modality", "route", "flags")


def view_of(many: Callable[[str], Sequence[str]]) -> View:
    """The view that an address names; what it cannot mean is left out.

    Args:
        many: all values of a query parameter.
    """
    statuses = [str(s) for s in Status]
    sort = next(iter(many("sort")), "priority")
    return View(
        status=tuple(s for s in many("status") if s in statuses),
        tier=tuple(many("tier")),
        modality=tuple(many("modality")),
        route=tuple(many("route")),
        flags=tuple(many("flags")),
        text=next(iter(many("q")), ""),
        waiting=next(iter(many("waiting")), "true").lower() == "true",
        sort=sort if sort in SORTS else "priority",
        descending=next(iter(many("down")), "false").lower() == "true",
    )


def address_of(view: View) -> dict[str, list[str]]:
    """Query parameters of a view, without its defaults; :func:`view_of` reads them back."""
    out = {name: list(getattr(view, name)) for name in _MANY}
    out |= {
        "q": [view.text] if view.text else [],
        "waiting": [] if view.waiting else ["false"],
        "sort": [view.sort] if view.sort != "priority" else [],
        "down": ["true"] if view.descending else [],
    }
    return {k: v for k, v in out.items() if v}


def blinded(view: View) -> View:
    """The view for a person who reads blind first: nothing in it depends on an answer.

    A search for an answer, an order by how sure the reader was, or a filter by whether readers
    disagree would give away as much as the answer on the line.
    """
    return replace(
        view,
        blind=True,
        flags=tuple(f for f in view.flags if f not in OF_READINGS),
        sort=view.sort if view.sort in BLIND_SORTS else "priority",
    )


@dataclass(frozen=True)
class Row:
    """One line of the worklist.

    Args:
        said: the answer, or the provisional reading, or ``""``.
        by_person: a person has answered.
        hidden: the reader reads blind first, so nothing of the answer is in here.
        wait: how long it has waited, ``""`` where it does not wait; late: beyond the cap.
    """

    study: str
    status: Status
    modality: str
    tier: str
    said: str
    provisional: bool
    by_person: bool
    confidence: float | None
    p_value: float | None
    route: str
    flags: tuple[str, ...]
    wait: str
    late: bool
    hidden: bool = False


def row_of(entry: Entry, now: float, cap: float, *, hidden: bool = False) -> Row:
    """One line from a row of the ledger; ``now`` and ``cap`` in seconds.

    Args:
        hidden: what was read is left out, how sure the reader is, and what flags tell of it.
    """
    seconds = waited(entry, now)
    return Row(
        study=entry.study,
        status=entry.status,
        modality=entry.modality,
        tier=entry.tier,
        said="" if hidden else entry.answer or entry.provisional or "",
        provisional=not hidden and entry.answer is None and entry.provisional is not None,
        by_person=entry.truth is not None,
        confidence=None if hidden else entry.confidence,
        p_value=entry.p_value,
        route=", ".join(entry.route),
        flags=tuple(
            f
            for f in entry.flags
            if f != "provisional" and f != str(entry.status) and not (hidden and f in OF_READINGS)
        ),
        wait="" if seconds is None else wait_words(seconds),
        late=seconds is not None and seconds >= cap,
        hidden=hidden,
    )


def flag_words(flag: str) -> str:
    """A flag in words."""
    return FLAG_WORDS.get(flag, flag.replace("_", " "))


def wait_words(seconds: float) -> str:
    """A wait as a person says it: ``4 min``, ``3 h 12 min``, ``2 d 5 h``."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return "< 1 min"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def next_case(queue: Sequence[str], current: str) -> str | None:
    """The study after the current one in a queue of ids; the first where it is not in it.

    By id, never by position: a study that comes in above changes nothing.
    """
    others = [c for c in queue if c != current]
    if not others:
        return None
    if current in queue:
        after = queue[queue.index(current) + 1 :]
        return after[0] if after else others[0]
    return others[0]
