"""Builds the embedded fleet from labelled cases: each agent once, kept by what made it.

Every agent is a folder ``<name>-<hash of what made it>`` with safetensors and a card,
written atomically, and ``fleet.json`` names the ones in use and is written last: a build
that is killed goes on with the next agent, and the fleet before it serves until then.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from curbside.agents.contract import AgentCard
from curbside.agents.cost import metered
from curbside.agents.examples import Examples
from curbside.agents.fleet import (
    AGENT_FILE,
    AGENT_FORMAT,
    FLEET_FILE,
    FORMAT,
    FleetFile,
    StoredAgent,
    read_agent_file,
    read_fleet_file,
)
from curbside.agents.heads import INVERSE_PENALTY, Blend, Head, Heads
from curbside.agents.option_training import TrainedScorer
from curbside.agents.readers import (
    GeneralistReader,
    LinearReader,
    OptionScorer,
    Reader,
    SpecialistReader,
    option_text,
)
from curbside.agents.stored import reader_files
from curbside.agents.trunk import Inputs, SecondTrunk, Trunk, trunks_fingerprint, trunks_of
from curbside.agents.upper import (
    Recipe,
    by_task,
    fine_tune,
    learned,
    lora,
    steps_of,
    top_block,
    upper_blocks,
)
from curbside.cases import Cases
from curbside.config import Config
from curbside.errors import IndexCorrupt, UserError
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.text import TextEncoder
from curbside.progress import Advance, bar
from curbside.storage import file_digest, new_folder, write_text
from curbside.study import Question, QuestionKind, content_hash

__all__ = ["GENERALIST", "SPECIALIST", "train_fleet"]

SPECIALIST = Recipe(epochs=6, batch=32, rate=2e-4, head_rate=3e-4, decay=0.05, dropout=0.5)
GENERALIST = Recipe(epochs=5, batch=64, rate=1e-3, head_rate=1e-3, decay=0.05, dropout=0.4)
#: A few-shot generalist sees so few cases that it goes round more often.
FEW_SHOT_GENERALIST = Recipe(10, 64, 1e-3, 1e-3, 0.05, 0.4)
LORA_RANK = 8
#: Share of the loss that scores options by name alone, for options never seen.
BY_NAME = 0.3
COST = 1.0
#: The reader on the second trunk, which a policy may ask for a second opinion.
_COLLEAGUE = "linear-lite2"
#: A finished agent's folder, or what a killed build left of one.
_AGENT_FOLDER = re.compile(r"\.?[\w-]+-[0-9a-f]{16}(\..+)?")
_LIMITS = "Closed questions about one image; embedded demonstration agent, not for clinical use."


@dataclass(frozen=True)
class _Plan:
    """One agent to build: what it is given and what it comes to."""

    name: str
    role: str
    modality: str | None
    examples: Examples
    seed: int
    build: Callable[[Examples, int, Advance], tuple[Reader, int]]
    steps: int
    recipe: str
    trunk: str = Trunk.name


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
) -> None:
    """Train every embedded agent on role ``train``; calibrate on ``tune``.

    Args:
        features: one row a case, with grids.
        source: where ``features`` came from.
        folder: the fleet's; what was built there from the same inputs is reused.
        twin: also train the full generalist with a second seed (for the twin oracle).
        only: names of the agents to train, the serving generalist among them; empty: all.

    Raises:
        UserError: no labelled training case.
        ConfigError: the encoder has no grid for these agents.
        StorageError: the disk is full; a fleet built earlier still works.
    """
    trunks = trunks_of(source)
    trainer = _Trainer(cases, features, config, trunks, text)
    plans = [p for p in trainer.plans(twin=twin) if not only or p.name in only]
    stored: list[StoredAgent] = []
    todo = [(p, trainer.folder_of(p)) for p in plans]
    whole = _whole_agents(folder, [name for _, name in todo])
    total = sum(p.steps for p, name in todo if name not in whole)
    with bar("training the fleet", total) if total else nullcontext(lambda _: None) as advance:
        for plan, name in todo:
            if name not in whole:
                trainer.build(plan, folder / name, advance)
            stored.append(
                StoredAgent(
                    name=plan.name,
                    folder=name,
                    sha256=file_digest(folder / name / AGENT_FILE),
                    modality=plan.modality,
                )
            )
    everything = trainer.train
    counts = Counter(zip(everything.modalities.tolist(), everything.tasks.tolist(), strict=True))
    tasks_of: dict[str, tuple[str, ...]] = {}
    for (modality, task), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        tasks_of[modality] = (*tasks_of.get(modality, ()), task)
    served = "generalist-full" if config.fleet.generalist == "gfull" else "generalist-16"
    fleet = FleetFile(
        format=FORMAT,
        trunk=trunks_fingerprint(trunks),
        agents=tuple(stored),
        generalist=served,
        colleagues=(_COLLEAGUE,),
        tasks={t: tuple(o) for t, o in everything.options.items()},
        tasks_of=tasks_of,
    )
    write_text(folder / FLEET_FILE, json.dumps(fleet.model_dump(mode="json"), indent=1))
    kept = {s.folder for s in stored}
    for old in folder.iterdir():
        # only what is surely ours: the configuration may put other stores beside
        if old.is_dir() and old.name not in kept and _AGENT_FOLDER.fullmatch(old.name):
            shutil.rmtree(old, ignore_errors=True)


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


class _Trainer:
    """The labelled cases, their inputs, and how each kind of agent is made of them."""

    def __init__(
        self,
        cases: Cases,
        features: Features,
        config: Config,
        trunks: Mapping[str, Trunk],
        text: TextEncoder,
    ) -> None:
        self.config, self.trunks, self.text = config, trunks, text
        labelled = features.usable & (cases.tasks != "") & (cases.labels != "")
        rows = np.flatnonzero(labelled & np.isin(cases.roles, ("train", "tune")))
        self.inputs: Inputs = trunks[Trunk.name].from_features(features, rows)
        digests = np.array(features.digests, np.str_)
        self.fixed = self.inputs.fixed
        self._studies = [cases[r].study() for r in rows.tolist()]

        def examples(role: str) -> Examples:
            at = np.flatnonzero(cases.roles[rows] == role)
            own = rows[at]
            # rows of one task may offer different options; the agents learn all of them
            options: dict[str, tuple[str, ...]] = {}
            for r in own.tolist():
                task, offered = str(cases.tasks[r]), cases[r].options or (str(cases.labels[r]),)
                known = options.get(task, ())
                options[task] = known + tuple(o for o in offered if o not in known)
            return Examples(
                at,
                digests[own],
                cases.modalities[own],
                cases.tasks[own],
                cases.labels[own],
                options,
            )

        self.train, self.tune = examples("train"), examples("tune")
        if not len(self.train):
            raise UserError(
                "there is no labelled case of role 'train' to build agents from",
                hint="give some cases with an image that can be read a label, a task and options",
            )

    # -- what is built -------------------------------------------------------------------

    def plans(self, *, twin: bool) -> list[_Plan]:
        fleet, train = self.config.fleet, self.train
        plans = []
        few = train.few(fleet.shots, seed=fleet.seed)
        named = train.modalities[train.modalities != ""]
        names, counts = np.unique(named, return_counts=True)
        for modality in names[counts >= fleet.specialist_minimum].tolist():
            own = train.take(train.modalities == modality)
            foreign = few.take(few.modalities != modality)
            plans.append(
                _Plan(
                    f"specialist-{modality}",
                    "specialist",
                    modality,
                    own,
                    fleet.seed,
                    partial(self._specialist, foreign),
                    steps_of(len(own), SPECIALIST),
                    f"{SPECIALIST} {_mark(foreign)}",
                )
            )

        def generalist(name: str, examples: Examples, seed: int, recipe: Recipe) -> _Plan:
            return _Plan(
                name,
                "generalist",
                None,
                examples,
                seed,
                lambda e, s, a: self._generalist(e, recipe, s, a),
                steps_of(len(examples), recipe),
                f"{recipe} {LORA_RANK} {BY_NAME} {OptionScorer.SHARPNESS} {self.text.fingerprint}",
            )

        plans.append(generalist("generalist-16", few, fleet.seed, FEW_SHOT_GENERALIST))
        plans.append(generalist("generalist-full", train, fleet.seed, GENERALIST))
        if twin:
            plans.append(generalist("generalist-full-b", train, fleet.seed + 10_000, GENERALIST))
        for name, examples in (("linear-16", few), ("linear-full", train)):
            plans.append(
                _Plan(name, "generalist", None, examples, 0, self._linear, 1, "linear"),
            )
        plans.append(
            _Plan(
                _COLLEAGUE,
                "generalist",
                None,
                train,
                0,
                self._second_opinion,
                1,
                "linear whole",
                SecondTrunk.name,
            )
        )
        return plans

    def folder_of(self, plan: _Plan) -> str:
        """Named by everything that the weights depend on."""
        made_of = content_hash(
            f"{AGENT_FORMAT} {plan.name} {plan.seed} {plan.recipe} {INVERSE_PENALTY} {Blend.PULL}",
            self.trunks[plan.trunk].fingerprint,
            _mark(plan.examples),
            _mark(self.tune),
        )
        readable = re.sub(r"[^\w-]+", "_", plan.name)[:60]
        return f"{readable}-{made_of[:16]}"

    def build(self, plan: _Plan, folder: Path, advance: Advance) -> None:
        """Train one agent and write its folder."""
        # torch has one stream of random numbers for all: the caller's goes on undisturbed
        with metered() as meter, torch.random.fork_rng(devices=[]):
            reader, trainable = plan.build(plan.examples, plan.seed, advance)
            reader.blend = self._blend(reader, plan.modality, self.inputs_of(plan.trunk))
        labels = len(plan.examples)
        if isinstance(reader, SpecialistReader):
            few = self.train.few(self.config.fleet.shots, seed=self.config.fleet.seed)
            labels += int((few.modalities != plan.modality).sum())
        card = AgentCard(
            name=plan.name,
            kind="embedded",
            role=plan.role,
            modalities=(plan.modality,) if plan.modality else (),
            tasks=tuple(sorted(plan.examples.options)),
            question_kinds=(QuestionKind.DIAGNOSIS, QuestionKind.VQA_CLOSED),
            cost=COST,
            fingerprint=content_hash("agent", folder.name),
            limits=_LIMITS,
        )
        facts: dict[str, object] = {
            "labels": labels,
            "trainable_parameters": trainable,
            "train_seconds": meter.seconds,
            "peak_mib": meter.peak_mib,
        }
        with new_folder(folder) as temporary:
            meta = reader_files(reader, temporary)
            checksums = {p.name: file_digest(p) for p in sorted(temporary.iterdir())}
            body = {
                "card": card.model_dump(mode="json"),
                "blend": asdict(reader.blend),
                "build_cost": facts,
                "files": checksums,
                "trunk": plan.trunk,
                **meta,
            }
            (temporary / AGENT_FILE).write_text(json.dumps(body, indent=1), encoding="utf-8")

    # -- how -----------------------------------------------------------------------------

    def inputs_of(self, trunk: str) -> Inputs:
        """What agents on a trunk see of the labelled cases; the second is computed when asked."""
        return self.inputs if trunk == Trunk.name else self._second

    @cached_property
    def _second(self) -> Inputs:
        trunk = self.trunks[SecondTrunk.name]
        features = trunk.source.of(self._studies, label="encoding for the second trunk")
        return trunk.from_features(features, np.arange(len(features)))

    def _linear(self, examples: Examples, seed: int, advance: Advance) -> tuple[Reader, int]:
        heads = _heads(self.inputs.pooled, examples)
        advance(1)
        return LinearReader(heads, Blend()), heads.parameters

    def _second_opinion(
        self, examples: Examples, seed: int, advance: Advance
    ) -> tuple[Reader, int]:
        heads = _heads(self.inputs_of(SecondTrunk.name).fixed, examples)
        advance(1)
        return LinearReader(heads, Blend(), whole=True), heads.parameters

    def _specialist(
        self, foreign: Examples, examples: Examples, seed: int, advance: Advance
    ) -> tuple[Reader, int]:
        torch.manual_seed(seed)
        network = top_block()
        start = _heads(self.inputs.pooled[examples.rows], examples, rows=False)
        # a list: a task's name may be one that torch does not accept of a module
        layers = torch.nn.ModuleList(_linear_of(h) for h in start.values())
        layer_of = dict(zip(start, layers, strict=True))
        truth = _indices(examples, start.labels())

        def loss(features: Tensor, rows: NDArray[np.intp]) -> Tensor:
            total = features.new_zeros(())
            for task, at in by_task(examples.tasks[rows].tolist()).items():
                head = start[task]
                standard = (features[at] - torch.from_numpy(head.mean)) / torch.from_numpy(
                    head.scale
                )
                standard = functional.dropout(standard, SPECIALIST.dropout, network.training)
                logits = layer_of[task](standard)
                total = total + functional.cross_entropy(logits, truth[rows[at]], reduction="sum")
            return total / len(rows)

        fine_tune(
            network,
            layers,
            self.inputs.grid[examples.rows],
            loss,
            SPECIALIST,
            seed=seed,
            advance=advance,
        )
        own = Heads({t: _head_of(layer_of[t], start[t]) for t in start})
        frozen = _heads(self.fixed, examples)
        served = learned(network)
        tuned = served.features(self.inputs.grid[foreign.rows])
        both = np.concatenate([tuned, self.fixed[foreign.rows]], axis=1)
        away = _heads(both, foreign, rows=False)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        trainable = trained + own.parameters + frozen.parameters + away.parameters
        return SpecialistReader(served, own, frozen, away, Blend()), trainable

    def _generalist(
        self, examples: Examples, recipe: Recipe, seed: int, advance: Advance
    ) -> tuple[Reader, int]:
        torch.manual_seed(seed)
        network = lora(upper_blocks(), LORA_RANK)
        frozen = _heads(self.fixed, examples)
        labels = {t: list(o) for t, o in examples.options.items()}
        vectors = {
            t: self.text.encode([option_text(o) for o in names]) for t, names in labels.items()
        }
        scorer = TrainedScorer(self.fixed[examples.rows], vectors, dropout=recipe.dropout)
        statistics = torch.from_numpy(self.inputs.statistics[examples.rows])
        truth = _indices(examples, labels)

        def loss(features: Tensor, rows: NDArray[np.intp]) -> Tensor:
            image = scorer.image(torch.cat([features, statistics[rows]], 1))
            total = features.new_zeros(())
            for task, at in by_task(examples.tasks[rows].tolist()).items():
                target = truth[rows[at]]
                known = functional.cross_entropy(
                    scorer.known(image[at], task), target, reduction="sum"
                )
                plain = functional.cross_entropy(
                    scorer.by_name(image[at], task), target, reduction="sum"
                )
                total = total + known + BY_NAME * plain
            return total / len(rows)

        fine_tune(
            network,
            scorer,
            self.inputs.grid[examples.rows],
            loss,
            recipe,
            seed=seed,
            advance=advance,
        )
        trained = [p for p in (*network.parameters(), *scorer.parameters()) if p.requires_grad]
        trainable = sum(p.numel() for p in trained) + frozen.parameters
        reader = GeneralistReader(
            learned(network), scorer.served(), frozen, labels, self.text, Blend()
        )
        return reader, trainable

    def _blend(self, reader: Reader, modality: str | None, inputs: Inputs) -> Blend:
        """Fitted on ``tune`` cases of what the agent was adapted to."""
        tune = self.tune if modality is None else self.tune.take(self.tune.modalities == modality)
        known = np.array([t in self.train.options for t in tune.tasks.tolist()], bool)
        tune = tune.take(known)
        questions = [Question(options=self.train.options[t], task=t) for t in tune.tasks.tolist()]
        opinions = reader.opinions(inputs.take(tune.rows), questions)
        found = []
        for (a, b), question, label in zip(opinions, questions, tune.labels.tolist(), strict=True):
            if (a is None and b is None) or label not in question.options:
                continue
            one = a if a is not None else b
            assert one is not None
            uniform = np.full_like(one, 1 / len(one))
            truth = question.options.index(label)
            found.append((a if a is not None else uniform, b if b is not None else uniform, truth))
        return Blend.fit(found)


def _mark(examples: Examples) -> str:
    """Hash of which images and labels these are."""
    columns = (examples.digests, examples.modalities, examples.tasks, examples.labels)
    options: Mapping[str, tuple[str, ...]] = examples.options
    return content_hash(json.dumps([c.tolist() for c in columns]), json.dumps(options))


def _heads(features: NDArray[np.float32], examples: Examples, *, rows: bool = True) -> Heads:
    """A head a task; ``rows`` says that features are of all inputs, not of the examples."""
    values = features[examples.rows] if rows else features
    found = by_task(examples.tasks.tolist())
    return Heads({t: Head.fit(values[at], examples.labels[at]) for t, at in found.items()})


def _indices(examples: Examples, labels: Mapping[str, list[str]]) -> Tensor:
    pairs = zip(examples.tasks.tolist(), examples.labels.tolist(), strict=True)
    return torch.tensor([labels[t].index(label) for t, label in pairs])


def _linear_of(head: Head) -> torch.nn.Linear:
    layer = torch.nn.Linear(head.weight.shape[1], head.weight.shape[0])
    layer.weight.data.copy_(torch.from_numpy(head.weight))
    layer.bias.data.copy_(torch.from_numpy(head.bias))
    return layer


def _head_of(layer: torch.nn.Module, start: Head) -> Head:
    weight, bias = (p.detach().numpy().copy() for p in layer.parameters())
    return Head(start.labels, start.mean, start.scale, weight, bias)
