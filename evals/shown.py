"""Some evaluated cases with their image and what the reading rests on, for a report of one's own.

A report holds no image unless its user asks for some: it may leave the machine, and these
are images of patients.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.agents.activation import overlay
from curbside.agents.contract import Explains
from curbside.errors import ImageError
from curbside.indexes.features import central_instance
from curbside.readings import Explanation, Reading
from curbside.study import Question

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.cases import Cases

__all__ = ["Shown", "shown_cases"]

_SIDE = 320


@dataclass(frozen=True)
class Shown:
    """One case: what was said of it, and pictures as data URLs (one, or two with an overlay)."""

    title: str
    rests_on: str
    pictures: tuple[str, ...]


def shown_cases(fleet: Fleet, cases: Cases, n: int) -> list[Shown]:
    """At most n cases that are read now, evenly spread, by their modality's specialist.

    Args:
        cases: evaluated ones; those without options, label or a usable image are passed over.
    """
    able = [i for i, c in enumerate(cases) if c.options and c.label in c.options]
    spread = np.linspace(0, max(len(able) - 1, 0), min(n, len(able))).round().astype(int)
    out = []
    for i in (able[at] for at in spread.tolist()):
        case = cases[i]
        agent = fleet.agents[fleet.specialists.get(case.modality or "", fleet.generalist)]
        study = replace(case.study(), question=Question(options=case.options, task=case.task))
        reading = agent.read(study)
        try:
            image = central_instance(study).pixels()
        except ImageError:
            continue
        if not isinstance(reading, Reading):
            continue
        found = reading.explanation or (
            agent.explain(study, reading.answer)
            if isinstance(agent, Explains)
            else Explanation(kind="none", note="no explanation available")
        )
        pictures = [_url(image)] + ([_url(overlay(image, found))] if found.grid else [])
        right = "right" if reading.answer == case.label else f"wrong: {case.label}"
        out.append(
            Shown(
                title=f"{case.modality}: {reading.answer} ({reading.confidence:.2f}, {right}), "
                f"by {agent.card.name}",
                rests_on=_said(found),
                pictures=tuple(pictures),
            )
        )
    return out


def _said(found: Explanation) -> str:
    if found.grid:
        return (
            f"orange speaks for {found.option}, blue against; "
            f"{100 * found.share:.0f} % of the decision has a place"
        )
    return "; ".join(found.citations) or found.note or "no explanation available"


def _url(rgb: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(rgb)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
