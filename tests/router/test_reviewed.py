"""Reviewed cases of the ledger: labels for the index, outcomes for competence, never of test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests_growing_world import SIZES, config, open_workspace, write_manifest
from typer.testing import CliRunner

from curbside.cases import Cases, read_cases
from curbside.cli import app
from curbside.commands import index as commands
from curbside.config import save_config
from curbside.errors import UserError
from curbside.readings import CaseRecord, Outcome, Reading, Status, Versions
from curbside.router.adding import add_cases
from curbside.router.building import build_home
from curbside.router.ledger import open_ledger
from curbside.router.reviewed import labelled_by_review, production_outcomes, reviewed_in
from curbside.router.workspace import Workspace


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    build_home(open_workspace(folder / "home"), read_cases(write_manifest(folder, "m.csv", SIZES)))
    return folder / "home"


def incoming(home: Path) -> Cases:
    """Twelve new cases, and nobody has said yet what they are."""
    path = write_manifest(home.parent, "new.csv", {"": 2}, start=7000)
    return read_cases(path)


def reviewed(home: Path, cases: Cases, n: int, *, fingerprint: str = "generalist-1") -> Any:
    """A ledger in which a person has answered the first n with the second option."""
    workspace = open_workspace(home)
    digests = workspace.features(cases).digests
    ledger = open_ledger(home, "ledger.sqlite")
    for i, case in enumerate(cases):
        reading = Reading(
            agent="generalist",
            fingerprint=fingerprint,
            options=case.options,
            probabilities=(0.2, 0.8),
            confidence=0.8,
        )
        record = CaseRecord(
            case=case.id,
            content=digests[i],
            task=case.task,
            options=case.options,
            modality=case.modality,
            responses=(reading,),
            outcome=Outcome(status=Status.NEEDS_REVIEW, reasons=(), provisional=case.options[1]),
            versions=Versions(code="", encoder="", index="", calibration="", policy="", fleet=""),
        )
        ledger.write([(f"{i:064}", record)])
        if i < n:
            ledger.review(case.id, "dr", answer=case.options[1])
    found = reviewed_in(ledger)
    ledger.close()
    return found


def test_a_reviewed_case_is_labelled_by_the_person(home: Path, tmp_path: Path) -> None:
    cases = incoming(home)
    found = reviewed(home, cases, 5)
    assert len(found) == 5
    digests = list(open_workspace(home).features(cases).digests)
    digests[0] = "another image"
    labelled, rows, left_out = labelled_by_review(cases, digests, found)
    assert rows.tolist() == [1, 2, 3, 4]
    assert all(c.label == c.options[1] for c in labelled)
    assert left_out == {"its image is not the one that was reviewed": 1, "not reviewed": 7}
    (home / "ledger.sqlite").unlink()


def test_what_agents_said_of_reviewed_cases_teaches_competence(home: Path) -> None:
    workspace, cases = open_workspace(home), incoming(home)
    found = reviewed(home, cases, 6)
    plain = len(workspace.competence()._vectors)
    name, admission = add_cases(workspace, None, reviewed=found)
    assert name is not None
    assert admission.rows == ()
    facts = workspace.versions.facts(name)
    assert (facts.outcomes, facts.added) == (6, {})
    grown: Workspace = open_workspace(home, name)
    assert len(grown.competence()._vectors) == plain + 6
    assert add_cases(workspace, None, reviewed=found)[0] == name  # nothing new, nothing made
    # readings of an agent that no longer serves teach nothing
    earlier = {
        k: (r.model_copy(update={"responses": (r.responses[0].model_copy(update={
            "fingerprint": "before"}),)}), t)
        for k, (r, t) in found.items()
    }  # fmt: skip
    assert add_cases(workspace, None, reviewed=earlier)[0] is None
    (home / "ledger.sqlite").unlink()


def test_test_and_tune_cases_teach_nothing_through_the_ledger(home: Path) -> None:
    workspace = open_workspace(home)
    manifest = read_cases(home.parent / "m.csv")
    held_out = manifest.take(manifest.where(role=("test", "tune", "calibration")))
    found = reviewed(home, held_out, len(held_out))
    assert add_cases(workspace, None, reviewed=found)[0] is None
    (home / "ledger.sqlite").unlink()


def test_cases_that_agents_were_trained_on_teach_nothing_through_the_ledger(home: Path) -> None:
    workspace = open_workspace(home)
    manifest = read_cases(home.parent / "m.csv")
    train = manifest.take(manifest.where(role="train"))
    found = reviewed(home, train, len(train))
    assert add_cases(workspace, None, reviewed=found)[0] is None
    (home / "ledger.sqlite").unlink()
    # what joined train since the build, no agent has seen; and its child's child knows that too
    first, second = (
        read_cases(write_manifest(home.parent, f"{n}.csv", {"": 2}, start=n)) for n in (8000, 9000)
    )
    name, _ = add_cases(workspace, first, tune_share=0)
    assert name is not None
    grown = open_workspace(home, name)
    found = dict(reviewed(home, train, 4))
    (home / "ledger.sqlite").unlink()
    found |= reviewed(home, first, 3)
    again, _ = add_cases(grown, second, tune_share=0, reviewed=found)
    assert again is not None
    assert workspace.versions.facts(again).outcomes == 3
    (home / "ledger.sqlite").unlink()


def test_images_whose_features_are_gone_are_counted(home: Path) -> None:
    cases = incoming(home)
    found = reviewed(home, cases, 3)
    outcomes, left_out = production_outcomes(found, {"generalist": "generalist-1"}, ())
    assert outcomes is None
    assert left_out == {"its image is held out, known otherwise or no longer kept": 3}
    (home / "ledger.sqlite").unlink()


def test_the_command_takes_labels_from_the_ledger(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(home))
    save_config(config(), home / "curbside.yaml")
    monkeypatch.setattr(commands, "_workspace", lambda _: open_workspace(home))
    reviewed(home, incoming(home), 8)

    def call(*words: str) -> str:
        return CliRunner().invoke(app, ["index", *words], catch_exceptions=False).stdout

    said = call("add", str(home.parent / "new.csv"), "--reviewed")
    assert "8 reviewed cases in the ledger" in said
    assert "4 passed by: not reviewed" in said
    assert "competence from" in said
    name = said.split("version ")[1].split(":")[0]
    with pytest.raises(UserError, match="has not been through the gate"):
        call("promote", name)
    assert f"version {name} serves" in call("promote", name, "--without-gate", "a test")
    listed = call("list")
    assert f"▶ {name}" in listed
    assert "without a gate: a test" in listed
    assert "reviewed outcomes" in listed
    assert '"versions"' in call("list", "--json")
    other = next(v for v in open_workspace(home).versions.names() if v != name)
    tune = open_workspace(home).versions.path(other) / "tune.parquet"
    kept = tune.read_bytes()
    tune.unlink()
    assert f"  {other}  index version {other} is damaged: tune.parquet" in call("list")
    assert '"damaged"' in call("list", "--json")
    tune.write_bytes(kept)
    # a version that grows from this one does not forget what reviews taught
    more = write_manifest(tmp_path, "more.csv", {"train": 1}, start=12000)
    child = call("add", str(more)).split("version ")[1]
    assert "competence from" in child
    assert "serves" in call("rollback", "--why", "enough")
    with pytest.raises(UserError, match="nothing to add"):
        call("add")
    again = call("add", str(home.parent / "m.csv"))
    assert "no case joins" in again
