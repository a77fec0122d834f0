"""What was built under one home folder, opened: features, fleet, the index version that serves.

Nothing is built here: :mod:`curbside.router.building` makes fleet and first version,
:mod:`curbside.router.adding` grows it.  Index, competence and cases are one version
(:mod:`curbside.router.versions`), so they cannot be of different ages.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.agents.fleet import Fleet
from curbside.agents.fleet_spec import FleetSpec, fleet_path, load_fleet_spec
from curbside.agents.opening import open_fleet
from curbside.agents.tasks import options_by_task, tasks_by_modality
from curbside.cases import Cases, read_cases
from curbside.config import Config
from curbside.errors import IndexCorrupt, IndexMismatch, UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.encoder import load_encoder
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.outcomes import Outcomes
from curbside.indexes.text import TextEncoder
from curbside.indexes.views import Views, most_viewed, views_of
from curbside.response_file import load_responses
from curbside.responses import ResponseMatrix
from curbside.router.growth import Withheld
from curbside.router.out_of_fold import out_of_fold_outcomes
from curbside.router.versions import CASES_FILE, TUNE_FILE, WITHHELD_FILE, VersionStore
from curbside.storage import write_text

__all__ = ["Workspace", "out_of_fold_mark", "tune_rows"]

#: Train images whose perturbed copies are encoded.
_VIEWED = 2000


class Workspace:
    """The stores under one home folder, for one configuration.

    Args:
        home: ``CURBSIDE_HOME``; relative paths of ``config.stores`` are under it.
        version: of the index; default: the one that serves.
    """

    def __init__(self, home: Path, config: Config, *, version: str | None = None) -> None:
        self.home, self.config = home, config
        stores = config.stores
        self.versions, self.fleet_folder = VersionStore(home / stores.index), home / stores.fleet
        self.cache_folder, self.out_of_fold_folder = home / stores.cache, home / "out-of-fold"
        self._asked = version

    @cached_property
    def version_folder(self) -> Path:
        """The version that was asked for or serves; chosen and verified once.

        Raises:
            NotBuilt, UserError, IndexCorrupt: see :class:`VersionStore`.
        """
        return self.versions.check(self._asked) if self._asked else self.versions.opened()

    @cached_property
    def source(self) -> FeatureSource:
        """Features of studies, cached under the home folder."""
        encoder = load_encoder(self.config.encoder, self.cache_folder)
        return FeatureSource(encoder, folder=self.cache_folder)

    @cached_property
    def text(self) -> TextEncoder:
        """Text vectors, cached under the home folder."""
        return TextEncoder(cache=self.cache_folder)

    @cached_property
    def fleet_file(self) -> Path:
        """The fleet file that serves.  Raises ConfigError."""
        return fleet_path(self.config.fleet.file, self.home)

    @cached_property
    def fleet_spec(self) -> FleetSpec:
        """What the fleet file says.  Raises ConfigError."""
        return load_fleet_spec(self.fleet_file)

    def features(self, cases: Cases, label: str = "encoding images") -> Features:
        """Features of cases, one row each."""
        return self.source.of(cases.studies(), label=label)

    def views(self, cases: Cases, features: Features) -> Views | None:
        """Perturbed copies of train and calibration images, as the configuration asks for them."""
        config = self.config
        some = (
            features.usable & (cases.roles == "train") & (config.encoder.projection.invariance > 0)
        )
        held_out = (cases.roles == "calibration") & config.index.calibration_copies
        return self._views(cases, features, some, features.usable & held_out)

    def views_for_selection(self, cases: Cases, features: Features) -> Views | None:
        """Perturbed copies of train and tune images, to choose a projection with."""
        usable = features.usable
        train, tune = (usable & (cases.roles == r) for r in ("train", "tune"))
        return self._views(cases, features, train, tune)

    def _views(
        self, cases: Cases, features: Features, some: NDArray[np.bool_], every: NDArray[np.bool_]
    ) -> Views | None:
        """Of ``some`` not all: they only say what perturbing changes; of ``every`` all."""
        few = most_viewed(features.digests, np.flatnonzero(some), _VIEWED)
        rows = np.concatenate([few, np.flatnonzero(every)])
        if not len(rows):
            return None
        encoder, studies = self.source.encoder, cases.studies()
        return views_of(encoder, studies, rows, self.cache_folder)

    # -- opening -------------------------------------------------------------------------

    def trained(self) -> Fleet:
        """The agents that were built, verified.  Raises NotBuilt, IndexMismatch, IndexCorrupt."""
        return Fleet.load(self.fleet_folder, self.source, self.text)

    def open_fleet(self, cases: Cases | None = None) -> Fleet:
        """The agents of the fleet file, opened anew.

        Args:
            cases: whose tasks agents that are not trained here read; default: the version's.
        """
        spec = self.fleet_spec
        known = ({}, {}) if spec.embedded else _tasks(cases or self.built_cases())
        return open_fleet(
            spec,
            stored=self.trained,
            tasks=known[0],
            tasks_of=known[1],
            folder=self.fleet_file.parent,
        )

    @cached_property
    def _fleet(self) -> Fleet:
        return self.open_fleet()

    def fleet(self) -> Fleet:
        """The agents of the fleet file, verified; no server is called.

        Raises:
            ConfigError, MissingExtra: of the fleet file.
            NotBuilt, IndexMismatch, IndexCorrupt: of what was built.
        """
        return self._fleet

    @cached_property
    def _assessor(self) -> Assessor:
        fleet, folder = self.fleet(), self.version_folder
        learned_from = self.versions.facts(folder.name).fleet
        if learned_from != fleet.fingerprint:
            raise IndexMismatch(
                f"index version {folder.name} knows the outcomes of fleet {learned_from[:12]}, "
                f"but {fleet.fingerprint[:12]} serves",
                hint="curbside build --cases MANIFEST",
            )
        return Assessor.load(folder / "index", encoder=self.source.fingerprint).bind(
            fleet.serving, fleet.specialists, self.competence()
        )

    def assessor(self) -> Assessor:
        """The index with its calibration, bound to the serving agents and their competence.

        Raises:
            NotBuilt, IndexMismatch, IndexCorrupt: see :meth:`Assessor.load`; also where the
                version's outcomes are another fleet's.
        """
        return self._assessor

    def built_cases(self) -> Cases:
        """The train, tune and calibration cases that this version was made of.

        Raises:
            NotBuilt, IndexCorrupt.
        """
        return read_cases(self.version_folder / CASES_FILE)

    def trained_from(self) -> Cases:
        """The cases of the build that this version grew from: its agents were trained on ``train``.

        Raises:
            NotBuilt, IndexCorrupt.
        """
        name = self.version_folder.name
        while (parent := self.versions.facts(name).parent) is not None:
            name = parent
        return read_cases(self.versions.path(name) / CASES_FILE)

    def competence(self) -> Competence:
        """What the agents got right on tune.  Raises NotBuilt, IndexCorrupt."""
        return Competence.load(self.version_folder / "competence")

    def tune_responses(self) -> ResponseMatrix:
        """All agents on the labelled tune cases.  Raises NotBuilt, IndexCorrupt."""
        return load_responses(self.version_folder / TUNE_FILE)

    def tune_outcomes(self) -> Outcomes:
        """What agents got right on tune.  Raises NotBuilt, IndexCorrupt, UserError."""
        cases = self.built_cases()
        tune = cases.take(tune_rows(cases))
        return Outcomes.of(tune, self.features(tune), self.tune_responses())

    def withheld(self) -> Withheld:
        """What this version may never learn from.  Raises NotBuilt, IndexCorrupt, OSError."""
        return _withheld(self.version_folder)

    def ever_withheld(self) -> Withheld:
        """What any version here may never learn from; one that cannot be read is passed by."""
        every = Withheld()
        for name in self.versions.names():
            with suppress(IndexCorrupt, OSError, UnicodeDecodeError):
                every = every.joined(_withheld(self.versions.path(name)))
        return every

    def other_outcomes(self) -> Outcomes | None:
        """Out-of-fold readings that competence learned from; reviewed cases are the ledger's."""
        cases = self.built_cases()
        return self.out_of_fold(cases, self.features(cases))

    def out_of_fold(self, cases: Cases, features: Features) -> Outcomes | None:
        """Out-of-fold readings of train cases, where they are asked for and agents are trained.

        Raises:
            UserError: they were not made, or with other folds or a fleet trained otherwise.
        """
        folds = self.config.fleet.out_of_fold
        if folds < 2 or not self.fleet_spec.embedded:
            return None
        if self.stamp("out-of-fold") != out_of_fold_mark(folds, self.stamp("fleet")):
            raise UserError(
                f"fleet.out_of_fold is {folds}, but there are no such readings of this fleet",
                hint="curbside build --cases MANIFEST makes them; or set fleet.out_of_fold: 0",
            )
        return out_of_fold_outcomes(self.out_of_fold_folder, cases, features)

    # -- what was built -----------------------------------------------------------------

    def stamp(self, stage: str) -> str:
        """Hash of what a stage was last built from; ``""`` where it was not."""
        try:
            return (self.home / "stamps" / stage).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def write_stamp(self, stage: str, mark: str) -> None:
        """Say that a stage is built, once it is.  Raises StorageError."""
        write_text(self.home / "stamps" / stage, mark)

    def reopen_fleet(self) -> None:
        """Open the fleet again when it is next asked for."""
        self.__dict__.pop("_fleet", None)

    def reopen(self) -> None:
        """Choose and verify the version again when it is next asked for."""
        for name in ("version_folder", "_assessor"):
            self.__dict__.pop(name, None)


def _withheld(version: Path) -> Withheld:
    return Withheld.from_json((version / WITHHELD_FILE).read_text("utf-8"))


def out_of_fold_mark(folds: int, fleet: str) -> str:
    """Stamp of out-of-fold readings: in how many folds, and the stamp of the fleet."""
    return f"{folds} {fleet}"


def tune_rows(cases: Cases) -> NDArray[np.intp]:
    """Rows of the labelled tune cases, which agents are judged on."""
    return np.flatnonzero((cases.roles == "tune") & (cases.tasks != "") & (cases.labels != ""))


def _tasks(cases: Cases) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Task → options, and modality → tasks with the commonest first, of training cases."""
    train = [c for c in cases.take(cases.where(role="train")) if c.task and c.label]
    options = options_by_task((c.task or "", c.options or (c.label or "",)) for c in train)
    return options, tasks_by_modality((c.modality or "", c.task or "") for c in train)
