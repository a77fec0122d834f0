"""Everything that is built once: features, fleet, and versions of the index and of what the
fleet got right on tune.

Each stage is stamped with a hash of what went into it (contents of images, rows of the
manifest, the section of the configuration, versions) and is redone only when that hash
changes.  Stages are written atomically and the stamp comes last: a build that is killed
goes on where it stopped, and what was built before serves until then.  Index, competence and
cases are one version (:mod:`curbside.router.versions`), so they cannot be of different ages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from curbside import __version__
from curbside.agents.contract import Agent
from curbside.agents.fleet import FORMAT as FLEET_FORMAT
from curbside.agents.fleet import Fleet
from curbside.agents.fleet_spec import FleetSpec, fleet_path, load_fleet_spec
from curbside.agents.opening import open_fleet
from curbside.agents.tasks import options_by_task, tasks_by_modality
from curbside.cases import Cases, read_cases
from curbside.config import Config, model_digest
from curbside.errors import IndexCorrupt, IndexMismatch, NotBuilt
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.encoder import load_encoder
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.outcomes import Outcomes
from curbside.indexes.text import TextEncoder
from curbside.indexes.views import Views, most_viewed, views_of
from curbside.progress import bar
from curbside.response_file import load_responses, save_responses
from curbside.responses import ResponseMatrix
from curbside.router.growth import TUNE_SHARE, Admission, Withheld, admit
from curbside.router.out_of_fold import load_out_of_fold, read_out_of_fold
from curbside.router.reviewed import Reviewed, production_outcomes
from curbside.router.versions import CASES_FILE, VersionFacts, VersionStore
from curbside.storage import file_digest, write_text
from curbside.study import Study, content_hash

__all__ = ["Workspace", "read_all"]

_BUILT_FROM = ("train", "tune", "calibration")
_READ_BLOCK = 256
#: Train images whose perturbed copies are encoded.
_VIEWED = 2000
_OUT_OF_FOLD = "out-of-fold"
#: Raise when what a version holds, or how it is learned, changes.
_FORMAT = 4
#: What a reading depends on besides the fleet: id, image, label, options.
_Asked = tuple[str, str, str | None, tuple[str, ...]]


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
        self.cache_folder = home / stores.cache
        self._asked = version

    @cached_property
    def version_folder(self) -> Path:
        """The version that was asked for or serves; chosen and verified once.

        Raises:
            NotBuilt, UserError, IndexCorrupt: see :class:`VersionStore`.
        """
        return self.versions.check(self._asked or self.versions.current())

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

    # -- building ------------------------------------------------------------------------

    def build(self, cases: Cases) -> None:
        """Build whatever is missing or out of date from the cases' train, tune, calibration.

        Raises:
            UserError: the cases cannot serve for a stage; says which and why.
            StorageError: the disk is full; what was built before still works.
        """
        known = cases.take(cases.where(role=_BUILT_FROM))
        features = self.features(known)
        marks = self._marks(known, features)
        stale = self._stamp("fleet") != marks["fleet"] or not self.fleet_folder.is_dir()
        if self.fleet_spec.embedded and stale:
            self._train(known, features, self.fleet_folder)
            self._write_stamp("fleet", marks["fleet"])
            self.__dict__.pop("_fleet", None)
        folds = self.config.fleet.out_of_fold
        mark = f"{folds} {marks['fleet']}"
        if folds > 1 and self.fleet_spec.embedded and self._stamp(_OUT_OF_FOLD) != mark:
            self._read_out_of_fold(known, features)
            self._write_stamp(_OUT_OF_FOLD, mark)
        built = self.versions.made_of(marks["version"])
        if built is None:
            test = cases.take(cases.where(role="test"))
            withheld = Withheld.of(test, [_image_digest(c.image) for c in test])
            with suppress(NotBuilt, IndexCorrupt, OSError):
                # a version's own cases name no test case, but a build from them forgets none
                withheld = withheld.joined(self._withheld())
            built = self._make(known, features, withheld, made_of=marks["version"])
        elif self.versions.serves(built):
            return  # cases that were added since stay
        self.versions.serve(built, "build")
        self._reopen()

    def _train(self, cases: Cases, features: Features, folder: Path, *, twin: bool = True) -> Fleet:
        # torch and peft load only where something is trained
        from curbside.agents.train import train_fleet

        train_fleet(
            cases, features, self.config, folder, source=self.source, text=self.text, twin=twin
        )
        return Fleet.load(folder, self.source, self.text)

    def _read_out_of_fold(self, cases: Cases, features: Features) -> None:
        rows = cases.where(role=("train", "tune"))
        read_out_of_fold(
            cases.take(rows),
            features.take(rows),
            self.config.fleet.out_of_fold,
            self.home / _OUT_OF_FOLD,
            train=lambda c, f, where: self._train(c, f, where, twin=False),
            read=lambda fleet, c, label: read_all(
                fleet.agents, c.studies(), [case.label for case in c], label
            ),
        )

    def other_outcomes(self) -> Outcomes | None:
        """What this version's competence learned from besides tune, if anything."""
        cases = self.built_cases()
        return self._other_outcomes(cases, self.features(cases))

    def _other_outcomes(self, cases: Cases, features: Features) -> Outcomes | None:
        """Out-of-fold readings of train cases; ``cases`` without one are passed by."""
        if self.config.fleet.out_of_fold < 2 or not (self.home / _OUT_OF_FOLD).is_dir():
            return None
        kept = load_out_of_fold(self.home / _OUT_OF_FOLD)
        rows = np.flatnonzero(np.isin(cases.ids, list(kept.fold)) & (cases.roles == "train"))
        there = set(cases.ids[rows].tolist())
        known = [i for i, c in enumerate(kept.responses.cases) if c in there]
        return Outcomes.of(
            cases.take(rows),
            features.take(rows),
            kept.responses.take(np.array(known, np.intp)),
            fold=kept.fold,
        )

    def add(
        self,
        new: Cases | None,
        *,
        tune_share: float = TUNE_SHARE,
        reviewed: Reviewed = MappingProxyType({}),
    ) -> tuple[str | None, Admission]:
        """Make a version with reviewed cases more; what serves stays.

        The index is fitted and calibrated again and competence learned again, on the cases
        of the version opened here and the new ones.  Agents are not trained again.

        Args:
            new: labelled cases; see :func:`curbside.router.growth.admit` for who joins.
            tune_share: share of new groups that go to ``tune``.
            reviewed: production cases that a person has answered; what the agents that serve
                had said of them teaches competence.

        Returns:
            The version's name (None where nothing is new), and who joined.
        """
        known, withheld = self.built_cases(), self._withheld()
        features = self.features(known)
        admission = Admission(Cases([], known.path), (), {})
        if new is not None:
            more = self.features(new)
            admission = admit(
                known, features.digests, new, more.digests, withheld, tune_share=tune_share
            )
        both = Cases([*known, *admission.cases], known.path)
        # all of them at once: what was encoded is in the cache
        features = self.features(both)
        production = self._production(reviewed, both, features, withheld)
        if not admission.rows and production is None:
            return None, admission
        parent, first = self.version_folder.name, len(known)
        made_of = content_hash(
            "grown",
            parent,
            _manifest(admission.cases, features.digests[first:]),
            "" if production is None else production.digest,
        )
        known_by_now = self.versions.made_of(made_of)
        if known_by_now is not None:
            return known_by_now, admission
        name = self._make(
            both,
            features,
            withheld,
            made_of=made_of,
            parent=parent,
            added=admission.cases,
            production=production,
        )
        return name, admission

    def _production(
        self, reviewed: Reviewed, cases: Cases, features: Features, withheld: Withheld
    ) -> Outcomes | None:
        """Outcomes of reviewed cases that are neither held out nor judged on tune already."""
        held_out = np.isin(cases.roles, ("tune", "calibration"))
        taken = {d for d, held in zip(features.digests, held_out, strict=True) if held}
        contents = [
            record.content
            for record, _ in reviewed.values()
            if record.content not in taken and record.content not in withheld.images
        ]
        if not contents:
            return None
        pooled = self.source.kept(contents)
        there = zip(contents, pooled, strict=True)
        agents = {n: a.card.fingerprint for n, a in self.fleet().agents.items()}
        outcomes, _ = production_outcomes(
            reviewed, agents, ((c, x) for c, x in there if np.isfinite(x).all())
        )
        return outcomes

    def _make(
        self,
        cases: Cases,
        features: Features,
        withheld: Withheld,
        *,
        made_of: str,
        parent: str | None = None,
        added: Cases | None = None,
        production: Outcomes | None = None,
    ) -> str:
        """Fit, calibrate, read tune, learn competence; write it all as one version."""
        assessor = Assessor.fit(cases, features, self.config, self.views(cases, features))
        rows = self._tune_rows(cases)
        tune, tune_features = cases.take(rows), features.take(rows)
        # where nothing is trained, tasks are those of the cases, and no version serves yet
        fleet = self.fleet() if self.fleet_spec.embedded else self._open_fleet(cases)
        matrix = self._tune_readings(tune, tune_features, fleet)
        also = self._other_outcomes(cases, features)
        if production is not None:
            also = production if also is None else also.joined(production)
        competence = Competence.fit(assessor, tune, tune_features, matrix, also=also)
        manifest = _manifest(cases, features.digests)
        name = content_hash(
            "version", assessor.calibration_digest, competence.digest, manifest, made_of
        )[:16]
        facts = VersionFacts(
            name=name,
            parent=parent,
            made_of=made_of,
            fleet=fleet.fingerprint,
            cases=_by_role(cases),
            added={} if added is None else _by_role(added),
            outcomes=0 if production is None else len(production),
        )
        with self.versions.adding(facts) as folder:
            assessor.save(folder / "index")
            competence.save(folder / "competence")
            save_responses(matrix, folder / "tune.parquet")
            write_text(folder / CASES_FILE, manifest)
            write_text(folder / "withheld.json", json.dumps(withheld.to_json()))
        return name

    def _tune_readings(self, tune: Cases, features: Features, fleet: Fleet) -> ResponseMatrix:
        """Every agent on every labelled tune case; what a version has of this fleet is kept."""
        old, place = self._kept_readings(fleet)
        have = [
            place.get((c.id, d, c.label, c.options), -1)
            for c, d in zip(tune, features.digests, strict=True)
        ]
        fresh = [i for i, at in enumerate(have) if at < 0]
        if old is not None and not fresh:
            return old.take(np.array(have, np.intp))
        todo = tune.take(np.array(fresh, np.intp))
        new = read_all(fleet.agents, todo.studies(), [c.label for c in todo], "reading tune")
        if old is None:
            return new
        both = ResponseMatrix.concatenated([old, new])
        turn = {i: len(old) + at for at, i in enumerate(fresh)}
        return both.take(np.array([turn.get(i, at) for i, at in enumerate(have)], np.intp))

    def _kept_readings(self, fleet: Fleet) -> tuple[ResponseMatrix | None, dict[_Asked, int]]:
        """Tune readings of the latest version of this fleet, and the row of each case in them."""
        store = self.versions
        for name in reversed(store.names()):
            with suppress(IndexCorrupt):
                if store.facts(name).fleet == fleet.fingerprint:
                    folder = store.check(name)
                    matrix = load_responses(folder / "tune.parquet")
                    row = {c: i for i, c in enumerate(matrix.cases)}
                    place = {
                        (c.id, c.attributes.get("sha256", ""), c.label, c.options): row[c.id]
                        for c in read_cases(folder / CASES_FILE)
                        if c.id in row
                    }
                    return matrix, place
        return None, {}

    def _withheld(self) -> Withheld:
        return Withheld.from_json((self.version_folder / "withheld.json").read_text("utf-8"))

    def _reopen(self) -> None:
        for name in ("version_folder", "_assessor"):
            self.__dict__.pop(name, None)

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
        fleet = content_hash("fleet", str(FLEET_FORMAT), *common, _training(config))
        version = content_hash(f"{_FORMAT} {config.fleet.out_of_fold}", index, fleet)
        if not self.fleet_spec.only_embedded:
            version = content_hash(version, model_digest(self.fleet_spec))
        return {"fleet": fleet, "version": version}

    def _stamp(self, stage: str) -> str:
        try:
            return (self.home / "stamps" / stage).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""

    def _write_stamp(self, stage: str, mark: str) -> None:
        write_text(self.home / "stamps" / stage, mark)

    # -- opening -------------------------------------------------------------------------

    def trained(self) -> Fleet:
        """The agents that were built, verified.  Raises NotBuilt, IndexMismatch, IndexCorrupt."""
        return Fleet.load(self.fleet_folder, self.source, self.text)

    def _open_fleet(self, cases: Cases | None = None) -> Fleet:
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
        return self._open_fleet()

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

    def competence(self) -> Competence:
        """What the agents got right on tune.  Raises NotBuilt, IndexCorrupt."""
        return Competence.load(self.version_folder / "competence")

    def tune_responses(self) -> ResponseMatrix:
        """All agents on the labelled tune cases.  Raises NotBuilt, IndexCorrupt."""
        return load_responses(self.version_folder / "tune.parquet")

    def tune_outcomes(self) -> Outcomes:
        """What agents got right on tune.  Raises NotBuilt, IndexCorrupt, UserError."""
        cases = self.built_cases()
        tune = cases.take(self._tune_rows(cases))
        return Outcomes.of(tune, self.features(tune), self.tune_responses())


def _by_role(cases: Cases) -> dict[str, int]:
    return dict(sorted(Counter(cases.roles.tolist()).items()))


def _image_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # one that cannot be read cannot join either
        return ""


def _training(config: Config) -> str:
    """Hash of what training depends on; which fleet file serves and what is read is none of it."""
    settings = config.fleet.model_dump(mode="json", exclude={"file", "out_of_fold"})
    return content_hash(json.dumps(settings, sort_keys=True))


def _tasks(cases: Cases) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Task → options, and modality → tasks with the commonest first, of training cases."""
    train = [c for c in cases.take(cases.where(role="train")) if c.task and c.label]
    options = options_by_task((c.task or "", c.options or (c.label or "",)) for c in train)
    return options, tasks_by_modality((c.modality or "", c.task or "") for c in train)


def _manifest(cases: Cases, digests: Sequence[str]) -> str:
    """The cases as a JSON Lines manifest that is read from anywhere."""
    lines = []
    for c, digest in zip(cases, digests, strict=True):
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
            "sha256": digest,
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
