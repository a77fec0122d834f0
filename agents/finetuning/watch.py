"""What is seen of a training while it runs, and what makes its checkpoints whole.

Callbacks of transformers' Trainer: progress with loss, rate, time left and memory; seconds
and peak memory over all the runs that it took; and a file of checksums in every checkpoint,
written last, so that one that a kill left half-written is never gone on from.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from curbside.memory import high_water_mib
from curbside.progress import Show
from curbside.storage import tree_digest, write_text

__all__ = ["WHOLE", "Watch", "last_whole"]

#: Name of the file of checksums, written last.
WHOLE = "whole.json"


class Watch(TrainerCallback):  # type: ignore[misc]  # mypy skips transformers
    """See the module.

    Args:
        show: called after every step.
        before: what :func:`last_whole` kept of the runs before this one.
    """

    def __init__(self, show: Show, before: dict[str, float]) -> None:
        self._show, self._before = show, before
        self._started = time.perf_counter()
        self._loss = self._held_out = math.nan
        self.diverged_at: int | None = None

    @property
    def seconds(self) -> float:
        """Of training and looking, over all runs."""
        return self._before.get("seconds", 0.0) + time.perf_counter() - self._started

    @property
    def peak_mib(self) -> float:
        """Greatest memory of any run: of the GPU where there is one, else resident."""
        now = high_water_mib()
        if torch.cuda.is_available():
            now = torch.cuda.max_memory_allocated() / 2**20
        return max(now, self._before.get("peak_mib", 0.0))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the latest losses; a loss that is no number ends the training."""
        logs = logs or {}
        self._loss = float(logs.get("loss", self._loss))
        self._held_out = float(logs.get("eval_loss", self._held_out))
        if "loss" in logs and not math.isfinite(self._loss):
            self.diverged_at = self.diverged_at or int(state.global_step)
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step more."""
        parts = [f"step {state.global_step} of {state.max_steps}"]
        parts += [f"loss {self._loss:.3f}"] if math.isfinite(self._loss) else []
        parts += [f"held-out {self._held_out:.3f}"] if math.isfinite(self._held_out) else []
        self._show(1, ", ".join([*parts, f"peak {self.peak_mib / 1024:.1f} GiB"]))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say of the checkpoint that it is whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        kept = {"seconds": self.seconds, "peak_mib": self.peak_mib}
        write_text(folder / WHOLE, json.dumps({"files": tree_digest(folder), "so_far": kept}))


def last_whole(folder: Path) -> tuple[Path | None, dict[str, float]]:
    """The latest checkpoint whose every file is as it was written, and what was spent on it."""
    found = sorted(
        (p for p in folder.glob("checkpoint-*") if p.name.rpartition("-")[2].isdecimal()),
        key=lambda p: int(p.name.rpartition("-")[2]),
        reverse=True,
    )
    for checkpoint in found:
        try:
            kept = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
            files = tree_digest(checkpoint)
            files.pop(WHOLE)
            if files == kept["files"]:
                return checkpoint, {k: float(v) for k, v in kept["so_far"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None, {}
