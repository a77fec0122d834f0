"""The store of interrupted graphs: opened, and rid of cases that were answered elsewhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from curbside.errors import StorageError

__all__ = ["forget", "open_checkpoints"]


def open_checkpoints(path: Path) -> Any:
    """LangGraph's saver over an SQLite file.  Raises StorageError."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, check_same_thread=False)
        saver = SqliteSaver(connection)
        saver.setup()
        # the journal survives a killed process either way; a power cut may lose the last case
        connection.execute("PRAGMA synchronous=NORMAL")
    except (sqlite3.Error, OSError) as e:
        raise StorageError(
            f"the store of waiting cases {path} cannot be opened: {e}",
            hint="move it away, or set stores.checkpoints in curbside.yaml",
        ) from e
    return saver


def forget(path: Path, case: str) -> None:
    """Remove what waits under a case's id, once the ledger has its answer."""
    if path.is_file():
        saver = open_checkpoints(path)
        saver.delete_thread(case)
        saver.conn.close()
