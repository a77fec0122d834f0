"""Tables of the ledger, how a database is opened, and the two statements that differ by database.

``records`` and ``events`` are append-only: what was once recorded stays.  ``cases`` holds
one row a study, its latest reading, narrow and indexed for the worklist; it could be made
again from ``records``.  ``claims`` holds one row a key: who is at work on it, or when it
was finished.  Times are seconds since 1970, UTC.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

from curbside.errors import ConfigError, StorageError

__all__ = [
    "VERSION",
    "cases",
    "claims",
    "events",
    "flags",
    "insert_new",
    "open_engine",
    "reading",
    "records",
    "stamps",
    "writing",
]

#: Raise when a table changes its meaning; a ledger of another version is refused.
VERSION = 1
_BUSY_SECONDS = 60

_meta = MetaData()

about = Table("about", _meta, Column("name", String, primary_key=True), Column("value", String))

claims = Table(
    "claims",
    _meta,
    Column("key", String(64), primary_key=True),
    Column("owner", String, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("finished_at", Float),
)

records = Table(
    "records",
    _meta,
    Column("study", String, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("key", String(64), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

cases = Table(
    "cases",
    _meta,
    Column("study", String, primary_key=True),
    Column("key", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("urgency", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("modality", String, nullable=False),
    Column("tier", String, nullable=False),
    Column("route", String, nullable=False),
    Column("task", String, nullable=False),
    Column("reader", String, nullable=False),
    Column("answer", String),
    Column("provisional", String),
    Column("confidence", Float),
    Column("p_value", Float),
    Column("answers", Text, nullable=False),
    Column("flags", String, nullable=False),
    Column("truth", String),
    Column("search", Text, nullable=False),
    Index("cases_facets", "status", "tier", "modality", "route", "flags"),
    Index("cases_urgency", "urgency", "received_at", "study"),
    Index("cases_received", "received_at", "study"),
    Index("cases_finished", "finished_at", "study"),
    Index("cases_modality", "modality", "received_at", "study"),
    Index("cases_p_value", "p_value", "study"),
    Index("cases_confidence", "confidence", "study"),
)

#: Reason codes that a person may filter by; one row a case and code.
flags = Table(
    "flags",
    _meta,
    Column("flag", String, primary_key=True),
    Column("study", String, primary_key=True),
    Index("flags_study", "study"),
)

events = Table(
    "events",
    _meta,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("study", String, nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("who", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("answer", String),
    Column("code", String),
    Column("text", Text, nullable=False),
)

#: Policies and fleets that records name by their hash, so that the ledger alone can replay.
stamps = Table(
    "stamps",
    _meta,
    Column("kind", String, primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)


def open_engine(where: str | Path) -> Engine:
    """Open a database, making its tables where they are missing.

    Args:
        where: an SQLite file, or a SQLAlchemy URL.

    Raises:
        ConfigError: the URL names a database that is unknown or has no driver here.
        StorageError: it cannot be opened, or was written by another version.
    """
    named = where if isinstance(where, str) and "://" in where else ""
    try:
        engine = create_engine(named) if named else _open_sqlite(Path(where))
    except (NoSuchModuleError, ImportError, SQLAlchemyError) as e:
        raise ConfigError(
            f"stores.ledger: no database can be opened by this URL ({type(e).__name__}); valid: "
            "a file name for SQLite, or a SQLAlchemy URL whose driver is installed",
            hint="curbside config check",
        ) from None
    try:
        if not inspect(engine).has_table("about"):
            _meta.create_all(engine)
        with writing(engine) as c:
            insert_new(c, about, [{"name": "version", "value": str(VERSION)}])
            found = c.scalar(select(about.c.value).where(about.c.name == "version"))
    except DBAPIError as e:
        raise _failed(e, "opened") from None
    if found != str(VERSION):
        raise StorageError(
            f"the ledger has version {found}, this curbside writes version {VERSION}",
            hint="set stores.ledger in curbside.yaml to another file, or use the other curbside",
        )
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection to read from.  Raises StorageError."""
    try:
        with engine.connect() as c:
            yield c
    except DBAPIError as e:
        raise _failed(e, "read") from None


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction, whole or not at all; other writers wait.  Raises StorageError."""
    try:
        with engine.connect().execution_options(writes=True) as c, c.begin():
            yield c
    except DBAPIError as e:
        raise _failed(e, "written") from None


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows whose primary key is not there yet.

    ``on conflict do nothing`` is in each database's dialect and not in the common one.
    """
    statement: Any
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        statement = postgresql.insert(table).on_conflict_do_nothing()
    else:
        from sqlalchemy.dialects import sqlite

        statement = sqlite.insert(table).on_conflict_do_nothing()
    if rows:
        connection.execute(statement, rows)


def _open_sqlite(path: Path) -> Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(
            f"the ledger's folder {path.parent} cannot be made: {e.strerror}",
            hint="set stores.ledger in curbside.yaml, or CURBSIDE_HOME",
        ) from e
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    # the driver's own guess of when to begin is switched off; see _begin_sqlite
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # a killed process loses nothing; a power cut may lose the last transactions, whole ones
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA cache_size=-32768")


def _begin_sqlite(connection: Connection) -> None:
    # a transaction that reads first and writes then could not wait its turn
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _failed(error: DBAPIError, what: str) -> StorageError:
    # the driver's own words, never the statement: it holds values
    said = str(error.orig).splitlines()[0] if error.orig else type(error).__name__
    first = "make it writable" if "readonly" in said else "free some space"
    return StorageError(
        f"the ledger cannot be {what}: {said}; what was recorded before is kept",
        hint=f"{first} or mend stores.ledger in curbside.yaml, then run it again",
    )
