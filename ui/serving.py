"""What all sessions of the console's server share: the worker and the ledger."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from curbside.config import Config, load_config
from curbside.readings import CaseRecord
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.worklist import View, page
from curbside.ui.session import where
from curbside.ui.workers import Worker

__all__ = ["config", "ledger", "queue", "recent_records", "worker"]

#: Studies that "next case" looks ahead.
_AHEAD = 100


@st.cache_resource(show_spinner=False)
def worker() -> Worker:
    """The one worker of this server."""
    return Worker()


def config() -> Config:
    """The configuration of the console's home.  Raises ConfigError."""
    return load_config(where() / "curbside.yaml")


@st.cache_resource(show_spinner=False, max_entries=2)
def _ledger(home: str, name: str) -> Ledger:
    return open_ledger(Path(home), name)


def ledger() -> Ledger:
    """The ledger of the console's home; made where there is none yet."""
    return _ledger(str(where().absolute()), config().stores.ledger)


def queue(view: View) -> list[str]:
    """Ids of the first studies of a view, in its order."""
    return [e.study for e in page(ledger(), view, limit=_AHEAD).entries]


def recent_records(n: int) -> list[CaseRecord]:
    """Records of the newest studies of the ledger."""
    newest = View(sort="finished", descending=True)
    return [ledger().record(e.study) for e in page(ledger(), newest, limit=n).entries]
