"""The bench of the whole: files to readings through the real router, and what failed is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests_router_world import MODALITY, TASKS, World, picture
from typer.testing import CliRunner

from curbside.agents.fleet_spec import FleetSpec
from curbside.cases import Case, Cases
from curbside.cli import app
from curbside.errors import UserError
from curbside.router import fleet_bench
from curbside.router.fleet_bench import bench_fleet

FLEET: dict[str, Any] = {
    "generalist": "generalist",
    "endpoints": {"e": {"url": "http://127.0.0.1:9/v1"}},
    "agents": {
        "generalist": {
            "kind": "openai", "endpoint": "e", "base": "b", "card": {"role": "generalist"},
        },
        "specialist-xray": {
            "kind": "transformers", "base": "b", "device": "cuda:1", "dtype": "bfloat16",
            "card": {"role": "specialist", "modalities": ["xray"]},
        },
        "specialist-ct": {
            "kind": "plugin", "use": "mine",
            "card": {"role": "specialist", "modalities": ["ct"]},
        },
    },
}  # fmt: skip


@pytest.fixture
def cases(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Thirty cases on disk, which the bench takes for those that were built."""
    made = []
    for i in range(30):
        task = list(TASKS)[i % 3]
        file = tmp_path / f"{i}.png"
        file.write_bytes(picture(MODALITY[task], i // 3 % 2, 7000 + i))
        made.append(Case(id=file.stem, image=file, task=task, options=TASKS[task]))

    def opened(home: Path, config: Any) -> Any:
        return SimpleNamespace(
            **vars(world.workspace(home, config)),
            built_cases=lambda: Cases(made, tmp_path),
            fleet_spec=FleetSpec.model_validate(FLEET),
        )

    monkeypatch.setattr(fleet_bench, "_Uncached", opened)
    return made


def test_every_study_is_read_once_and_counted(
    world: World, cases: list[Case], tmp_path: Path
) -> None:
    result = bench_fleet(tmp_path, world.config, studies=21, warm=5, alone=4)
    assert result.studies == 21 and result.rate == pytest.approx(21 / result.seconds)
    assert sum(result.status.values()) == 21 and not result.failures
    assert sum(result.readings.values()) >= 21 - result.status.get("needs_review", 0)
    assert world.asked and set(result.readings) <= set(FLEET["agents"])
    assert len(world.asked) > sum(result.readings.values())  # those that warmed it up
    where = {
        "generalist": "openai, http://127.0.0.1:9/v1",
        "specialist-xray": "transformers, cuda:1, bfloat16",
        "specialist-ct": "plugin mine",
    }
    assert result.agents == {n: where[n] for n in result.agents} and len(result.agents) > 1
    assert result.alone_p50 is not None and result.alone_p95 is not None
    assert 0 < result.alone_p50 <= result.alone_p95
    assert result.machine and result.encoder == "lite0, cpu" and result.encoder_rate > 0
    assert not list(tmp_path.glob("*.sqlite"))


def test_too_few_images_are_said(world: World, cases: list[Case], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30 images of the built cases are there; more than 30"):
        bench_fleet(tmp_path, world.config, studies=5, warm=30)


def test_a_rate_of_failures_is_no_rate(
    world: World, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path))
    monkeypatch.setattr("curbside.config.load_config", lambda _: world.config)
    asked = ["bench", "fleet", "--studies", "20", "--warm", "4"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "one by one" in done.output
    assert "20 in " in done.output and "studies/s" in done.output and ", 0 failed" in done.output

    def fails(_: Any) -> None:
        raise TimeoutError

    world.agents["generalist"]._answer = fails
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 1, done.output
    told = json.loads(done.output)
    assert told["failures"]["generalist"] > 0 and told["rate"] > 0
