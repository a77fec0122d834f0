"""Route every case of a manifest and count how they ended.

python examples/route_manifest.py CASES.csv [ROLE]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from curbside import Router
from curbside.cases import read_cases


def main(manifest: str, role: str = "test") -> None:
    """Print outcomes by tier."""
    cases = read_cases(Path(manifest))
    chosen = cases.take(cases.where(role=role))
    records = Router.from_config().read_batch(chosen.studies(), label="routing")
    ended = Counter((str(r.tier or "-"), str(r.outcome.status)) for r in records)
    for (tier, status), n in sorted(ended.items()):
        print(f"{tier:<8} {status:<14} {n}")


if __name__ == "__main__":
    main(*sys.argv[1:])
