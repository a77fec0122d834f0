"""Model cards of a fleet: what agents say of themselves, what they cost, what they got right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curbside.agents.model_card import model_card
from curbside.errors import NotBuilt

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.router.workspace import Workspace

__all__ = ["model_cards"]


def model_cards(workspace: Workspace, fleet: Fleet | None = None) -> dict[str, str]:
    """One page of Markdown an agent, by name.

    Args:
        fleet: by default the one that serves.

    Raises:
        NotBuilt: no fleet was built, and none is given.
    """
    fleet = fleet or workspace.fleet()
    read, modalities = None, []
    try:
        read = workspace.tune_responses()
        of = {c.id: c.modality or "" for c in workspace.built_cases()}
        modalities = [of.get(case, "") for case in read.cases]
    except NotBuilt:
        read = None
    return {
        name: model_card(
            agent.card, cost=fleet.build_cost.get(name), read=read, modalities=modalities
        )
        for name, agent in {**fleet.agents, **fleet.people}.items()
    }
