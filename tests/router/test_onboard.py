"""Onboarding a modality: a few labels make it familiar, and known cases stay as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_growing_world import SIZES, config, open_workspace, write_manifest
from typer.testing import CliRunner

from curbside.cases import Cases, read_cases
from curbside.cli import app
from curbside.commands import index as commands
from curbside.config import save_config
from curbside.errors import UserError
from curbside.indexes import assess_fit
from curbside.indexes.assess import Assessor
from curbside.router.building import build_home
from curbside.router.onboard import onboard, page, summary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("onboard")
    known = ("bones", "lungs")
    sizes = {**SIZES, "train": 12, "calibration": 30}
    manifest = write_manifest(where, "known.csv", sizes, tasks=known)
    write_manifest(where, "new.csv", {"test": 16}, start=9000, tasks=("skin",))
    build_home(open_workspace(where / "home"), read_cases(manifest))
    return where


@pytest.fixture(scope="module")
def new(folder: Path) -> Cases:
    return read_cases(folder / "new.csv")


def test_a_few_labels_make_a_modality_familiar(folder: Path, new: Cases) -> None:
    workspace = open_workspace(folder / "home")
    before = workspace.versions.serving()
    steps: list[int] = []
    found = onboard(workspace, new, "photo", shots=(0, 4), draws=2, advance=steps.append)
    assert steps == [1] * 4
    assert workspace.versions.serving() == before  # nothing is kept
    none, four = summary(found)
    assert (none["shots"], none["labelled"], none["recognised"]) == (0, 0, 0)
    assert 0 <= none["novel"] <= 1
    assert np.isnan(none["head"])
    assert four["labelled"] == 8
    assert four["recognised"] > 0.9
    assert four["novel"] < 0.5
    assert four["head"] > 0.7
    # the fake generalist always answers the first of two options
    assert none["generalist"] == four["generalist"] == pytest.approx(0.5, abs=0.2)
    # nobody was shown to read them, so they go to a person
    assert four["answered"] == 0
    assert four["unguarded"] > 0.5
    assert four["known_recognised"] == none["known_recognised"] == 1
    assert {f.measured for f in found} == {16}


def test_the_note_on_copies_is_not_repeated_with_every_fit(
    folder: Path, new: Cases, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def first(train: Any, held_out: Any) -> Any:
        return np.arange(len(held_out)) == 0

    monkeypatch.setattr(assess_fit, "near_duplicates", first)
    workspace = open_workspace(folder / "home")
    known = workspace.built_cases()
    Assessor.fit(known, workspace.features(known), workspace.config)
    assert "look the same" in caplog.text  # it is said where a user fits once
    caplog.clear()
    onboard(workspace, new, "photo", shots=(0, 4), draws=1)
    assert not caplog.records


def test_labels_and_measured_cases_share_no_group(
    folder: Path, new: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curbside.router import onboard as module

    seen: list[tuple[set[str], set[str]]] = []
    measure = module._measure

    def spy(workspace: Any, known: Any, mine: Cases, features: Any, *rest: Any) -> object:
        labelled, measured = rest[0], rest[1]
        seen.append((set(mine.groups[labelled]), set(mine.groups[measured])))
        return measure(workspace, known, mine, features, *rest)

    monkeypatch.setattr(module, "_measure", spy)
    onboard(open_workspace(folder / "home"), new, "photo", shots=(16,), draws=2)
    assert all(a and b and not a & b for a, b in seen)


def test_what_cannot_be_onboarded_is_said(folder: Path, new: Cases) -> None:
    workspace = open_workspace(folder / "home")
    with pytest.raises(UserError, match="'xray' is indexed already"):
        onboard(workspace, new, "xray")
    with pytest.raises(UserError, match="too few; modalities of the manifest: photo"):
        onboard(workspace, new, "oct")


def test_the_page_shows_every_measure_and_says_what_it_is(folder: Path, new: Cases) -> None:
    found = onboard(open_workspace(folder / "home"), new, "photo", shots=(0, 1), draws=1)
    text = page(found)
    for part in ("Onboarding photo", "called novel", "few-shot head", "not a medical device"):
        assert part in text
    assert "<script" in text and "src=" not in text.split("<script")[0]


def test_the_command_prints_a_table_and_writes_the_plot(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path))
    save_config(config(), tmp_path / "curbside.yaml")
    monkeypatch.setattr(commands, "_workspace", lambda _: open_workspace(folder / "home"))
    call = ["index", "onboard", "photo", "--cases", str(folder / "new.csv"), "--draws", "1"]
    printed = CliRunner().invoke(app, [*call, "--shots", "0,2"], catch_exceptions=False).stdout
    assert "labels a class" in printed
    assert (tmp_path / "onboard-photo.html").is_file()
    lines = CliRunner().invoke(app, [*call, "--shots", "1", "--json"]).stdout.splitlines()
    assert json.loads(lines[0])["shots"] == 1
    with pytest.raises(UserError, match="no list of numbers"):
        CliRunner().invoke(app, [*call, "--shots", "few"], catch_exceptions=False)
