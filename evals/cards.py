"""Model cards beside an evaluation's result: one page an agent, on the cases of that run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from curbside.agents.model_card import model_card
from curbside.storage import write_text

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.evals.protocol import Part

__all__ = ["CARDS", "read_cards", "write_cards"]

#: Folder of the pages, in a run's folder.
CARDS = "cards"
_ABOUT = "On the labelled cases that this evaluation asked, of role `test` where roles are given."


def write_cards(fleet: Fleet, test: Part, out: Path) -> None:
    """Write ``cards/NAME.md`` of every agent that read the evaluated cases.

    Raises:
        StorageError: the disk is full.
    """
    for name, agent in fleet.agents.items():
        page = model_card(
            agent.card,
            cost=fleet.build_cost.get(name),
            read=test.matrix,
            modalities=test.frame.modality.tolist(),
            about=_ABOUT,
        )
        write_text(out / CARDS / f"{name}.md", page)


def read_cards(run: Path) -> dict[str, str]:
    """Pages of a run, by agent; empty where it has none (it was made before there were any)."""
    return {p.stem: p.read_text("utf-8") for p in sorted((run / CARDS).glob("*.md"))}
