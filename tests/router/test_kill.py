"""A process killed while it builds, adds or promotes leaves the old version or the new, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRILL = Path(__file__).with_name("kill_drill.py")


def drill(points: int) -> dict[str, int]:
    # a process of its own: forking one that runs threads may hang
    done = subprocess.run(
        [sys.executable, DRILL, "--points", str(points)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_killed_at_a_few_points() -> None:
    assert drill(6)["killed"] == 6


@pytest.mark.slow
def test_killed_at_a_hundred_points() -> None:
    found = drill(100)
    assert found["killed"] == 100
    for what in ("build", "add", "promote"):
        assert sum(n for k, n in found.items() if k.startswith(what)) > 10
