"""Everything that is built once: features, index, fleet, and what the fleet got right on tune.

Each stage is stamped with a hash of what went into it (contents of images, rows of the
manifest, the section of the configuration, versions) and is redone only when that hash
changes.  Stages are written atomically and the stamp comes last: a build that is killed
goes on where it stopped, and what was built before serves until then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside import __version__
from curbside.agents.contract import Agent
from curbside.agents.fleet import FORMAT as FLEET_FORMAT
from curbside.agents.fleet import Fleet
from curbside.cases import Cases, read_cases
from curbside.config import Config, model_digest
from curbside.errors import NotBuilt
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.encoder import load_encoder
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.text import TextEncoder
from curbside.progress import bar
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.storage import write_text
from curbside.study import Study, content_hash

__all__ = ["Workspace", "read_all"]

_BUILD = "curbside build --cases MANIFEST (or make demo)"
_BUILT_FROM = ("train", "tune", "calibration")
_READ_BLOCK = 256


class Workspace:
    """The stores under one home folder, for one configuration.

    Args:
        home: ``CURBSIDE_HOME``; relative paths of ``config.stores`` are under it.
    """

    def __init__(self, home: Path, config: Config) -> None:
        self.home, self.config = home, config
        stores = config.stores
        self.index_folder, self.fleet_folder = home / stores.index, home / stores.fleet
        self.cache_folder = home / stores.cache
        self.outcomes_folder = home / "outcomes"
        self.built_file = home / "built.jsonl"

    @cached_property
    def source(self) -> FeatureSource:
        """Features of studies, cached under the home folder."""
        encoder = load_encoder(self.config.encoder, self.cache_folder)
        return FeatureSource(encoder, folder=self.cache_folder)

    @cached_property
    def text(self) -> TextEncoder:
        """Text vectors, cached under the home folder."""
        return TextEncoder(cache=self.cache_folder)

    def features(self, cases: Cases, label: str = "encoding images") -> Features:
        """Features of cases, one row each."""
        return self.source.of(cases.studies(), label=label)

    # -- building ------------------------------------------------------------------------

    def build(self, cases: Cases) -> None:
        """Build whatever is missing or out of date from the cases' train, tune, calibration.

        Raises:
            UserError: the cases cannot serve for a stage; says which and why.
            StorageError: the disk is full; what was built before still works.
        """
        known = cases.take(cases.where(role=_BUILT_FROM))
        features = self.features(known)
        # an evaluation on another manifest still chooses on these tune cases
        rows = _manifest(known)
        if not self.built_file.is_file() or self.built_file.read_text("utf-8") != rows:
            write_text(self.built_file, rows)
        marks = self._marks(known, features)
        if self._stamp("index") != marks["index"] or not self.index_folder.is_dir():
            Assessor.fit(known, features, self.config).save(self.index_folder)
            self._write_stamp("index", marks["index"])
        if self._stamp("fleet") != marks["fleet"] or not self.fleet_folder.is_dir():
            # torch and peft load only where something is trained
            from curbside.agents.train import train_fleet

            train_fleet(
                known,
                features,
                self.config,
                self.fleet_folder,
                source=self.source,
                text=self.text,
            )
            self._write_stamp("fleet", marks["fleet"])
        if self._stamp("outcomes") != marks["outcomes"] or not self.outcomes_folder.is_dir():
            self._build_outcomes(known, features)
            self._write_stamp("outcomes", marks["outcomes"])

    def _build_outcomes(self, known: Cases, features: Features) -> None:
        """Every agent reads every labelled tune case; competence is learned from that."""
        rows = self._tune_rows(known)
        fleet = Fleet.load(self.fleet_folder, self.source, self.text)
        tune = known.take(rows)
        matrix = read_all(fleet.agents, tune.studies(), [c.label for c in tune], "reading tune")
        save_responses(matrix, self.outcomes_folder / "tune.parquet")
        assessor = Assessor.load(self.index_folder, encoder=self.source.fingerprint)
        Competence.fit(assessor, tune, features.take(rows), matrix).save(
            self.outcomes_folder / "competence"
        )

    @staticmethod
    def _tune_rows(cases: Cases) -> NDArray[np.intp]:
        return np.flatnonzero((cases.roles == "tune") & (cases.tasks != "") & (cases.labels != ""))

    def _marks(self, cases: Cases, features: Features) -> dict[str, str]:
        rows = json.dumps(
            [
                [d, c.id, c.modality, c.task, c.label, c.options, c.role, c.group]
                for d, c in zip(features.digests, cases, strict=True)
            ]
        )
        config, common = self.config, (__version__, features.fingerprint, rows)
        index = content_hash(
            "index", *common, model_digest(config.encoder.projection), model_digest(config.index)
        )
        fleet = content_hash("fleet", str(FLEET_FORMAT), *common, model_digest(config.fleet))
        return {"index": index, "fleet": fleet, "outcomes": content_hash(index, fleet)}

    def _stamp(self, stage: str) -> str:
        try:
            return (self.home / "stamps" / stage).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def _write_stamp(self, stage: str, mark: str) -> None:
        write_text(self.home / "stamps" / stage, mark)

    # -- opening -------------------------------------------------------------------------

    @cached_property
    def _fleet(self) -> Fleet:
        return Fleet.load(self.fleet_folder, self.source, self.text)

    def fleet(self) -> Fleet:
        """The trained agents, verified.  Raises NotBuilt, IndexMismatch, IndexCorrupt."""
        return self._fleet

    @cached_property
    def _assessor(self) -> Assessor:
        fleet = self.fleet()
        return Assessor.load(self.index_folder, encoder=self.source.fingerprint).bind(
            fleet.serving, fleet.specialists, self.competence()
        )

    def assessor(self) -> Assessor:
        """The index with its calibration, bound to the serving agents and their competence.

        Raises:
            NotBuilt, IndexMismatch, IndexCorrupt: see :meth:`Assessor.load`.
        """
        return self._assessor

    def built_cases(self) -> Cases:
        """The train, tune and calibration cases that everything was built from.

        Raises:
            NotBuilt: nothing was built.
        """
        if not self.built_file.is_file():
            raise NotBuilt(f"there is no {self.built_file.name} in {self.home}", hint=_BUILD)
        return read_cases(self.built_file)

    def competence(self) -> Competence:
        """What the agents got right on tune.  Raises NotBuilt, IndexCorrupt."""
        return Competence.load(self.outcomes_folder / "competence")

    def tune_responses(self) -> ResponseMatrix:
        """All agents on the labelled tune cases.  Raises NotBuilt."""
        path = self.outcomes_folder / "tune.parquet"
        if not path.is_file():
            raise NotBuilt(f"there are no readings of tune cases in {path.parent}", hint=_BUILD)
        return load_responses(path)


def _manifest(cases: Cases) -> str:
    """The cases as a JSON Lines manifest that is read from anywhere."""
    lines = []
    for c in cases:
        row = {
            "id": c.id,
            "image": str(c.image.absolute()),
            "modality": c.modality,
            "label": c.label,
            "task": c.task,
            "options": list(c.options),
            "question": c.question,
            "role": c.role,
            "tier": c.tier,
            "group": c.group,
        }
        lines.append(json.dumps({k: v for k, v in row.items() if v}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def read_all(
    agents: Mapping[str, Agent],
    studies: list[Study],
    labels: list[str | None],
    label: str,
) -> ResponseMatrix:
    """Every study by every agent, with a progress bar; columns in the agents' order."""
    columns = []
    with bar(label, len(agents) * len(studies)) as advance:
        for agent in agents.values():
            said = []
            for start in range(0, len(studies), _READ_BLOCK):
                block = studies[start : start + _READ_BLOCK]
                said += agent.read_batch(block)
                advance(len(block))
            columns.append(said)
    return ResponseMatrix.from_responses(
        [s.id for s in studies],
        list(agents),
        [s.question.options for s in studies],
        labels,
        list(zip(*columns, strict=True)),
    )
