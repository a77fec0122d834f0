"""What the index knew of the asked cases of a run, kept so that policies can be replayed later.

``assessments.safetensors`` lies beside ``responses.parquet``, with one row a row of it: those
two are all that :mod:`curbside.evals.replay` needs.  Holds numbers and names of
modalities and agents: no case, no pixel, no path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from curbside.assessments import Assessments
from curbside.errors import NotBuilt, StorageError
from curbside.storage import write_bytes

__all__ = ["ASSESSMENTS_FILE", "Known", "load_assessments", "save_assessments"]

ASSESSMENTS_FILE = "assessments.safetensors"
_NAMES = ("modalities", "agents", "strata")
_RERUN = "curbside eval run --cases MANIFEST --out DIR"


@dataclass(frozen=True)
class Known:
    """Assessments of the asked cases, and which agents served.

    Args:
        specialists: modality → agent; generalist: the agent that serves beside them.
    """

    assessments: Assessments
    specialists: Mapping[str, str]
    generalist: str

    @property
    def serving(self) -> tuple[str, ...]:
        """The agents that a policy chooses among, specialists first."""
        return (*sorted(set(self.specialists.values())), self.generalist)


def save_assessments(known: Known, path: Path) -> None:
    """Write them as one file, atomically.  Raises StorageError."""
    a = known.assessments
    arrays = {
        f.name: np.ascontiguousarray(getattr(a, f.name)) for f in fields(a) if f.name not in _NAMES
    }
    meta = {
        **{n: json.dumps(getattr(a, n)) for n in _NAMES},
        "specialists": json.dumps(dict(known.specialists)),
        "generalist": known.generalist,
    }
    write_bytes(path, save(arrays, meta))


def load_assessments(folder: Path) -> Known:
    """Those of the run in a folder.

    Raises:
        NotBuilt: the folder holds none (a run of an earlier version).
        StorageError: the file is damaged.
    """
    path = folder / ASSESSMENTS_FILE
    if not path.is_file():
        raise NotBuilt(f"there is no {ASSESSMENTS_FILE} in {folder}", hint=_RERUN)
    try:
        with safe_open(path, framework="numpy") as f:
            meta = f.metadata()
            columns: dict[str, Any] = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  safe_open's file is no dict
        columns |= {n: tuple(json.loads(meta[n])) for n in _NAMES}
        return Known(
            Assessments(**columns), json.loads(meta["specialists"]), str(meta["generalist"])
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise StorageError(f"{path} is damaged: {e}", hint=f"remove it, then: {_RERUN}") from e
