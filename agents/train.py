"""Builds the embedded fleet from labelled cases: each agent once, kept by what made it.

Every agent is a folder ``<name>-<hash of what made it>`` with safetensors and a card,
written atomically, and ``fleet.json`` names the ones in use and is written last: a build
that is killed goes on with the next agent, and the fleet before it serves until then.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import torch

from curbside.agents.contract import AgentCard
from curbside.agents.cost import metered
from curbside.agents.fleet import (
    AGENT_FILE,
    FLEET_FILE,
    FORMAT,
    FleetFile,
    StoredAgent,
    read_agent_file,
    read_fleet_file,
)
from curbside.agents.fleet_plan import AGENT_FOLDER, COLLEAGUE, Plan, folder_of, plans
from curbside.agents.labelled import Labelled
from curbside.agents.learners import fitted_blend
from curbside.agents.readers import Reader
from curbside.agents.stored import reader_files
from curbside.agents.tasks import tasks_by_modality
from curbside.agents.trunk import trunks_fingerprint, trunks_of
from curbside.cases import Cases
from curbside.config import Config
from curbside.errors import IndexCorrupt, UserError
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.text import TextEncoder
from curbside.progress import Advance, bar
from curbside.storage import file_digest, new_folder, write_text
from curbside.study import QuestionKind, content_hash

__all__ = ["train_fleet"]

COST = 1.0
_LIMITS = "Closed questions about one image; embedded demonstration agent, not for clinical use."


def train_fleet(
    cases: Cases,
    features: Features,
    config: Config,
    folder: Path,
    *,
    source: FeatureSource,
    text: TextEncoder,
    twin: bool = True,
    only: Sequence[str] = (),
    others: Sequence[Path] = (),
) -> None:
    """Train every embedded agent on role ``train``; calibrate on ``tune``.

    Args:
        features: one row a case, with grids.
        source: where ``features`` came from.
        folder: the fleet's; what was built there from the same inputs is reused.
        twin: also train the full generalist with a second seed (for the twin oracle).
        only: names of the agents to train, the serving generalist among them; empty: all.
        others: folders of other fleets; what was built there from the same inputs is copied.

    Raises:
        UserError: no labelled training case.
        ConfigError: the encoder has no grid for these agents.
        StorageError: the disk is full; a fleet built earlier still works.
    """
    trunks = trunks_of(source)
    labelled = Labelled(cases, features, trunks)
    every = plans(labelled, config.fleet, text, twin=twin)
    todo = [(p, folder_of(p, labelled)) for p in every if not only or p.name in only]
    stored: list[StoredAgent] = []
    names = [name for _, name in todo]
    for other in others:
        _take_over(other, folder, names)
    whole = _whole_agents(folder, names)
    total = sum(p.steps for p, name in todo if name not in whole)
    with bar("training the fleet", total) if total else nullcontext(lambda _: None) as advance:
        for plan, name in todo:
            if name not in whole:
                _build(plan, labelled, folder / name, advance)
            stored.append(
                StoredAgent(
                    name=plan.name,
                    folder=name,
                    sha256=file_digest(folder / name / AGENT_FILE),
                    modality=plan.modality,
                )
            )
    train = labelled.train
    fleet = FleetFile(
        format=FORMAT,
        trunk=trunks_fingerprint(trunks),
        agents=tuple(stored),
        generalist="generalist-full" if config.fleet.generalist == "gfull" else "generalist-16",
        colleagues=(COLLEAGUE,),
        tasks=train.options,
        tasks_of=tasks_by_modality(
            zip(train.modalities.tolist(), train.tasks.tolist(), strict=True)
        ),
    )
    write_text(folder / FLEET_FILE, json.dumps(fleet.model_dump(mode="json"), indent=1))
    kept = {s.folder for s in stored}
    for old in folder.iterdir():
        # only what is surely ours: the configuration may put other stores beside
        if old.is_dir() and old.name not in kept and AGENT_FOLDER.fullmatch(old.name):
            shutil.rmtree(old, ignore_errors=True)


def _build(plan: Plan, labelled: Labelled, folder: Path, advance: Advance) -> None:
    """Train one agent and write its folder."""
    # torch has one stream of random numbers for all: the caller's goes on undisturbed
    with metered() as meter, torch.random.fork_rng(devices=[]):
        reader, trainable = plan.learn(advance)
        tune = labelled.tune
        if plan.modality is not None:
            tune = tune.take(tune.modalities == plan.modality)
        reader.blend = fitted_blend(
            reader, labelled.inputs_of(plan.trunk), tune, labelled.train.options
        )
    facts = {
        "labels": plan.labels,
        "trainable_parameters": trainable,
        "train_seconds": meter.seconds,
        "peak_mib": meter.peak_mib,
    }
    with new_folder(folder) as temporary:
        _write(temporary, plan, folder.name, reader, facts)


def _write(
    folder: Path, plan: Plan, name: str, reader: Reader, build_cost: dict[str, float]
) -> None:
    """One agent's tensors, and then the file that describes and checks them."""
    card = AgentCard(
        name=plan.name,
        kind="embedded",
        role=plan.role,
        modalities=(plan.modality,) if plan.modality else (),
        tasks=tuple(sorted(plan.examples.options)),
        question_kinds=(QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED),
        cost=COST,
        fingerprint=content_hash("agent", name),
        limits=_LIMITS,
    )
    meta = reader_files(reader, folder)
    checksums = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
    body = {
        "card": card.model_dump(mode="json"),
        "blend": asdict(reader.blend),
        "build_cost": build_cost,
        "files": checksums,
        "trunk": plan.trunk,
        **meta,
    }
    (folder / AGENT_FILE).write_text(json.dumps(body, indent=1), encoding="utf-8")


def _take_over(other: Path, folder: Path, names: Sequence[str]) -> None:
    """Copy what another fleet has whole and this one has not; a name says what made it."""
    here = _whole_agents(folder, names)
    for name in _whole_agents(other, [n for n in names if n not in here]):
        with new_folder(folder / name) as temporary:
            shutil.copytree(other / name, temporary, dirs_exist_ok=True)


def _whole_agents(folder: Path, names: Sequence[str]) -> set[str]:
    """Folders among ``names`` that hold an agent whose every file is as it was written."""
    try:
        recorded = {a.folder: a.sha256 for a in read_fleet_file(folder).agents}
    except UserError:  # there is none yet, or it is damaged and is written again
        recorded = {}
    whole = set()
    for name in names:
        with suppress(IndexCorrupt):
            read_agent_file(folder / name, name, recorded.get(name))
            whole.add(name)
    return whole
