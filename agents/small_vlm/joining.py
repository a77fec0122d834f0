"""The small VLM beside the agents of a fleet file that serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from curbside.agents.fleet_spec import FleetSpec
from curbside.storage import write_text

__all__ = ["INTENDED_USE", "LIMITS", "NAME", "write_fleet"]

NAME = "small-vlm"
LIMITS = (
    "one small image of a study; says little outside the questions it learned; "
    "tags and history are not read; docs/small-vlm.md has its controls"
)
INTENDED_USE = "measuring what a small generative model adds to a fleet; not for clinical use"
_CARD: dict[str, Any] = {
    "role": "generalist",
    "questions": ["diagnosis", "vqa_closed", "vqa_open"],
    "licence": "Apache-2.0 (SmolLM2-135M, EfficientNet-Lite0); what is learned, as your cases",
    "limits": LIMITS,
    "intended_use": INTENDED_USE,
    "runs_on": ["cpu", "site"],
    "cost": 10,
}


def write_fleet(spec: FleetSpec, agent: Path, out: Path) -> None:
    """Write a fleet file with one agent more; an agent of its name is replaced.

    Args:
        agent: folder of the small VLM; written relative to the file.

    Raises:
        StorageError: it cannot be written.
    """
    body = spec.model_dump(mode="json", exclude_defaults=True)
    body["agents"][NAME] = {
        "kind": "small-vlm",
        "folder": agent.relative_to(out.parent).as_posix(),
        "card": _CARD,
    }
    checked = FleetSpec.model_validate(body)
    text = yaml.safe_dump(
        checked.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    write_text(
        out, "# The fleet that serves, and the small VLM; written by curbside demo-vlm\n" + text
    )
