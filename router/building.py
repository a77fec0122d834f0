"""Builds what is missing or out of date: the fleet, out-of-fold readings, the index version.

Each stage is stamped with a hash of what went into it (contents of images, rows of the
manifest, the section of the configuration, versions) and is redone only when that hash
changes.  Stages are written atomically and the stamp comes last: a build that is killed
goes on where it stopped, and what was built before serves until then.
"""

from __future__ import annotations

import json
from pathlib import Path

from curbside import __version__
from curbside.agents.fleet import FORMAT as FLEET_FORMAT
from curbside.agents.fleet import Fleet
from curbside.agents.read_all import read_all
from curbside.cases import Cases
from curbside.config import Config, model_digest
from curbside.indexes.features import Features
from curbside.router.growth import Withheld
from curbside.router.out_of_fold import read_out_of_fold
from curbside.router.version_making import make_version
from curbside.router.workspace import Workspace, out_of_fold_mark
from curbside.storage import file_digest
from curbside.study import content_hash

__all__ = ["build_home"]

_BUILT_FROM = ("train", "tune", "calibration")
#: Raise when what a version holds, or how it is learned, changes.
_FORMAT = 4


def build_home(workspace: Workspace, cases: Cases) -> None:
    """Build whatever is missing or out of date from the cases' train, tune, calibration.

    Raises:
        UserError: the cases cannot serve for a stage; says which and why.
        StorageError: the disk is full; what was built before still works.
    """
    known = cases.take(cases.where(role=_BUILT_FROM))
    features = workspace.features(known)
    fleet_mark, version_mark = _marks(workspace, known, features)
    if workspace.fleet_spec.embedded:
        _build_fleet(workspace, known, features, fleet_mark)
    built = workspace.versions.made_of(version_mark)
    if built is None:
        test = cases.take(cases.where(role="test"))
        withheld = Withheld.of(test, [_image_digest(c.image) for c in test])
        # a version's own cases name no test case, but a build from them forgets none
        withheld = withheld.joined(workspace.ever_withheld())
        built = make_version(workspace, known, features, withheld, made_of=version_mark)
    elif workspace.versions.serves(built):
        return  # cases that were added since stay
    workspace.versions.serve(built, "build")
    workspace.reopen()


def _build_fleet(workspace: Workspace, cases: Cases, features: Features, mark: str) -> None:
    """Train the fleet, and let fleets trained without a fold each read that fold."""
    if workspace.stamp("fleet") != mark or not workspace.fleet_folder.is_dir():
        _train(workspace, cases, features, workspace.fleet_folder)
        workspace.write_stamp("fleet", mark)
        workspace.reopen_fleet()
    folds = workspace.config.fleet.out_of_fold
    folded = out_of_fold_mark(folds, mark)
    if folds > 1 and workspace.stamp("out-of-fold") != folded:
        _read_out_of_fold(workspace, cases, features)
        workspace.write_stamp("out-of-fold", folded)


def _train(
    workspace: Workspace, cases: Cases, features: Features, folder: Path, *, twin: bool = True
) -> Fleet:
    # torch and peft load only where something is trained
    from curbside.agents.train import train_fleet

    source, text = workspace.source, workspace.text
    train_fleet(cases, features, workspace.config, folder, source=source, text=text, twin=twin)
    return Fleet.load(folder, source, text)


def _read_out_of_fold(workspace: Workspace, cases: Cases, features: Features) -> None:
    rows = cases.where(role=("train", "tune"))
    read_out_of_fold(
        cases.take(rows),
        features.take(rows),
        workspace.config.fleet.out_of_fold,
        workspace.out_of_fold_folder,
        train=lambda c, f, where: _train(workspace, c, f, where, twin=False),
        read=lambda fleet, c, label: read_all(
            fleet.agents, c.studies(), [case.label for case in c], label
        ),
    )


def _marks(workspace: Workspace, cases: Cases, features: Features) -> tuple[str, str]:
    """Hashes of all that goes into the fleet, and into the version."""
    rows = json.dumps(
        [
            [d, c.id, c.modality, c.task, c.label, c.options, c.role, c.group]
            for d, c in zip(features.digests, cases, strict=True)
        ]
    )
    config, common = workspace.config, (__version__, features.fingerprint, rows)
    index = content_hash(
        "index", *common, model_digest(config.encoder.projection), model_digest(config.index)
    )
    fleet = content_hash("fleet", str(FLEET_FORMAT), *common, _training(config))
    version = content_hash(f"{_FORMAT} {config.fleet.out_of_fold}", index, fleet)
    if not workspace.fleet_spec.only_embedded:
        version = content_hash(version, model_digest(workspace.fleet_spec))
    return fleet, version


def _training(config: Config) -> str:
    """Hash of what training depends on; which fleet file serves and what is read is none of it."""
    settings = config.fleet.model_dump(mode="json", exclude={"file", "out_of_fold"})
    return content_hash(json.dumps(settings, sort_keys=True))


def _image_digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:  # one that cannot be read cannot join either
        return ""
