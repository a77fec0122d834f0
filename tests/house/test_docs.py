"""What the documents say of manifests and phantoms is what the code does."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from curbside.cases import ROLES, read_cases
from curbside.errors import CasesError
from curbside.phantom_pictures import TASKS
from curbside.phantoms import TIER, plan

DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(document: str, language: str, number: int = 0) -> str:
    text = (DOCS / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]


def test_the_example_of_a_manifest_is_one(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(block("cases.md", "csv"), encoding="utf-8")
    cases = read_cases(path)
    assert cases.roles.tolist() == ["train", "test", "test"]
    assert cases[0].options == ("normal", "opacity")
    assert cases[2].attributes["site"] == "south"


def test_the_example_in_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cases.csv").write_text(block("cases.md", "csv"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block("cases.md", "python"), "cases.md", "exec"), names)
    assert len(names["train"]) == 1  # type: ignore[arg-type]


def test_the_example_of_an_error_is_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(
        "image,role,label,options\n1,validation,opacty,normal|opacity\n", encoding="utf-8"
    )
    with pytest.raises(CasesError) as e:
        read_cases(path)
    said = [p.reason for p in e.value.problems]
    example = (DOCS / "cases.md").read_text(encoding="utf-8")
    assert all(reason in example for reason in said)
    assert e.value.hint in example


def test_the_table_of_phantoms_is_true() -> None:
    text = (DOCS / "phantoms.md").read_text(encoding="utf-8")
    drawn = Counter((modality, role) for modality, role, _, _ in plan())
    assert f"{drawn.total():,} PNG files" in text
    for modality, tier in TIER.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{modality}` |"))
        numbers = " / ".join(str(drawn[modality, role] or "–") for role in ROLES)
        assert row == f"| `{modality}` | {tier} | {', '.join(TASKS[modality])} | {numbers} |"
