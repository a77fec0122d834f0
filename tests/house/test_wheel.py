"""The wheel: built, installed alone, exactly one top-level name, nothing left out."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PIP = (sys.executable, "-m", "pip", "install", "-q")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_it_holds_one_top_level_name_and_every_module(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"curbside"}
    for folder in ("router", "agents", "indexes", "ui", "evals"):
        for module in (ROOT / folder).rglob("*.py"):
            assert f"curbside/{module.relative_to(ROOT).as_posix()}" in names
    assert "curbside/py.typed" in names
    assert "curbside/evals/templates/report.html" in names


def test_it_installs_and_imports_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    subprocess.run(
        [*PIP, "--no-deps", "--no-index", "--target", target, wheel],
        check=True,
        capture_output=True,
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import curbside, curbside.agents.contract; "
        "print(curbside.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(target)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(target / "curbside" / "__init__.py")
    installed = {p.name for p in target.iterdir() if not p.name.endswith(".dist-info")}
    assert installed - {"bin"} == {"curbside"}
