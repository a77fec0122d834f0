"""The tower of imports, and that nothing is imported by a bare folder name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_floor_imports_only_from_floors_below_it() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_folders_are_linked_into_the_package_by_relative_links() -> None:
    for folder in ("router", "agents", "indexes", "ui", "evals"):
        link = ROOT / "curbside" / folder
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{folder}"
