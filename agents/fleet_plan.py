"""Which agents the embedded fleet has, what each is given, and the folder that its making names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from curbside.agents import learners
from curbside.agents.examples import Examples
from curbside.agents.fleet import AGENT_FORMAT
from curbside.agents.heads import INVERSE_PENALTY, Blend
from curbside.agents.labelled import Labelled
from curbside.agents.readers import OptionScorer, Reader
from curbside.agents.trunk import SecondTrunk, Trunk
from curbside.agents.upper import Recipe, steps_of
from curbside.config import FleetConfig
from curbside.indexes.text import TextEncoder
from curbside.progress import Advance
from curbside.study import content_hash

__all__ = ["AGENT_FOLDER", "COLLEAGUE", "Plan", "folder_of", "plans"]

SPECIALIST = Recipe(epochs=6, batch=32, rate=2e-4, head_rate=3e-4, decay=0.05, dropout=0.5)
GENERALIST = Recipe(epochs=5, batch=64, rate=1e-3, head_rate=1e-3, decay=0.05, dropout=0.4)
#: A few-shot generalist sees so few cases that it goes round more often.
FEW_SHOT_GENERALIST = Recipe(10, 64, 1e-3, 1e-3, 0.05, 0.4)
#: The reader on the second trunk, which a policy may ask for a second opinion.
COLLEAGUE = "linear-lite2"
#: A finished agent's folder, or what a killed build left of one.
AGENT_FOLDER = re.compile(r"\.?[\w-]+-[0-9a-f]{16}(\..+)?")


@dataclass(frozen=True)
class Plan:
    """One agent to build: what it is given and what it comes to.

    Args:
        examples: that it learns from; ``labels`` counts those of other modalities too.
        learn: gives the reader and the number of parameters learned.
        steps: of progress that ``learn`` makes.
        recipe: of the making, for the folder's name.
        modality: that it is a specialist of; None: it reads all.
        trunk: that it stands on.
    """

    name: str
    examples: Examples
    labels: int
    seed: int
    learn: Callable[[Advance], tuple[Reader, int]]
    steps: int
    recipe: str
    modality: str | None = None
    trunk: str = Trunk.name

    @property
    def role(self) -> str:
        """``specialist`` of a modality, or ``generalist``."""
        return "generalist" if self.modality is None else "specialist"


def plans(labelled: Labelled, fleet: FleetConfig, text: TextEncoder, *, twin: bool) -> list[Plan]:
    """Every agent in the fleet's order.

    Args:
        twin: also the full generalist with a second seed.
    """
    train = labelled.train
    few = train.few(fleet.shots, seed=fleet.seed)
    named = train.modalities[train.modalities != ""]
    names, counts = np.unique(named, return_counts=True)
    made = [
        _specialist(labelled, modality, few, fleet.seed)
        for modality in names[counts >= fleet.specialist_minimum].tolist()
    ]
    full = partial(_generalist, labelled, text, examples=train, recipe=GENERALIST)
    made += [
        _generalist(labelled, text, "generalist-16", fleet.seed, few, FEW_SHOT_GENERALIST),
        full("generalist-full", fleet.seed),
    ]
    if twin:
        made.append(full("generalist-full-b", fleet.seed + 10_000))
    made += [_linear(labelled, name, e) for name, e in (("linear-16", few), ("linear-full", train))]
    return [*made, _colleague(labelled)]


def _specialist(labelled: Labelled, modality: str, few: Examples, seed: int) -> Plan:
    own = labelled.train.take(labelled.train.modalities == modality)
    foreign = few.take(few.modalities != modality)
    return Plan(
        name=f"specialist-{modality}",
        modality=modality,
        examples=own,
        labels=len(own) + len(foreign),
        seed=seed,
        learn=partial(learners.specialist, labelled.inputs, foreign, SPECIALIST, own, seed),
        steps=steps_of(len(own), SPECIALIST),
        recipe=f"{SPECIALIST} {_mark(foreign)}",
    )


def _generalist(
    labelled: Labelled,
    text: TextEncoder,
    name: str,
    seed: int,
    examples: Examples,
    recipe: Recipe,
) -> Plan:
    scoring = f"{learners.LORA_RANK} {learners.BY_NAME} {OptionScorer.SHARPNESS}"
    return Plan(
        name=name,
        examples=examples,
        labels=len(examples),
        seed=seed,
        learn=partial(learners.generalist, labelled.inputs, text, recipe, examples, seed),
        steps=steps_of(len(examples), recipe),
        recipe=f"{recipe} {scoring} {text.fingerprint}",
    )


def _linear(labelled: Labelled, name: str, examples: Examples) -> Plan:
    return Plan(
        name=name,
        examples=examples,
        labels=len(examples),
        seed=0,
        learn=partial(learners.linear, labelled.inputs.pooled, examples),
        steps=1,
        recipe="linear",
    )


def _colleague(labelled: Labelled) -> Plan:
    def learn(advance: Advance) -> tuple[Reader, int]:
        # images are encoded for the second trunk only where this agent is really built
        whole = labelled.inputs_of(SecondTrunk.name).fixed
        return learners.linear(whole, labelled.train, advance, whole=True)

    return Plan(
        name=COLLEAGUE,
        examples=labelled.train,
        labels=len(labelled.train),
        seed=0,
        learn=learn,
        steps=1,
        recipe="linear whole",
        trunk=SecondTrunk.name,
    )


def folder_of(plan: Plan, labelled: Labelled) -> str:
    """Named by everything that the weights depend on."""
    made_of = content_hash(
        f"{AGENT_FORMAT} {plan.name} {plan.seed} {plan.recipe} {INVERSE_PENALTY} {Blend.PULL}",
        labelled.trunks[plan.trunk].fingerprint,
        _mark(plan.examples),
        _mark(labelled.tune),
    )
    readable = re.sub(r"[^\w-]+", "_", plan.name)[:60]
    return f"{readable}-{made_of[:16]}"


def _mark(examples: Examples) -> str:
    """Hash of which images and labels these are."""
    columns = (examples.digests, examples.modalities, examples.tasks, examples.labels)
    return content_hash(json.dumps([c.tolist() for c in columns]), json.dumps(examples.options))
