"""What every arm made of every case, as one Parquet file: what comparisons of runs are made of.

``outcomes.parquet`` lies beside ``summary.json``: one row a case and arm, with the case's
strata, so that two runs can be paired by case id long after their models are gone.  Holds ids
and numbers: no pixel, no path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curbside.errors import NotBuilt, StorageError, UserError
from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.storage import new_file

__all__ = ["OUTCOMES_FILE", "RunOutcomes", "load_outcomes", "mean_outcomes", "save_outcomes"]

OUTCOMES_FILE = "outcomes.parquet"
_NUMBERS = ("right", "answered", "confidence", "cost", "latency_ms")
_TEXTS = ("modality", "predicted", "tier", "task", "label")
_FLAGS = ("usable", "asked", "rare_finding", "confounded")
_RERUN = "curbside eval run --cases MANIFEST --out DIR"


@dataclass(frozen=True)
class RunOutcomes:
    """The asked cases of one run and what each arm made of them.

    Args:
        frame: n cases, all asked.
        arms: name → outcomes of those cases (probabilities are not kept).
        novelty: float64 (n,), novelty score; NaN where unknown.
        p_value: float64 (n,), conformal.
    """

    frame: Frame
    arms: Mapping[str, Outcomes]
    novelty: NDArray[np.float64]
    p_value: NDArray[np.float64]

    def arm(self, name: str) -> Outcomes:
        """Outcomes of an arm.  Raises UserError naming the arms that there are."""
        if name not in self.arms:
            raise UserError(
                f"there is no arm {name!r} in this run; it has: {', '.join(self.arms)}",
                hint="curbside eval compare FOLDER:ARM FOLDER:ARM",
            )
        return self.arms[name]


def mean_outcomes(draws: Sequence[Outcomes]) -> Outcomes:
    """The mean over trained draws, case by case; probabilities are left out."""
    means: dict[str, Any] = {
        k: np.mean([getattr(o, k) for o in draws], axis=0, dtype=np.float32) for k in _NUMBERS
    }
    return Outcomes(**means, probabilities=None)


def save_outcomes(run: RunOutcomes, path: Path) -> None:
    """Write a run's outcomes, one row a case and arm (arms outermost).  Raises StorageError."""
    n, a = len(run.frame), len(run.arms)
    columns: dict[str, Any] = {"case": _repeated(run.frame.ids, a)}
    columns |= {k: _repeated(getattr(run.frame, k), a) for k in _TEXTS}
    columns["group"] = np.tile(run.frame.group.astype(np.int32), a)
    columns |= {k: np.tile(getattr(run.frame, k), a) for k in _FLAGS}
    columns |= {"novelty": np.tile(run.novelty, a), "p_value": np.tile(run.p_value, a)}
    columns["arm"] = pa.array(np.repeat(np.array(list(run.arms), object), n), pa.string())
    for k in _NUMBERS:
        values = [getattr(o, k) for o in run.arms.values()]
        columns[k] = np.concatenate(values) if values else np.zeros(0, np.float32)
    meta = {"curbside-outcomes": json.dumps({"cases": n, "arms": list(run.arms)})}
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns, metadata=meta), temporary, compression="zstd")


def load_outcomes(folder: Path) -> RunOutcomes:
    """Outcomes of the run in a folder.

    Raises:
        NotBuilt: the folder holds no run with outcomes.
        StorageError: the file is damaged.
    """
    path = folder / OUTCOMES_FILE
    if not path.is_file():
        raise NotBuilt(f"there is no {OUTCOMES_FILE} in {folder}", hint=_RERUN)
    try:
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[b"curbside-outcomes"])
        n, names = int(meta["cases"]), list(meta["arms"])
        if len(table) != n * len(names):
            raise ValueError(f"{len(table)} rows, not {n} x {len(names)}")
        columns = {k: table[k].to_numpy() for k in table.column_names if k not in _TEXTS}
        facts: dict[str, Any] = {"ids": _text(table["case"].to_pylist()[:n])}
        facts |= {k: _text(table[k].to_pylist()[:n]) for k in _TEXTS}
        facts |= {k: columns[k][:n].astype(bool) for k in _FLAGS}
        frame = Frame(group=columns["group"][:n].astype(np.intp), **facts)
        arms = {
            name: Outcomes(
                **{k: columns[k][i * n : (i + 1) * n] for k in _NUMBERS}, probabilities=None
            )
            for i, name in enumerate(names)
        }
        return RunOutcomes(frame, arms, columns["novelty"][:n], columns["p_value"][:n])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as e:
        raise StorageError(f"{path} is damaged: {e}", hint=f"remove it, then: {_RERUN}") from e


def _repeated(values: NDArray[Any], times: int) -> Any:
    return pa.array(np.tile(values.astype(object), times), pa.string())


def _text(values: list[str]) -> NDArray[np.str_]:
    return np.array(values, np.str_) if values else np.zeros(0, "U1")
