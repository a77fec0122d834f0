"""What an adapter says of itself, for machines (``card.json``) and people (``README.md``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from curbside.agents.cost import BuildCost
from curbside.errors import UserError
from curbside.storage import write_text

__all__ = ["CARD_FILE", "AdapterCard", "page", "read_card", "write_card"]

CARD_FILE = "card.json"


class AdapterCard(BaseModel):
    """Where an adapter comes from and what it cost.

    Args:
        base: name or folder of the model it belongs to; ``base_digest`` of that model's files.
        data_digest: of images, questions, answers and split, without names or paths.
        modalities: of the cases; empty where the manifest names none.
        labels: those learned from and those watched; ``tasks`` counts the former.
        heads: of an encoder, task → labels in the order of its head.
        metrics: losses at the end, and after promotion what its evaluation found.
        improved: False where no look at the held-out groups was better than the start: then the
            start is what is kept, of an encoder its linear probe.
        vllm: whether vLLM serves it; "" or why not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    agent: str
    kind: str
    family: str
    base: str
    base_digest: str
    method: str
    parts: tuple[str, ...]
    recipe: dict[str, Any]
    started_from: str = ""
    manifest: str
    data_digest: str
    shots: int | None
    seed: int
    modalities: tuple[str, ...] = ()
    labels: int
    tasks: dict[str, int]
    options: dict[str, tuple[str, ...]]
    heads: dict[str, tuple[str, ...]] = {}
    held_out: int
    unusable: int
    trainable: int
    parameters: int
    seconds: float
    peak_mib: float
    steps: int
    planned_steps: int
    metrics: dict[str, float | None]
    improved: bool = True
    vllm: str = ""
    machine: str
    versions: dict[str, str]
    intended_use: str
    limits: str

    @property
    def share(self) -> float:
        """Share of all numbers that were learned."""
        return self.trainable / max(self.parameters, 1)

    @property
    def cost(self) -> BuildCost:
        """What making it took, as for agents that are built."""
        return BuildCost(self.labels, self.trainable, self.seconds, self.peak_mib)


def read_card(folder: Path) -> AdapterCard:
    """The card in an adapter's folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / CARD_FILE
    try:
        return AdapterCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no finished adapter (there is no {CARD_FILE})",
            hint="curbside finetune --agent NAME --cases MANIFEST --out DIR",
        ) from None
    except (OSError, ValidationError) as e:
        raise UserError(
            f"{path} cannot be read: {type(e).__name__}", hint="fine-tune it again"
        ) from None


def write_card(card: AdapterCard, folder: Path) -> None:
    """Card and page, into a folder.  Raises StorageError."""
    write_text(folder / CARD_FILE, card.model_dump_json(indent=1) + "\n")
    write_text(folder / "README.md", page(card))


def page(card: AdapterCard) -> str:
    """One page of Markdown."""
    shots = "all" if card.shots is None else f"at most {card.shots} a label"
    facts = {
        "base": f"{card.base} ({card.family}), `{card.base_digest[:16]}`",
        "method": f"{card.method} on {', '.join(card.parts) or 'heads alone'}",
        "started from": card.started_from,
        "cases": f"{card.manifest}, `{card.data_digest[:16]}`",
        "modalities": ", ".join(card.modalities),
        "labels": f"{card.labels:,} ({shots}; {card.held_out:,} of them only watched)",
        "left out": f"{card.unusable} cases whose image cannot be used" if card.unusable else "",
        "learned": f"{card.trainable:,} of {card.parameters:,} numbers ({100 * card.share:.2g} %)",
        "training": f"{card.seconds:.0f} s, {card.steps} of {card.planned_steps} steps, "
        f"at most {card.peak_mib / 1024:.1f} GiB, on {card.machine}",
        "outcome": "" if card.improved else "never better than its start, which is kept",
        "seed": str(card.seed),
        "vLLM": card.vllm or "serves it",
        "versions": ", ".join(f"{k} {v}" for k, v in card.versions.items()),
    }
    lines = [f"# {card.agent}", "", "| | |", "| --- | --- |"]
    lines += [f"| {k} | {v} |" for k, v in facts.items() if v]
    lines += ["", "## What was measured", ""]
    lines += [
        f"- {name}: {'not measured' if value is None else f'{value:.4g}'}"
        for name, value in card.metrics.items()
    ]
    lines += ["", "## Labels by task", ""]
    lines += [f"- {task}: {n}" for task, n in card.tasks.items()]
    lines += ["", "## Intended use", "", card.intended_use, "", "## Known limits", "", card.limits]
    lines += ["", "Research software, not a medical device. Not for clinical decisions.", ""]
    return "\n".join(lines)
