"""The commands that measure rarity, over a planted world instead of a built one."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from curbside.cases import Cases
from curbside.cli import app
from curbside.config import Config, save_config
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.views import Views
from curbside.router import workspace as workspace_module


@pytest.fixture
def manifest(world: Any, tmp_path: Path, curbside_home: Path, monkeypatch: Any) -> Path:
    """A manifest of the planted world, and a workspace that has its features."""
    save_config(Config(), curbside_home / "curbside.yaml")
    c = world.cases
    path = tmp_path / "cases.csv"
    with path.open("w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["id", "image", "modality", "label", "role", "group", "dataset"])
        for i, (case, m, x, r, g) in enumerate(
            zip(c.ids, c.modalities, c.labels, c.roles, c.groups, strict=True)
        ):
            source = "clinic" if m == "alpha" and i % 3 == 0 else f"hospital-{m}"
            rows.writerow([case, f"{case}.png", m, x, r, g, source])
    place = {str(case): i for i, case in enumerate(c.ids)}

    class Planted:
        """Has what the commands ask of a workspace."""

        def __init__(self, home: Path, config: Config) -> None:
            self.config, self.cache_folder = config, home / "cache"
            self.source = SimpleNamespace(encoder=None)

        def features(self, cases: Cases, label: str = "") -> Any:
            return world.features.take([place[str(case)] for case in cases.ids])

        def views_for_selection(self, cases: Cases, features: Any) -> Views:
            n = len(features)
            return Views(np.arange(n), features.pooled * np.float32(1.01))

        def assessor(self) -> Assessor:
            return Assessor.fit(world.cases, world.features, self.config)

        def built_cases(self) -> Cases:
            from curbside.cases import read_cases

            return read_cases(path)

    monkeypatch.setattr(workspace_module, "Workspace", Planted)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["index", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_select_novelty_writes_its_evidence(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    said = run(
        "select-novelty", "--cases", str(manifest), "--out", str(out), "--scores", "knn, residual"
    )
    assert {p.name for p in out.iterdir()} == {"selection.json", "selection.md", "selection.html"}
    assert "▶" in said and "best pair of scores" in said
    assert "chosen     mean AUROC over left-out modalities" in said
    assert "to set it" in said


def test_select_novelty_says_what_it_cannot_do(manifest: Path, tmp_path: Path) -> None:
    arguments = ["select-novelty", "--cases", str(manifest), "--out", str(tmp_path / "o")]
    with pytest.raises(UserError, match="no novelty score 'zebra'; valid: mahalanobis"):
        run(*arguments, "--scores", "zebra")
    said = run(*arguments, "--scores", "knn", "--source-column", "ward")
    assert "no source is left out" in said.replace("\n", " ")


def test_familiarity_prints_both_tables(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "familiarity"
    said = run("familiarity", "--cases", str(manifest), "--out", str(out))
    assert "| unseen | 60 |" in said
    assert "| all | 60 |" in said
    assert "known cases:" in said
    text = (out / "familiarity.md").read_text()
    for stratum in ("alpha", "beta", "gamma"):
        assert text.count(f"| {stratum} |") == 3
    assert "Familiar cases called novel" in (out / "familiarity.html").read_text()


def test_a_role_that_is_none(manifest: Path) -> None:
    with pytest.raises(UserError, match="no role 'zebra'; valid: train, tune"):
        run("familiarity", "--cases", str(manifest), "--role", "zebra")
