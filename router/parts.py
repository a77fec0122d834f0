"""Case records as rows of a table, and studies from rows: Arrow, pandas, Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from curbside.cases import cases_of_rows
from curbside.errors import UserError
from curbside.readings import CaseRecord, Reading, Status
from curbside.study import Study

__all__ = ["SCHEMA", "as_table", "error_of", "row_of", "studies_of", "table_of"]

_REASON = pa.struct([("code", pa.string()), ("text", pa.string())])
_READING = pa.struct(
    [
        ("agent", pa.string()),
        ("answer", pa.string()),
        ("confidence", pa.float64()),
        ("probabilities", pa.list_(pa.float64())),
        ("problem", pa.string()),
    ]
)

#: Columns of a part.  ``error`` is null where the images could be used, else a code, and
#: ``error_text`` says more.  ``readings`` are in the order asked; ``problem``: why no answer.
SCHEMA = pa.schema(
    [
        ("case", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("error_text", pa.string()),
        ("answer", pa.string()),
        ("provisional", pa.string()),
        ("confidence", pa.float64()),
        ("reader", pa.string()),
        ("route", pa.list_(pa.string())),
        ("modality", pa.string()),
        ("tier", pa.string()),
        ("p_value", pa.float64()),
        ("support", pa.int32()),
        ("task", pa.string()),
        ("options", pa.list_(pa.string())),
        ("readings", pa.list_(_READING)),
        ("reasons", pa.list_(_REASON)),
        ("what_if", pa.list_(pa.string())),
        ("content", pa.string()),
        ("received_at", pa.string()),
        ("decided_at", pa.string()),
        ("version_code", pa.string()),
        ("version_encoder", pa.string()),
        ("version_index", pa.string()),
        ("version_calibration", pa.string()),
        ("version_policy", pa.string()),
        ("version_fleet", pa.string()),
    ]
)


def error_of(record: CaseRecord) -> tuple[str, str] | None:
    """Why the images could not be used (a stable code, a sentence), or None."""
    if record.outcome.status not in (Status.NOT_ANALYSED, Status.QUARANTINED):
        return None
    first = record.outcome.reasons[0]
    return first.code, first.text


def row_of(record: CaseRecord) -> dict[str, Any]:
    """One row of :data:`SCHEMA`."""
    o, error = record.outcome, error_of(record)
    return {
        "case": record.case,
        "status": str(o.status),
        "error": error[0] if error else None,
        "error_text": error[1] if error else None,
        "answer": o.answer,
        "provisional": o.provisional,
        "confidence": o.confidence,
        "reader": o.reader,
        "route": list(o.route),
        "modality": record.modality,
        "tier": str(record.tier) if record.tier else None,
        "p_value": record.familiarity.p_value if record.familiarity else None,
        "support": record.support,
        "task": record.task,
        "options": list(record.options),
        "readings": [_reading(r) for r in record.responses],
        "reasons": [{"code": r.code, "text": r.text} for r in o.reasons],
        "what_if": [f"{c.change}: {c.then}" for c in o.counterfactuals],
        "content": record.content,
        "received_at": record.received_at,
        "decided_at": record.decided_at,
        **{f"version_{name}": value for name, value in record.versions},
    }


def table_of(records: Sequence[CaseRecord]) -> pa.Table:
    """Records as an Arrow table of :data:`SCHEMA`."""
    return pa.Table.from_pylist([row_of(r) for r in records], schema=SCHEMA)


def as_table(records: Sequence[CaseRecord], *, like: Any) -> Any:
    """Records as an Arrow table or a pandas frame, whichever ``like`` is."""
    table = table_of(records)
    return table if isinstance(like, pa.Table) else table.to_pandas()


def studies_of(given: Any) -> list[Study]:
    """Studies from a table with the columns of a manifest; paths are of the working folder.

    Raises:
        UserError: it is no table; CasesError: rows are bad, all of them named.
    """
    if isinstance(given, pa.Table):
        rows = given.to_pylist()
    elif hasattr(given, "to_dict"):
        rows = given.to_dict("records")
    else:
        raise UserError(
            f"a {type(given).__name__} is no batch; valid: a sequence, an iterator or an "
            "asynchronous iterator of studies, a pandas DataFrame, an Arrow Table"
        )
    if not rows:  # of nothing comes nothing, as of an empty list
        return []
    full = [{k: v for k, v in row.items() if v is not None} for row in rows]
    return cases_of_rows(list(enumerate(full, 1)), Path("table")).studies()


def _reading(response: Any) -> dict[str, Any]:
    if isinstance(response, Reading):
        return {
            "agent": response.agent,
            "answer": response.answer,
            "confidence": response.confidence,
            "probabilities": list(response.probabilities),
            "problem": None,
        }
    why = getattr(response, "message", None) or getattr(response, "reason", "")
    return {"agent": response.agent, "problem": f"{response.type}: {why}"}
