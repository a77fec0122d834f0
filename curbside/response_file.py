"""A response matrix as a Parquet file, one row a case and agent, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curbside.errors import StorageError
from curbside.responses import ResponseMatrix
from curbside.storage import new_file

__all__ = ["load_responses", "save_responses"]


def save_responses(matrix: ResponseMatrix, path: Path) -> None:
    """Write a matrix as Parquet, one row a case and agent (cases outermost), atomically.

    Raises:
        StorageError: the disk is full or read-only; what was there before is unchanged.
    """
    n, a = matrix.status.shape
    k = matrix.probabilities.shape[2]
    used = np.repeat(np.where(matrix.n_options > 0, matrix.n_options, 0), a)
    flat = matrix.probabilities.reshape(n * a, k)
    kept = flat[np.arange(k) < used[:, None]] if k else np.zeros(0, np.float32)
    offsets = np.concatenate([[0], np.cumsum(used)]).astype(np.int32)
    table = pa.table(
        {
            "case": pa.array(np.repeat(np.array(matrix.cases, object), a), pa.string()),
            "agent": pa.array(np.tile(np.array(matrix.agents, object), n), pa.string()),
            "status": matrix.status.ravel(),
            "truth": np.repeat(matrix.truth, a),
            "n_options": np.repeat(matrix.n_options, a),
            "confidence": matrix.confidence.ravel(),
            "latency_ms": matrix.latency_ms.ravel(),
            "cost": matrix.cost.ravel(),
            "probabilities": pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), pa.array(kept, pa.float32())
            ),
        },
        metadata={"curbside": json.dumps({"agents": list(matrix.agents), "cases": n, "k": k})},
    )
    with new_file(path) as temporary:
        pq.write_table(table, temporary)


def load_responses(path: Path) -> ResponseMatrix:
    """Read what :func:`save_responses` wrote.

    Raises:
        StorageError: missing, half-written or not such a file.
    """
    hint = "remove it and run the evaluation again"
    try:
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[b"curbside"])
        agents, n, k = tuple(meta["agents"]), int(meta["cases"]), int(meta["k"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as e:
        raise StorageError(f"{path.name} is no response matrix: {e}", hint=hint) from e
    a = len(agents)
    if len(table) != n * a:
        raise StorageError(f"{path.name} has {len(table)} rows, not {n} x {a}", hint=hint)
    lists = table["probabilities"].combine_chunks()
    sizes = np.diff(lists.offsets.to_numpy())
    probabilities = np.zeros((n * a, k), np.float32)
    probabilities[np.arange(k) < sizes[:, None]] = lists.values.to_numpy()

    def column(name: str, dtype: type) -> Any:
        return table[name].to_numpy().astype(dtype).reshape(n, a)

    return ResponseMatrix(
        cases=tuple(table["case"].to_pylist()[::a]) if a else (),
        agents=agents,
        status=column("status", np.int8),
        probabilities=probabilities.reshape(n, a, k),
        n_options=column("n_options", np.int16)[:, 0],
        truth=column("truth", np.int16)[:, 0],
        confidence=column("confidence", np.float32),
        latency_ms=column("latency_ms", np.float32),
        cost=column("cost", np.float32),
    )
