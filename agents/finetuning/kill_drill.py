"""Kill -9 at random points of a training: does what goes on end with the same adapter?

Each point forks a process that trains, kills it after a random part of the time that an
undisturbed training takes, and lets the same training go on, sometimes to be killed again.
Half of the kills count that time from the first checkpoint on: on a busy machine nearly all
others would come before there is one.  The bytes of what was learned must be those of the
undisturbed one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curbside.agents.finetuning.adapting import adapt
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.watch import WHOLE, last_whole
from curbside.agents.fleet_spec import FleetSpec
from curbside.errors import InternalError
from curbside.storage import file_digest

__all__ = ["KillDrill", "kill_drill"]

#: Kills of one training, at most.
_MOST = 3


@dataclass(frozen=True)
class KillDrill:
    """Counts over all points.

    Args:
        seconds: of the undisturbed training.
        points: trainings that were killed at least once; ``kills`` in all of them.
        went_on: kills after which a whole checkpoint was there to go on from.
        same: trainings whose learned tensors are, byte for byte, the undisturbed ones'.
    """

    seconds: float
    points: int
    kills: int
    went_on: int
    same: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def kill_drill(
    agent: str,
    manifest: Path,
    folder: Path,
    *,
    points: int,
    seed: int = 0,
    recipe: Recipe | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> KillDrill:
    """Kill ``points`` trainings of an agent at random moments and let each go on.

    Args:
        agent, manifest: as of ``curbside finetune``; a quick training is best.
        folder: for the trainings; each is removed when it has been compared.

    Raises:
        InternalError: a training that was not killed failed.
    """
    rng = random.Random(seed)
    spec = FleetSpec.model_validate({"agents": {"embedded": {"kind": "embedded"}}})
    settings = recipe or Recipe(epochs=4, looks=8)

    def train(out: Path) -> None:
        adapt(agent, manifest, out, spec, Path(), settings, shots=None, seed=0)

    def there() -> bool:
        return any((folder / "killed" / "work").glob(f"checkpoint-*/{WHOLE}"))

    started = time.perf_counter()
    _whole(lambda: train(folder / "whole"))
    seconds = time.perf_counter() - started
    expected = _learned(folder / "whole")
    killed = kills = went_on = same = 0
    while killed < points:
        out = folder / "killed"
        died = 0
        for _ in range(rng.randint(1, _MOST)):
            late, part = rng.random() < 0.5, rng.random()
            after, ready = (part * seconds / 2, there) if late else (part * seconds, _at_once)
            if not _killed(lambda: train(folder / "killed"), after, ready):
                break
            died += 1
            went_on += last_whole(out / "work")[0] is not None
        if died:
            _whole(lambda: train(folder / "killed"))
            same += _learned(out) == expected
            killed, kills = killed + 1, kills + died
            advance(1)
        shutil.rmtree(out, ignore_errors=True)
    return KillDrill(seconds, killed, kills, went_on, same)


def _learned(folder: Path) -> dict[str, str]:
    return {p.name: file_digest(p) for p in sorted(folder.glob("*.safetensors"))}


def _fork(work: Callable[[], None]) -> int:
    """The number of a process that does the work and says nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def _whole(work: Callable[[], None]) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(_fork(work), 0)[1])
    if code != 0:
        raise InternalError(f"a training that nobody killed ended with {code}")


def _killed(work: Callable[[], None], after: float, ready: Callable[[], bool]) -> bool:
    """Whether it was still at work ``after`` seconds from when it was ready; then it is dead."""
    child = _fork(work)
    while not ready():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _at_once() -> bool:
    return True
