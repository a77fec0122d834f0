"""A training as a folder: what it is made of, where it goes on, and the adapter it becomes.

``OUT/run.json`` says of what the training is, ``OUT/work`` holds checkpoints while it runs, and
at the end the adapter replaces the whole folder at once.  A folder of another training is
refused, so that two are never mixed.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from curbside.agents.device import has_bfloat16, torch_device
from curbside.agents.finetuning.card import CARD_FILE, AdapterCard, read_card
from curbside.agents.finetuning.recipe import Recipe
from curbside.errors import CurbsideError, StorageError, UserError
from curbside.storage import new_folder, write_text

if TYPE_CHECKING:
    from curbside.agents.finetuning.watch import Watch

__all__ = [
    "Run",
    "Trained",
    "arguments",
    "began_on",
    "fit",
    "go_on",
    "half_precision",
    "metrics_of",
    "quiet",
]

RUN_FILE = "run.json"
_THREADS = "threads"
_FREE_BYTES = 2**20


@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Args:
        losses: (step, loss on the held-out groups); empty where none were watched.
    """

    steps: int
    planned: int
    loss: float
    losses: tuple[tuple[int, float], ...]
    seconds: float
    peak_mib: float


class Run:
    """The folder of one training.

    Args:
        facts: name → digest or value of everything the adapter depends on; beside them stays on
            how many threads it began, since on others the last digits would be others.

    Raises:
        UserError: the folder holds another training, or something else.
    """

    def __init__(self, out: Path, facts: Mapping[str, str]) -> None:
        self.out, self.facts = out, dict(facts)
        self.work = out / "work"
        known = self._known()
        self.threads = _threads(known or {}) or torch.get_num_threads()
        if known is not None:
            known.pop(_THREADS, None)
        if known is not None and known != self.facts:
            other = sorted(k for k in {**known, **self.facts} if known.get(k) != self.facts.get(k))
            raise UserError(
                f"{out} holds a training of another {', '.join(other)}; it is not gone on from",
                hint="give another --out, or the same cases, agent, recipe, shots and seed",
            )
        self.finished = (out / CARD_FILE).is_file()
        if known is None and out.is_dir() and any(out.iterdir()):
            raise UserError(
                f"{out} is not empty and holds no training of curbside", hint="give another --out"
            )
        if known is None:
            write_text(out / RUN_FILE, self._told())

    def _known(self) -> dict[str, str] | None:
        try:
            found = json.loads((self.out / RUN_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UserError(
                f"{self.out / RUN_FILE} is damaged", hint="give another --out, or remove the folder"
            )
        return found

    def card(self) -> AdapterCard:
        """The card of a finished training.  Raises UserError."""
        return read_card(self.out)

    @contextmanager
    def finishing(self) -> Iterator[Path]:
        """A folder to write the adapter into; on success it takes the place of everything."""
        with new_folder(self.out) as temporary:
            yield temporary
            (temporary / RUN_FILE).write_text(self._told(), "utf-8")

    def _told(self) -> str:
        return json.dumps({**self.facts, _THREADS: str(self.threads)}, indent=1) + "\n"


def began_on(out: Path) -> int:
    """How many threads the training in a folder began on; where there is none, torch's now."""
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whether it is damaged, Run says
        found = None
    return _threads(found if isinstance(found, dict) else {}) or torch.get_num_threads()


def _threads(facts: Mapping[str, str]) -> int:
    """0 where none is said."""
    said = facts.get(_THREADS, "")
    return int(said) if isinstance(said, str) and said.isdecimal() else 0


def half_precision(recipe: Recipe) -> bool:
    """Whether to train in bfloat16: asked for, or ``auto`` on a GPU that has it."""
    if recipe.dtype == "auto":
        return has_bfloat16()
    return recipe.dtype == "bfloat16"


def arguments(run: Run, recipe: Recipe, *, lessons: int, watched: int, seed: int) -> dict[str, Any]:
    """Arguments of transformers' Trainer that every training shares.

    Steps are counted for one device; on several, accelerate divides them.
    """
    a_round = math.ceil(lessons / (recipe.batch * recipe.accumulate))
    steps = max(1, math.ceil(a_round * recipe.epochs))
    every = max(1, steps // recipe.looks)
    gpu = torch_device().type == "cuda"
    checkpointing = gpu if recipe.gradient_checkpointing is None else recipe.gradient_checkpointing
    return {
        "output_dir": str(run.work),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch,
        "per_device_eval_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "learning_rate": recipe.rate,
        "weight_decay": recipe.decay,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not gpu,
        "bf16": half_precision(recipe),
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
        "dataloader_pin_memory": gpu,
        "logging_steps": max(1, every // 5),
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if watched else "no",
        "eval_steps": every if watched else None,
        "load_best_model_at_end": bool(watched),
        "metric_for_best_model": "loss" if watched else None,
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def fit(
    run: Run, recipe: Recipe, make: Callable[[list[Any]], Any], label: str, *, watched: bool
) -> tuple[Any, Trained]:
    """Train, or go on from the last whole checkpoint.

    Args:
        make: a Trainer with these callbacks.

    Returns:
        The trainer, with the best weights seen, and how it ended.

    Raises:
        UserError: the loss became infinite or no number.
        StorageError: see :func:`go_on`.
    """
    from transformers import EarlyStoppingCallback

    stopping = [EarlyStoppingCallback(recipe.patience)] if watched else []
    trainer, watch = go_on(run.work, lambda: make(stopping), label)
    if watch.diverged_at is not None:
        shutil.rmtree(run.work, ignore_errors=True)
        raise UserError(
            f"the loss became infinite or no number at step {watch.diverged_at}",
            hint=f"lower the rate in the recipe (it is {recipe.rate:g}), then run it again",
        )
    history = trainer.state.log_history
    return trainer, Trained(
        steps=int(trainer.state.global_step),
        planned=_planned(trainer),
        loss=next((float(h["loss"]) for h in reversed(history) if "loss" in h), math.nan),
        losses=tuple((int(h["step"]), float(h["eval_loss"])) for h in history if "eval_loss" in h),
        seconds=watch.seconds,
        peak_mib=watch.peak_mib,
    )


def go_on(work: Path, make: Callable[[], Any], label: str) -> tuple[Any, Watch]:
    """Train from the last whole checkpoint in a folder, or from the start.

    Args:
        make: a Trainer that writes into the folder.

    Returns:
        The trainer, trained, and what was seen of it.

    Raises:
        StorageError: the disk is full; checkpoints written before are whole.
    """
    from transformers import PrinterCallback

    from curbside.agents.finetuning.watch import Watch, last_whole
    from curbside.progress import steps

    checkpoint, before = last_whole(work)
    _drop_others(work, checkpoint)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    with quiet():
        trainer = make()
        trainer.remove_callback(PrinterCallback)
        with steps(label, max(_planned(trainer) - done, 0)) as show:
            watch = Watch(show, before)
            trainer.add_callback(watch)
            try:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except CurbsideError:
                raise
            except Exception as e:
                # safetensors and torch raise errors of their own for a full disk
                if isinstance(e, OSError) or shutil.disk_usage(work.parent).free < _FREE_BYTES:
                    raise StorageError(
                        f"cannot write a checkpoint below {work.parent}: {type(e).__name__}",
                        hint="free some space, then run it again: it goes on",
                    ) from e
                raise
    return trainer, watch


def metrics_of(trained: Trained) -> dict[str, float | None]:
    """Losses at the end."""
    held = [loss for _, loss in trained.losses]
    return {
        "loss at the end": trained.loss,
        "loss on held-out groups, first look": held[0] if held else None,
        "loss on held-out groups, best": min(held) if held else None,
    }


def _planned(trainer: Any) -> int:
    """Steps that a trainer is going to take, as transformers counts them."""
    a_round = len(trainer.get_train_dataloader())
    together = trainer.args.gradient_accumulation_steps
    epochs = float(trainer.args.num_train_epochs)
    steps: int = math.ceil(epochs * max(1, -(-a_round // together)))
    return steps


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries say of each other's old names, and their own bars."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)


def _drop_others(work: Path, whole: Path | None) -> None:
    """Checkpoints that a kill left half-written, and all that came after the one gone on from."""
    for found in work.glob("checkpoint-*"):
        later = whole is None or int(found.name.rpartition("-")[2]) > int(
            whole.name.rpartition("-")[2]
        )
        if later:
            shutil.rmtree(found, ignore_errors=True)
