"""What the documents say of manifests and phantoms is what the code does."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curbside import archives, decoding
from curbside.cases import ROLES, read_cases
from curbside.dicom import MAX_DEPTH, MAX_FRAMES
from curbside.errors import IMAGE_REASONS, UNSAFE, CasesError
from curbside.phantom_dicom import as_dicom
from curbside.phantom_pictures import TASKS
from curbside.phantoms import TIER, plan
from curbside.pixels import MAX_BYTES, MAX_PIXELS
from curbside.study import Study
from curbside.windows import WINDOWS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def block(document: str, language: str, number: int = 0) -> str:
    text = (DOCS / document).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return blocks[number]


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
    names: dict[str, Any] = {}
    exec(compile(block("cases.md", "python"), "cases.md", "exec"), names)
    assert len(names["train"]) == 1


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


def test_every_picture_of_the_console_is_shown_and_there() -> None:
    text = (DOCS / "console.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"console/([\w-]+\.png)", text))
    assert shown == {p.name for p in (DOCS / "console").iterdir()}


def test_the_tables_of_windows_limits_and_reasons_are_true() -> None:
    text = (DOCS / "studies.md").read_text(encoding="utf-8")
    windows = re.findall(r"^\| `(\w+)` \| (−?\d+) \| (\d+) \|$", text, re.MULTILINE)
    found = {name: (float(level.replace("−", "-")), float(width)) for name, level, width in windows}
    assert found == dict(WINDOWS)
    reasons = re.findall(r"^\| `(\w+)` \| [a-z]", text, re.MULTILINE)
    assert set(reasons) == set(IMAGE_REASONS)
    assert set(reasons[-5:]) == UNSAFE
    assert f"| {MAX_BYTES // 2**20} MiB |" in text
    assert f"| {MAX_PIXELS // 10**6} million |" in text
    assert f"| {MAX_FRAMES:,}, and" in text
    assert f"| {MAX_DEPTH} |" in text
    assert f"| {archives.MAX_MEMBERS:,}; {archives.MAX_TOTAL_BYTES // 2**30} GiB |" in text
    assert f"above {archives.FREE_BYTES // 2**20} MiB inflated | {archives.MAX_RATIO} : 1 |" in text
    assert f"{decoding.MEMORY // 2**20} MiB of memory" in text
    assert f"{decoding.SECONDS:g}\nseconds a request" in text


def test_the_example_of_studies_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scans" / "ct"
    folder.mkdir(parents=True)
    (folder / "1").write_bytes(as_dicom(np.zeros((4, 4), np.int16)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block("studies.md", "python"), "studies.md", "exec"), names)
    assert isinstance(names["found"], Study)
