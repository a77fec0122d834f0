"""Fails where the tests cover less than the floor of any one folder; run by ``make test``.

The total would let a well-tested folder hide a poor one.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from coverage import Coverage

FLOOR = 90.0
FOLDERS = ("router", "agents", "indexes", "ui", "evals", "curbside")
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Print coverage by folder; 1 where one lies below the floor or was not measured."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    measured = [Path(f).resolve() for f in coverage.get_data().measured_files()]
    low = False
    for folder in FOLDERS:
        # Path.rglob does not follow the links in curbside/
        if not any(p.name != "__init__.py" for p in (ROOT / folder).rglob("*.py")):
            continue
        files = [str(f) for f in measured if f.is_relative_to(ROOT / folder)]
        total = coverage.report(include=files, file=io.StringIO()) if files else 0.0
        low |= total < FLOOR
        print(f"coverage {folder:<10} {total:6.1f} %" + ("" if total >= FLOOR else "  below floor"))
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
