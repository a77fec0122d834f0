"""Writes requirements.txt and requirements-dev.txt from what is installed (``make lock``)."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def closure(wanted: list[str]) -> dict[str, str]:
    """Name → version of requirements and all that they need here."""
    found: dict[str, str] = {}
    todo = [(Requirement(w), "") for w in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        new = name not in found
        # a local build tag (+cpu) is this machine's; the lock names the public version
        found[name] = installed.version.split("+")[0]
        if new or requirement.extras:
            for needed in installed.requires or []:
                todo += [(Requirement(needed), e) for e in ("", *requirement.extras)]
    return found


def main() -> None:
    """Write both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = closure(project["dependencies"])
    develop = closure(project["optional-dependencies"]["dev"])
    head = "# Written by `make lock`; do not edit.\n"
    for name, pins in (
        ("requirements.txt", runtime),
        ("requirements-dev.txt", {k: v for k, v in develop.items() if k not in runtime}),
    ):
        lines = [f"{k}=={v}\n" for k, v in sorted(pins.items())]
        (ROOT / name).write_text(head + "".join(lines))


if __name__ == "__main__":
    main()
