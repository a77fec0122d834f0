"""Drift over the ledger: what is compared, what is kept, and what records then say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests_growing_world import SIZES, open_workspace, write_manifest
from tests_router_world import World
from tests_router_world import picture as draw

from curbside.cases import read_cases
from curbside.errors import UserError
from curbside.readings import CaseRecord, Familiarity, Outcome, Status, Versions
from curbside.router.building import build_home
from curbside.router.drift import STATE_FILE, calibration_sample, suspended_strata, watch
from curbside.router.entries import flags_of
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.workspace import Workspace
from curbside.study import Question, Study


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    sizes = {**SIZES, "calibration": 30}
    build_home(open_workspace(folder / "home"), read_cases(write_manifest(folder, "m.csv", sizes)))
    return folder / "home"


def fill(home: Path, workspace: Workspace, folder: Path, *, spoil: bool, n: int = 40) -> Ledger:
    """A ledger of n cases: n / 2 of two labels of one modality, as they are or in noise."""
    assessor = workspace.assessor()
    ledger = open_ledger(folder, "ledger.sqlite")
    rng = np.random.default_rng(0)
    studies = []
    for i in range(n):
        raw = draw("xray", i % 2, 50_000 + i)
        studies.append(Study.from_image(raw, id=f"case-{i}"))
    features = workspace.source.of(studies)
    pooled = features.pooled
    if spoil:
        noise = rng.normal(0, 0.5, (1, pooled.shape[1])).astype(np.float32)
        pooled = pooled + noise
    facts = assessor.assess(pooled)
    outcomes = []
    for i, study in enumerate(studies):
        record = CaseRecord(
            case=study.id,
            content=features.digests[i],
            modality=facts.modalities[int(facts.modality[i])],
            familiarity=Familiarity(
                p_value=float(facts.p_value[i]),
                score=float(facts.novelty[i]) * (1 + 3 * spoil),
                threshold=1,
                alpha=0.05,
                stratum=facts.strata[int(facts.stratum[i])],
                stratum_n=int(facts.stratum_n[i]),
            ),
            outcome=Outcome(status=Status.ANSWERED, reasons=()),
            versions=Versions(
                code="",
                encoder="",
                index="",
                calibration=assessor.calibration_digest,
                policy="",
                fleet="",
            ),
            decided_at=f"2026-01-01T00:00:{i:02}+00:00",
        )
        outcomes.append((f"{i:064}", record))
    ledger.write(outcomes)
    return ledger


def test_a_window_like_calibration_suspends_nothing_of_its_modality(
    home: Path, tmp_path: Path
) -> None:
    workspace = open_workspace(home)
    ledger = fill(home, workspace, tmp_path, spoil=False)
    found = watch(workspace, ledger, last=100, level=0.05)
    xray = next(m for m in found.modalities if m.modality == "xray")
    assert (xray.window, xray.verdict) == (40, "stable")
    assert np.isfinite(xray.classifier)  # features of the ledger's cases are kept by content
    assert found.mix == "drift"  # one modality of three
    assert np.isfinite(found.strange_p)  # records name the stratum of each p-value and its n
    digest = workspace.assessor().calibration_digest
    assert suspended_strata(home, digest) == {"all"}
    assert suspended_strata(home, "another calibration") == frozenset()
    assert json.loads((home / STATE_FILE).read_text())["verdict"] == "drift"
    ledger.close()


def test_a_window_that_differs_suspends_its_stratum(home: Path, tmp_path: Path) -> None:
    workspace = open_workspace(home)
    ledger = fill(home, workspace, tmp_path, spoil=True)
    found = watch(workspace, ledger, last=30, level=0.05)
    assert found.window == 30
    assert "xray" in found.suspended
    assert "xray" in suspended_strata(home, workspace.assessor().calibration_digest)
    ledger.close()


def test_cases_of_another_calibration_are_no_window(home: Path, tmp_path: Path) -> None:
    workspace = open_workspace(home)
    ledger = open_ledger(tmp_path, "ledger.sqlite")
    with pytest.raises(UserError, match="none of the last 0 cases"):
        watch(workspace, ledger, last=100, level=0.05)
    ledger.close()


def test_a_state_that_cannot_be_read_suspends_everything(tmp_path: Path) -> None:
    assert suspended_strata(tmp_path, "c") == frozenset()
    (tmp_path / STATE_FILE).write_text("{")
    assert suspended_strata(tmp_path, "c") == {"*"}


def test_calibration_cases_are_seen_as_the_index_sees_them(home: Path) -> None:
    workspace = open_workspace(home)
    sample = calibration_sample(workspace, workspace.assessor())
    calibration = workspace.assessor().calibration
    assert calibration is not None
    # p-values may count with copies of each case; drift compares the cases themselves
    kept = calibration.scores()["all"]
    assert len(kept) == len(sample)
    assert (np.sort(sample.score) <= kept + 1e-9).all()


@pytest.mark.parametrize("stratum", ["all", "*", "elsewhere"])
def test_records_say_that_the_guarantee_is_suspended(
    world: World, tmp_path: Path, stratum: str
) -> None:
    digest = world.router(tmp_path / "a")._desk._assessor.calibration_digest
    home = tmp_path / "home"
    home.mkdir()
    strata = [stratum] if stratum != "all" else ["all", "xray", "ct"]
    body = {"calibration_digest": digest, "suspended": strata}
    (home / STATE_FILE).write_text(json.dumps(body))
    study = Study.from_image(
        draw("xray", 0, 5000), id="case", question=Question(options=("intact", "broken"))
    )
    record = world.router(home).read(study)
    said = [r for r in record.outcome.reasons if r.code == "drift"]
    assert bool(said) == (stratum != "elsewhere")
    if said:
        assert record.familiarity is not None
        assert record.familiarity.stratum in said[0].text
        assert "suspended" in said[0].text
    # what the worklist, the console and exports show
    assert ("drift" in flags_of(record)) == bool(said)


def test_the_command_prints_a_table_and_exits_with_three_on_drift(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from curbside.cli import app
    from curbside.config import Config, save_config
    from curbside.router import drift as module

    own = tmp_path / "own"
    monkeypatch.setenv("CURBSIDE_HOME", str(own))
    save_config(Config(), own / "curbside.yaml")
    workspace = open_workspace(home)
    ledger = fill(home, workspace, tmp_path, spoil=True)
    found = watch(workspace, ledger, last=100, level=0.05)
    ledger.close()
    monkeypatch.setattr(module, "watch", lambda *_, **__: found)
    printed = CliRunner().invoke(app, ["drift"])
    assert printed.exit_code == 3
    assert "suspended guarantees: all, xray" in printed.stdout
    assert CliRunner().invoke(app, ["drift", "--json"]).exit_code == 3
