"""Runs on disk: a folder that ``curbside eval run`` has written, and one of its arms."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from curbside.errors import NotBuilt, StorageError
from curbside.evals.outcome_file import RunOutcomes, load_outcomes
from curbside.evals.schema import Summary

__all__ = ["SUMMARY_FILE", "load_summary", "open_run", "split_run"]

SUMMARY_FILE = "summary.json"
_RERUN = "curbside eval run --cases MANIFEST --out DIR"


def load_summary(folder: Path) -> Summary:
    """The summary of a run.

    Raises:
        NotBuilt: the folder holds no run.
        StorageError: it is damaged or of another schema.
    """
    path = folder / SUMMARY_FILE
    try:
        return Summary.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise NotBuilt(f"there is no {SUMMARY_FILE} in {folder}", hint=_RERUN) from None
    except (OSError, ValidationError) as e:
        raise StorageError(
            f"{path} cannot be read ({type(e).__name__})", hint=f"make it again: {_RERUN}"
        ) from None


def split_run(text: str) -> tuple[Path, str | None]:
    """``FOLDER`` or ``FOLDER:ARM``; a folder whose own name has a colon wins."""
    folder = Path(text)
    if folder.is_dir() or ":" not in text:
        return folder, None
    name, _, arm = text.rpartition(":")
    return Path(name), arm


def open_run(text: str) -> tuple[RunOutcomes, str]:
    """A run's outcomes and the arm that is meant: the one named, else the hybrid put forward.

    Raises:
        UserError: no such run or arm.
    """
    folder, arm = split_run(text)
    run = load_outcomes(folder)
    name = arm or load_summary(folder).decision.hybrid
    run.arm(name)
    return run, name
