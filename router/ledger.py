"""The ledger: what became of every case, once; who is at work on what; who reviewed it and how.

A case's *key* is a hash of the study, its content, the question and the versions that a
decision depends on.  A key is claimed with a lease, finished once, and what was finished
is never read again.  A study read anew under other versions gets a new record; the older
ones stay.  Knows no image, no model and no path.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, or_, select, update

from curbside.errors import Conflict, UserError
from curbside.readings import CaseRecord, Versions
from curbside.router.entries import Entry, columns_of_record, flags_of
from curbside.router.ledger_schema import (
    cases,
    claims,
    events,
    flags,
    insert_new,
    open_engine,
    reading,
    records,
    stamps,
    writing,
)
from curbside.router.review import Event, Kind, answer_of, reviewed
from curbside.study import Question, content_hash

__all__ = [
    "LEASE_SECONDS",
    "Ledger",
    "case_key",
    "open_ledger",
    "process_name",
]

#: Seconds for which a claim holds, unless it is finished or renewed before.
LEASE_SECONDS = 600.0
#: Parameters of one statement that every database takes.
_CHUNK = 500


def case_key(
    case: str, content: str, question: Question, versions: Versions, *, modality_tag: str = ""
) -> str:
    """What an outcome depends on, as one hash.

    Args:
        content: hash of what the images hold, or why they cannot be read.
        modality_tag: what the study's tags say, since it is compared with the pixels.

    The study's id is part of it: two patients with the same picture are two cases.  The
    code's version is not: a new release does not read everything again.
    """
    v = versions
    learned = (v.policy, v.encoder, v.index, v.calibration, v.fleet)
    return content_hash(case, content, modality_tag, question.key, *learned)


@dataclass(frozen=True)
class Ledger:
    """Reads and writes one ledger; see :func:`open_ledger`.  Safe from several threads."""

    engine: Engine

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()

    # -- claims ----------------------------------------------------------------------------

    def claim(self, keys: Sequence[str], owner: str, *, seconds: float = LEASE_SECONDS) -> set[str]:
        """Take keys to work on; returns those that are now the owner's.

        Not granted are those that are finished and those that another owner holds a lease
        on.  A lease that has run out is taken over; an owner's own is renewed.
        """
        now = time.time()
        mine: set[str] = set()
        with writing(self.engine) as c:
            lease = {"owner": owner, "expires_at": now + seconds}
            insert_new(c, claims, [{"key": k, **lease} for k in dict.fromkeys(keys)])
            for some in _chunks(keys):
                free = or_(claims.c.owner == owner, claims.c.expires_at < now)
                open_ = claims.c.key.in_(some) & claims.c.finished_at.is_(None)
                c.execute(update(claims).where(open_ & free).values(**lease))
                held = select(claims.c.key).where(open_ & (claims.c.owner == owner))
                mine |= set(c.scalars(held))
        return mine

    def renew(self, owner: str, *, seconds: float = LEASE_SECONDS) -> None:
        """Hold what an owner has claimed and not finished for longer."""
        mine = (claims.c.owner == owner) & claims.c.finished_at.is_(None)
        with writing(self.engine) as c:
            c.execute(update(claims).where(mine).values(expires_at=time.time() + seconds))

    def release_dead(self) -> None:
        """Give back at once what killed processes of this machine had claimed."""
        host, _, _ = process_name().partition(":")
        unfinished = claims.c.finished_at.is_(None)
        with reading(self.engine) as c:
            owners = c.scalars(select(claims.c.owner).where(unfinished).distinct()).all()
        dead = [o for o in owners if o.startswith(f"{host}:") and not _alive(o)]
        if dead:
            with writing(self.engine) as c:
                c.execute(delete(claims).where(unfinished, claims.c.owner.in_(dead)))

    def release(self, owner: str) -> None:
        """Give back what an owner has not finished, so that others need not wait."""
        mine = (claims.c.owner == owner) & claims.c.finished_at.is_(None)
        with writing(self.engine) as c:
            c.execute(delete(claims).where(mine))

    def finished(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that have an outcome."""
        found: set[str] = set()
        with reading(self.engine) as c:
            for some in _chunks(keys):
                done = claims.c.key.in_(some) & claims.c.finished_at.is_not(None)
                found |= set(c.scalars(select(claims.c.key).where(done)))
        return found

    # -- writing ---------------------------------------------------------------------------

    def write(self, outcomes: Iterable[tuple[str, CaseRecord]]) -> int:
        """Record outcomes, each key once, in one transaction; returns how many were new.

        Raises:
            StorageError: nothing of this call is recorded; everything before it is.
        """
        given = dict(outcomes)
        now = time.time()
        with writing(self.engine) as c:
            new: set[str] = set()
            for some in _chunks(list(given)):
                insert_new(c, claims, [{"key": k, "owner": "", "expires_at": now} for k in some])
                unfinished = claims.c.key.in_(some) & claims.c.finished_at.is_(None)
                # another writer of the same key waits here, and then finds it finished
                new |= set(c.scalars(select(claims.c.key).where(unfinished).with_for_update()))
                c.execute(update(claims).where(unfinished).values(finished_at=now))
            _append(c, [(k, r) for k, r in given.items() if k in new], now)
        return len(new)

    def stamp(self, kind: str, digest: str, body: str) -> None:
        """Keep what a hash in the records stands for (``policy`` or ``fleet``)."""
        with writing(self.engine) as c:
            insert_new(c, stamps, [{"kind": kind, "digest": digest, "body": body}])

    def add(
        self,
        case: str,
        kind: Kind,
        who: str,
        *,
        answer: str | None = None,
        code: str | None = None,
        text: str = "",
        revision: int | None = None,
        record: CaseRecord | None = None,
    ) -> Event:
        """Append an event to a case's story; with a ``record`` the case changes with it.

        Args:
            who: an opaque name of the person.
            revision: what the person saw; None where it does not matter.

        Raises:
            UserError: no such case, or nobody is named.
            Conflict: the case has changed since ``revision``; says by whom.
        """
        if not who.strip():
            raise UserError(
                f"nobody is named who did this to case {case!r}",
                hint="--who NAME, or CURBSIDE_READER=NAME; any opaque name",
            )
        now = time.time()
        with writing(self.engine) as c:
            at = self._at(c, case, revision)
            if record is not None:
                _append(c, [(at.key, record)], now)
            entry = {
                "study": case,
                "revision": at.revision + (record is not None),
                "at": now,
                "who": who,
                "kind": str(kind),
                "answer": answer,
                "code": code,
                "text": text,
            }
            c.execute(insert(events).values(**entry))
            if record is not None and answer is not None:
                c.execute(update(cases).where(cases.c.study == case).values(truth=answer))
        return _event(entry)

    def review(
        self,
        case: str,
        who: str,
        *,
        kind: Kind = Kind.ANSWER,
        answer: str | None = None,
        code: str | None = None,
        text: str = "",
        revision: int | None = None,
    ) -> CaseRecord:
        """A person answers a case, agrees with its reading or overrides it.

        Args:
            kind: ``ANSWER``, ``AGREE`` or ``OVERRIDE``.
            revision: what the person saw.  Without it, a case that a person has answered
                already is refused.

        Raises:
            UserError: no such case, nobody is named, or an answer that cannot be given.
            Conflict: somebody was quicker; says who.
        """
        at = self.get(case)
        if revision is None and at.truth is not None:
            raise self._conflict(case)
        before = self.record(case, at.revision)
        said = answer_of(before, kind, answer, code)
        after = reviewed(before, said, who)
        seen = at.revision if revision is None else revision
        self.add(case, kind, who, answer=said, code=code, text=text, revision=seen, record=after)
        return after

    # -- reading ---------------------------------------------------------------------------

    def get(self, case: str) -> Entry:
        """A study's row of the worklist.  Raises UserError where there is none."""
        with reading(self.engine) as c:
            return self._at(c, case, None)

    def record(self, case: str, revision: int | None = None) -> CaseRecord:
        """The record of a study, its latest or an earlier one.  Raises UserError."""
        wanted = records.c.study == case
        if revision is not None:
            wanted &= records.c.revision == revision
        latest = select(records.c.body).where(wanted).order_by(records.c.revision.desc()).limit(1)
        with reading(self.engine) as c:
            body = c.scalar(latest)
        if body is None:
            raise self._unknown(case)
        return CaseRecord.model_validate_json(body)

    def history(self, case: str) -> list[tuple[int, CaseRecord]]:
        """Every record of a study by revision, oldest first; empty where there is none."""
        rows = select(records.c.revision, records.c.body).where(records.c.study == case)
        with reading(self.engine) as c:
            found = c.execute(rows.order_by(records.c.revision)).all()
        return [(n, CaseRecord.model_validate_json(body)) for n, body in found]

    def of_keys(self, keys: Sequence[str]) -> dict[str, CaseRecord]:
        """Key to its latest record, for those that have one."""
        found: dict[str, str] = {}
        with reading(self.engine) as c:
            for some in _chunks(keys):
                rows = select(records.c.key, records.c.body).where(records.c.key.in_(some))
                found |= dict(c.execute(rows.order_by(records.c.revision)).all())
        return {k: CaseRecord.model_validate_json(body) for k, body in found.items()}

    def all(self, *, block: int = 500) -> Iterator[tuple[Entry, CaseRecord]]:
        """Every study with its latest record, by id, a block in memory at a time."""
        after = ""
        joined = cases.join(
            records,
            (records.c.study == cases.c.study) & (records.c.revision == cases.c.revision),
        )
        while True:
            rows = (
                select(cases, records.c.body)
                .select_from(joined)
                .where(cases.c.study > after)
                .order_by(cases.c.study)
                .limit(block)
            )
            with reading(self.engine) as c:
                found = c.execute(rows).mappings().all()
            if not found:
                return
            for row in found:
                yield Entry.of(dict(row)), CaseRecord.model_validate_json(row["body"])
            after = found[-1]["study"]

    def events(self, case: str) -> tuple[Event, ...]:
        """A case's story, oldest first."""
        with reading(self.engine) as c:
            rows = c.execute(select(events).where(events.c.study == case).order_by(events.c.id))
            return tuple(_event(dict(r)) for r in rows.mappings())

    def stamped(self, kind: str, digest: str) -> str | None:
        """What :meth:`stamp` kept for a hash, or None."""
        wanted = (stamps.c.kind == kind) & (stamps.c.digest == digest)
        with reading(self.engine) as c:
            body: str | None = c.scalar(select(stamps.c.body).where(wanted))
        return body

    # -- parts -----------------------------------------------------------------------------

    def _at(self, c: Connection, case: str, revision: int | None) -> Entry:
        row = c.execute(select(cases).where(cases.c.study == case)).mappings().first()
        if row is None:
            raise self._unknown(case)
        entry = Entry.of(dict(row))
        if revision is not None and revision != entry.revision:
            raise self._conflict(case)
        return entry

    def _unknown(self, case: str) -> UserError:
        return UserError(
            f"the ledger has no case {case!r}", hint="curbside review list shows those that wait"
        )

    def _conflict(self, case: str) -> Conflict:
        changes = [e for e in self.events(case) if e.kind in _CHANGING]
        if not changes:
            return Conflict(
                f"case {case!r} has been read anew since you saw it",
                hint=f"curbside review show {case}",
            )
        last = changes[-1]
        when = datetime.fromtimestamp(last.at).astimezone().isoformat(" ", "seconds")
        said = f" with {last.answer!r}" if last.answer else ""
        verb = {Kind.REROUTE: "re-routed", Kind.OVERRIDE: "overridden"}.get(last.kind, "answered")
        return Conflict(
            f"case {case!r} was {verb} by {last.who}{said} at {when}; it is now at revision "
            f"{last.revision}",
            hint=f"curbside review show {case}",
        )


