"""Out-of-fold readings: nobody reads what they were trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests_growing_world import SIZES, Anything, open_workspace, write_manifest

from curbside.agents.read_all import read_all
from curbside.cases import Cases, read_cases
from curbside.errors import IndexCorrupt, UserError
from curbside.indexes.features import Features
from curbside.router import building
from curbside.router.building import build_home
from curbside.router.out_of_fold import load_out_of_fold, read_out_of_fold


@pytest.fixture
def known(tmp_path: Path) -> tuple[Cases, Features, Any]:
    manifest = read_cases(write_manifest(tmp_path, "manifest.csv", SIZES))
    workspace = open_workspace(tmp_path / "home")
    cases = manifest.take(manifest.where(role=("train", "tune")))
    return cases, workspace.features(cases), workspace


def test_every_train_case_is_read_by_agents_that_had_not_seen_its_group(
    known: tuple[Cases, Features, Any], tmp_path: Path
) -> None:
    cases, features, workspace = known
    fleets: list[tuple[set[str], set[str]]] = []

    def train(some: Cases, theirs: Features, where: Path) -> Any:
        assert len(some) == len(theirs)
        assert set(some.roles) == {"train", "tune"}
        groups = {g for g, r in zip(some.groups, some.roles, strict=True) if r == "train"}
        fleets.append((groups, set()))
        # what only some fleets have is left out
        extra = {"odd": workspace._fleet.agents["generalist"]} if len(fleets) == 2 else {}
        return SimpleNamespace(agents={**workspace._fleet.agents, **extra})

    def read(fleet: Any, own: Cases, label: str) -> Any:
        fleets[-1][1].update(own.groups)
        return read_all(fleet.agents, own.studies(), [c.label for c in own], label)

    read_out_of_fold(cases, features, 3, tmp_path / "oof", train=train, read=read)
    assert len(fleets) == 3
    for trained_on, was_read in fleets:
        assert was_read
        assert not trained_on & was_read
    kept = load_out_of_fold(tmp_path / "oof")
    assert set(kept.responses.cases) == set(cases.ids[cases.roles == "train"])
    assert set(kept.fold.values()) == {0, 1, 2}
    assert "odd" not in kept.responses.agents


def test_a_build_with_folds_teaches_competence_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_cases(write_manifest(tmp_path, "manifest.csv", SIZES))
    home = tmp_path / "home"
    workspace = open_workspace(home)
    build_home(workspace, manifest)
    plain = workspace.competence()
    assert workspace.other_outcomes() is None
    folded: Any = open_workspace(home)
    fleet = folded.config.fleet.model_copy(update={"out_of_fold": 2})
    folded.config = folded.config.model_copy(update={"fleet": fleet})
    # the fake fleet is never trained, so its stamp is none that a build writes
    stamps = {"out-of-fold": "3 folds of it"}
    folded.stamp = lambda stage: stamps.get(stage) or Anything()
    with pytest.raises(UserError, match=r"out_of_fold is 2, but there are no such readings"):
        folded.other_outcomes()
    folded.write_stamp = lambda stage, mark: stamps.update({stage: mark, "fleet": mark[2:]})
    monkeypatch.setattr(building, "_train", lambda *_, **__: folded._fleet)
    build_home(folded, manifest)
    more = folded.other_outcomes()
    assert more is not None
    assert len(more) == int((manifest.roles == "train").sum())
    assert len(folded.competence()._vectors) == len(plain._vectors) + len(more)
    assert np.isfinite(folded.competence().within)
    stamps["fleet"] = "trained otherwise since"
    with pytest.raises(UserError, match="no such readings of this fleet"):
        folded.other_outcomes()


def test_readings_that_are_gone_or_damaged_are_said(tmp_path: Path) -> None:
    with pytest.raises(IndexCorrupt, match="out-of-fold readings"):
        load_out_of_fold(tmp_path)
    (tmp_path / "readings").mkdir()
    (tmp_path / "readings" / "folds.json").write_text("{")
    with pytest.raises(IndexCorrupt, match="out-of-fold readings"):
        load_out_of_fold(tmp_path)


def test_a_run_that_is_cut_off_leaves_no_readings_and_the_next_one_makes_the_same(
    known: tuple[Cases, Features, Any], tmp_path: Path
) -> None:
    cases, features, workspace = known
    seen: list[Path] = []

    def train(some: Cases, theirs: Features, where: Path) -> Any:
        seen.append(where)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return SimpleNamespace(agents=workspace._fleet.agents)

    def read(fleet: Any, own: Cases, label: str) -> Any:
        return read_all(fleet.agents, own.studies(), [c.label for c in own], label)

    with pytest.raises(KeyboardInterrupt):
        read_out_of_fold(cases, features, 3, tmp_path / "cut", train=train, read=read)
    with pytest.raises(IndexCorrupt, match="out-of-fold readings"):
        load_out_of_fold(tmp_path / "cut")
    read_out_of_fold(cases, features, 3, tmp_path / "cut", train=train, read=read)
    # each fold's fleet is trained where it was before, so that what is there is reused
    assert [p.name for p in seen] == ["0", "1", "0", "1", "2"]
    read_out_of_fold(cases, features, 3, tmp_path / "whole", train=train, read=read)
    cut, whole = (load_out_of_fold(tmp_path / n) for n in ("cut", "whole"))
    assert cut.fold == whole.fold
    assert cut.responses.cases == whole.responses.cases
    assert (cut.responses.correct == whole.responses.correct).all()
