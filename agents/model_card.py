"""One page of Markdown for an agent: what it says of itself, what it cost, what it got right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from curbside.agents.contract import AgentCard
from curbside.agents.cost import BuildCost
from curbside.responses import ResponseMatrix

__all__ = ["TUNED_ON", "as_html", "model_card"]

TUNED_ON = "On labelled cases of role `tune`, which also chose settings: somewhat too good."


def model_card(
    card: AgentCard,
    *,
    cost: BuildCost | None = None,
    read: ResponseMatrix | None = None,
    modalities: Sequence[str] = (),
    about: str = TUNED_ON,
) -> str:
    """The page.

    Args:
        read: what the fleet's agents said of labelled cases, and ``modalities`` of those
            cases, one each; None where nothing was read yet.
        about: which cases these are.
    """
    what = {
        "kind": card.kind,
        "role": card.role,
        "base model": card.base,
        "adapter": card.adapter,
        "modalities": ", ".join(card.modalities) or "any",
        "tasks": ", ".join(card.tasks) or "any",
        "questions": ", ".join(card.question_kinds),
        "runs on": ", ".join(card.runs_on),
        "licence": card.licence,
        "cost": f"{card.cost:g} a study, {card.cost_per_token:g} a token",
        "fingerprint": f"`{card.fingerprint[:16]}`",
    }
    lines = [f"# {card.name}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value or 'not stated'} |" for name, value in what.items()]
    lines += ["", "## Intended use", "", card.intended_use or "Not stated."]
    lines += ["", "## Known limits", "", card.limits or "Not stated."]
    lines += ["", "## What it cost to build", ""]
    if cost is None:
        lines.append("Not built here.")
    else:
        lines.append(
            f"{cost.labels:,} labels, {cost.trainable_parameters:,} numbers learned, "
            f"{cost.train_seconds:.0f} s, at most {cost.peak_mib / 1024:.1f} GiB of memory."
        )
    lines += ["", "## What it got right", ""]
    lines += _evaluation(card, read, modalities, about)
    lines += ["", "Research software, not a medical device. Not for clinical decisions.", ""]
    return "\n".join(lines)


def as_html(page: str) -> str:
    """A page as a fragment of HTML; HTML inside it stays text."""
    from markdown_it import MarkdownIt

    shown: str = MarkdownIt("js-default", {"linkify": False}).render(page)
    return shown


def _evaluation(
    card: AgentCard, read: ResponseMatrix | None, modalities: Sequence[str], about: str
) -> list[str]:
    if read is None or card.name not in read.agents:
        return ["Not evaluated yet."]
    column = read.column(card.name)
    right, answered = read.correct[:, column], read.read[:, column]
    known = read.truth >= 0
    names: NDArray[np.str_] = np.asarray(modalities, np.str_)
    rows = [
        f"{about} Intervals are 95 % (Wilson); cases of one patient count as independent here.",
        "",
        "| modality | cases | answered | right |",
        "| --- | --- | --- | --- |",
    ]
    for modality in [*sorted(set(names[known].tolist())), "all"]:
        here = known & ((names == modality) | (modality == "all"))
        n, k = int((here & answered).sum()), int((here & right).sum())
        share = "–"
        if n:
            found = binomtest(k, n).proportion_ci(method="wilson")
            share = f"{k / n:.2f} ({found.low:.2f}–{found.high:.2f})"
        rows.append(f"| {modality or 'not stated'} | {int(here.sum())} | {n} | {share} |")
    return rows
