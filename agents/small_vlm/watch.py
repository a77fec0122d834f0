"""What makes a Trainer's checkpoints whole, and what is shown of a course while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from curbside.progress import Show
from curbside.storage import tree_digest, write_text

__all__ = ["Watch", "last_whole"]

_WHOLE = "whole.json"


class Watch(TrainerCallback):  # type: ignore[misc]
    """Progress with the loss, and checksums in every checkpoint, written last."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._loss = float("nan")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the latest loss."""
        self._loss = float((logs or {}).get("loss", self._loss))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step more."""
        self._show(1, f"loss {self._loss:.3f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say of the checkpoint that it is whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_text(folder / _WHOLE, json.dumps(tree_digest(folder)))


def last_whole(folder: Path) -> Path | None:
    """The latest checkpoint whose every file is as it was written."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()]
    for checkpoint in sorted(found, key=lambda p: -int(p.name.rpartition("-")[2])):
        try:
            kept = json.loads((checkpoint / _WHOLE).read_text(encoding="utf-8"))
            files = tree_digest(checkpoint)
            files.pop(_WHOLE)
            if files == kept:
                return checkpoint
        except (OSError, ValueError, KeyError):
            continue
    return None
