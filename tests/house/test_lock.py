"""The lock files pin everything, name no index, and agree with project and environment."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = ("requirements.txt", "requirements-dev.txt")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines[1:]:
        package, pinned = line.split("==")
        found[package] = pinned
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_an_exact_public_version(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#") and "make lock" in lines[0]
    for line in lines[1:]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, develop = pins(FILES[0]), pins(FILES[1])
    assert runtime.keys().isdisjoint(develop)
    for wanted, locked in (
        (project["dependencies"], runtime),
        (project["optional-dependencies"]["dev"], develop | runtime),
    ):
        for text in wanted:
            requirement = Requirement(text)
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_what_is_installed_is_what_is_locked() -> None:
    for package, pinned in (pins(FILES[0]) | pins(FILES[1])).items():
        # a build tag such as +cpu is the machine's own
        assert version(package).split("+")[0] == pinned, package
