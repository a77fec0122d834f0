"""The encoder beside eager torch, and the command that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from curbside.commands.bench import register
from curbside.indexes.encoder_bench import bench_encoder, sample_images


def test_faster_than_eager_torch_and_the_same(tmp_path: Path) -> None:
    result = bench_encoder(images=8, rounds=3, cache=tmp_path)
    assert result.cosine >= 1 - 1e-3
    # three times is what it must reach on a quiet machine; this one may be busy
    assert result.ratio > 2
    assert result.ratio == pytest.approx(result.rate / result.eager_rate)


def test_sample_images_are_seeded() -> None:
    a, b = sample_images(5), sample_images(5)
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert any((x != y).any() for x, y in zip(a, sample_images(5, seed=1), strict=True))


def test_the_command_prints_both_and_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path))
    app = typer.Typer()
    register(app)
    run = ["bench", "encoder", "--images", "2", "--rounds", "1"]
    shown = CliRunner().invoke(app, run)
    assert shown.exit_code == 0, shown.output
    assert "eager torch" in shown.output
    assert "ratio" in shown.output
    record = CliRunner().invoke(app, [*run, "--json"])
    assert set(json.loads(record.stdout)) >= {"eager_rate", "rate", "ratio", "cosine"}
