"""Kill -9 during build, add and promote at random points; what serves must be whole.

Run: ``python tests/router/kill_drill.py --points 100``.  Each point forks a process, lets it
work, kills it after a random part of the time that the work takes, and then opens the home as a
user would: the version that serves must verify, assess as the old one or as the new one did,
and every version that is listed must be whole.  Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from tests_growing_world import SIZES, open_workspace, write_manifest

from curbside.cases import read_cases
from curbside.router.adding import add_cases
from curbside.router.building import build_home

Answers = NDArray[np.float64]
PROBES = np.random.default_rng(0).normal(size=(20, 24)).astype(np.float32)


def drill(points: int, seed: int, folder: Path) -> dict[str, object]:
    """Kill ``points`` times; returns counts.  AssertionError: something is not whole."""
    rng = random.Random(seed)
    pictures, home = folder / "pictures", folder / "home"
    pictures.mkdir()
    build_home(open_workspace(home), read_cases(write_manifest(pictures, "first.csv", SIZES)))
    _run(_work("add", home, pictures, 20_000), None)  # something to promote
    takes: dict[str, float] = {}
    said: dict[str, Answers] = {}
    outcomes: Counter[str] = Counter()
    killed = finished = 0
    while killed < points:
        point = killed + finished
        # one that ends before it is killed is tried again, so that each is killed as often
        what = ("build", "add", "promote")[killed % 3]
        if what not in takes:  # how long it takes when nobody kills it
            takes[what], _ = _run(_work(what, home, pictures, 10_000 + point), None)
        work = _work(what, home, pictures, point)
        before = open_workspace(home).versions.current()
        took, died = _run(work, rng.uniform(0, takes[what]))
        if not died:
            takes[what] = min(took, takes[what])
        killed, finished = killed + died, finished + (not died)
        outcome = _check(home, before, what, said)
        if died:
            outcomes[f"{what}: {outcome}"] += 1
    return {"killed": killed, "finished_first": finished, **dict(sorted(outcomes.items()))}


def _work(what: str, home: Path, pictures: Path, point: int) -> Callable[[], None]:
    workspace = open_workspace(home)
    if what == "build":
        # other pictures each time: always something to make
        manifest = write_manifest(pictures, f"m-{point}.csv", SIZES, start=700 + 10 * point)
        return lambda: build_home(workspace, read_cases(manifest))
    if what == "add":
        manifest = write_manifest(pictures, f"a-{point}.csv", {"": 1}, start=20_000 + 10 * point)
        return lambda: add_cases(workspace, read_cases(manifest)) and None
    current = workspace.versions.current()
    other = next(n for n in reversed(workspace.versions.names()) if n != current)
    return lambda: workspace.versions.promote(other, without_gate="drill")


def _run(work: Callable[[], None], after: float | None) -> tuple[float, bool]:
    """Run in a child and kill it after so many seconds; how long it took, and whether it died."""
    started = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    died = os.WIFSIGNALED(status)
    assert died or os.waitstatus_to_exitcode(status) == 0, "the work itself failed"
    return time.perf_counter() - started, died


def _check(home: Path, before: str, what: str, said: dict[str, Answers]) -> str:
    workspace = open_workspace(home)
    store = workspace.versions
    for name in store.names():
        store.check(name)
    found = workspace.assessor().assess(PROBES).novelty
    now = store.current()
    assert np.array_equal(found, said.setdefault(now, found)), "a version changed its answers"
    assert len(workspace.built_cases()) == sum(store.facts(now).cases.values())
    if now == before:
        return "old serves"
    assert what != "add", "adding alone must not change what serves"
    assert store.serving().history[-1].how == what
    return "new serves"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(drill(asked.points, asked.seed, Path(folder))))


if __name__ == "__main__":
    main()
