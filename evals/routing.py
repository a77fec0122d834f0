"""Routing a manifest through the served graph, and checking it against replay.

The one place of this floor that uses the router as a person would: one case at a time
through LangGraph.  Policies are scored by replay; here it is shown that both agree.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from curbside.storage import write_text
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.router.workspace import Workspace

__all__ = ["Routing", "routed"]


class Routing(BaseModel):
    """What became of routed cases.

    Args:
        outcomes: tier → status → cases.
        answers: case → answer, for those that were answered.
        seconds: wall time of the whole run.
        reused: it was read back instead of routed again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    n: int
    seconds: float
    outcomes: dict[str, dict[str, int]]
    readers: dict[str, int]
    answers: dict[str, str]
    reused: bool = False

    def lines(self) -> list[str]:
        """For people."""
        rate = f", {1000 * self.seconds / self.n:.0f} ms a case" if self.n else ""
        earlier = "; routed earlier, nothing changed" if self.reused else ""
        out = [f"{self.n} cases in {self.seconds:.0f} s{rate}{earlier}"]
        for tier, by in self.outcomes.items():
            counts = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in by.items())
            out.append(f"called {tier:<8} {counts}")
        top = ", ".join(f"{name} {n}" for name, n in list(self.readers.items())[:4])
        return [*out, f"read by         {top}"]


def routed(workspace: Workspace, config: Path, cases: Cases, path: Path) -> Routing:
    """Route every case through the graph; from ``path`` where nothing changed since.

    Args:
        config: the ``curbside.yaml`` that the router opens.

    Raises:
        NotBuilt: something is missing that ``curbside build`` makes.
        StorageError: the result cannot be written.
    """
    from curbside.router.api import Router

    features = workspace.features(cases, "encoding evaluated cases")
    assessor, fleet = workspace.assessor(), workspace.fleet()
    key = content_hash(
        workspace.config.digest,
        assessor.calibration_digest,
        fleet.fingerprint,
        cases.digest,
        json.dumps(features.digests),
    )
    try:
        found = Routing.model_validate_json(path.read_bytes())
        if found.key == key:
            return found.model_copy(update={"reused": True})
    except (OSError, ValidationError):
        pass  # not there, or not whole: route again
    studies = cases.studies()
    outcomes: dict[str, Counter[str]] = {}
    readers: Counter[str] = Counter()
    answers: dict[str, str] = {}
    with closing(Router.from_config(config)) as router:
        start = time.perf_counter()
        records = router.read_batch(studies, label="routing")
        seconds = time.perf_counter() - start
    for record in records:
        tier = record.tier.value if record.tier else "unassessed"
        outcomes.setdefault(tier, Counter())[record.outcome.status.value] += 1
        readers.update(record.outcome.route)
        if record.outcome.answer is not None:
            answers[record.case] = record.outcome.answer
    order = [t for t in ("common", "rare", "novel", "unassessed") if t in outcomes]
    routing = Routing(
        key=key,
        n=len(studies),
        seconds=seconds,
        outcomes={t: dict(outcomes[t].most_common()) for t in order},
        readers=dict(readers.most_common()),
        answers=answers,
    )
    write_text(path, routing.model_dump_json(indent=1) + "\n")
    return routing