_CHANGING = (Kind.ANSWER, Kind.AGREE, Kind.OVERRIDE, Kind.REROUTE)


def process_name() -> str:
    """``host:pid`` of this process, with which the name of a claim's owner begins."""
    return f"{socket.gethostname()}:{os.getpid()}"


def open_ledger(home: Path, where: str) -> Ledger:
    """The ledger that ``stores.ledger`` names: a file under the home folder, or a URL.

    Raises:
        ConfigError, StorageError: see :func:`curbside.router.ledger_schema.open_engine`.
    """
    return Ledger(open_engine(where if "://" in where else home / where))


def _append(c: Connection, outcomes: Sequence[tuple[str, CaseRecord]], now: float) -> None:
    """New records of studies, and their rows of the worklist."""
    latest: dict[str, int] = {}
    for some in _chunks([r.case for _, r in outcomes]):
        known = select(cases.c.study, cases.c.revision).where(cases.c.study.in_(some))
        latest |= dict(c.execute(known).all())
    changed = sorted(latest)
    bodies: list[dict[str, Any]] = []
    rows: dict[str, dict[str, Any]] = {}
    marks: dict[str, tuple[str, ...]] = {}
    for key, record in outcomes:
        case = record.case
        latest[case] = latest.get(case, -1) + 1
        named = {"study": case, "key": key, "revision": latest[case]}
        bodies.append({**named, "at": now, "body": record.model_dump_json()})
        rows[case] = columns_of_record(record, now) | named
        marks[case] = flags_of(record)
    for some in _chunks(changed):
        c.execute(delete(flags).where(flags.c.study.in_(some)))
    for case in changed:
        c.execute(update(cases).where(cases.c.study == case).values(**rows.pop(case)))
    flagged = [{"flag": f, "study": case} for case, some in marks.items() for f in some]
    for table, new in ((records, bodies), (cases, list(rows.values())), (flags, flagged)):
        if new:
            c.execute(insert(table), new)


def _event(row: Mapping[str, Any]) -> Event:
    return Event(
        case=row["study"],
        revision=row["revision"],
        at=row["at"],
        who=row["who"],
        kind=Kind(row["kind"]),
        answer=row["answer"],
        code=row["code"],
        text=row["text"],
    )


def _alive(owner: str) -> bool:
    try:
        os.kill(int(owner.split(":")[1]), 0)
    except (ProcessLookupError, ValueError, IndexError, OverflowError):
        return False
    except PermissionError:  # it is there, and another user's
        return True
    return True


def _chunks(keys: Sequence[str]) -> Iterator[list[str]]:
    some = list(dict.fromkeys(keys))
    for start in range(0, len(some), _CHUNK):
        yield some[start : start + _CHUNK]
