"""Fails where the tests cover less than the floor of any one folder; run by ``make test``.

The total would let a well-tested folder hide a poor one.
"""

from __future__ import annotations

import io
import sys

from coverage import Coverage

FLOOR = 90.0
FOLDERS = ("router", "agents", "indexes", "ui", "evals", "curbside")


def main() -> int:
    """Print coverage by folder; 1 where one lies below the floor."""
    coverage = Coverage()
    coverage.load()
    measured = list(coverage.get_data().measured_files())
    low = False
    for folder in FOLDERS:
        files = [f for f in measured if f"/{folder}/" in f.replace("/curbside/" + folder, folder)]
        if folder == "curbside":
            others = tuple(f"/{other}/" for other in FOLDERS if other != "curbside")
            files = [f for f in measured if not any(o in f for o in others)]
        if not files:
            continue
        total = coverage.report(include=files, file=io.StringIO())
        low |= total < FLOOR
        print(f"coverage {folder:<10} {total:6.1f} %" + ("" if total >= FLOOR else "  below floor"))
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
