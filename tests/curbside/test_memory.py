"""Memory as the system counts it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from curbside import memory
from curbside.memory import forget_high_water, high_water_mib, resident_bytes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="only Linux says what is resident"
)


def test_what_is_written_to_is_resident_and_what_was_stays_the_high_water() -> None:
    before = resident_bytes()
    held = np.ones(64 * 2**20, np.uint8)
    assert resident_bytes() - before > 0.9 * held.nbytes
    forget_high_water()
    del held
    assert high_water_mib() * 2**20 > before + 0.9 * 64 * 2**20
    forget_high_water()
    assert high_water_mib() * 2**20 < before + 0.5 * 64 * 2**20


def test_processes_that_were_started_count_where_wanted() -> None:
    code = "held = b'1' * (64 << 20); print(len(held), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert resident_bytes(children=True) - resident_bytes() > 64 * 2**20
        other.kill()


def test_elsewhere_than_on_linux_the_high_water_is_the_system_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "Path", lambda _: tmp_path / "not" / "there")
    assert resident_bytes() == 0
    assert high_water_mib() > 10
    forget_high_water()
