"""The README's Python and the examples, run as they stand over the planted world."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests_router_world import World, picture

import curbside
from curbside.router.api import Router

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def router(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Router:
    built = world.router(tmp_path / "home")
    monkeypatch.setattr(Router, "from_config", classmethod(lambda cls: built))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chest.jpg").write_bytes(picture("ct", 0, 4000))
    return built


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_readme_runs(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "specialist-ct" in said and "answered normal" in said
    assert curbside.Router is Router


def test_route_one(router: Router, capsys: pytest.CaptureFixture[str]) -> None:
    example("route_one").main("chest.jpg", "clear|shadow")
    said = capsys.readouterr().out
    assert "would ask: specialist-ct" in said
    assert "ANSWERED: clear" in said


def test_route_manifest(router: Router, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["image,role,task,options,label", "chest.jpg,test,lungs,clear|shadow,clear"]
    rows.append("missing.jpg,test,lungs,clear|shadow,clear")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    example("route_manifest").main("cases.csv")
    said = capsys.readouterr().out.split()
    assert said == ["-", "not_analysed", "1", "common", "answered", "1"]


def test_own_policy(capsys: pytest.CaptureFixture[str]) -> None:
    example("own_policy").main()
    answered = int(re.findall(r"answered (\d+)%", capsys.readouterr().out)[0])
    assert 45 <= answered <= 55
