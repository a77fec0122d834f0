"""docs/evaluate-your-own.md, as a stranger would follow it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curbside.cases import read_cases
from curbside.evals.recorded import COLUMNS, load_team, read_readings, recorded_fleet
from curbside.readings import Reading

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluate-your-own.md"


def block(language: str, number: int = 0) -> str:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]


def test_the_examples_fit_together(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(block("csv"))
    (tmp_path / "readings.csv").write_text(block("csv", 1))
    (tmp_path / "team.yaml").write_text(block("yaml"))
    cases = read_cases(tmp_path / "cases.csv")
    readings = read_readings(tmp_path / "readings.csv", (cases,))
    fleet = recorded_fleet(readings, load_team(tmp_path / "team.yaml"), cases)
    assert set(fleet.agents) == {"generalist-full", "chest-net"}
    answer = fleet.agents["chest-net"].read(cases[3].study())
    assert isinstance(answer, Reading) and answer.answer == "opacity"


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_described(column: str) -> None:
    assert f"`{column}`" in PAGE.read_text(encoding="utf-8")
