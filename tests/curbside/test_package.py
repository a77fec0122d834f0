"""The public names, which are loaded only when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import curbside

PUBLIC = ["RESEARCH_USE", "CaseRecord", "Question", "Reading", "Router", "Study", "__version__"]


def test_public_names() -> None:
    assert sorted(PUBLIC) == sorted(curbside.__all__) == dir(curbside)
    for name in PUBLIC:
        assert getattr(curbside, name) is not None


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Ruter'"):
        _ = curbside.Ruter


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import sys, curbside; print(*[m for m in sys.modules if m.startswith('curbside')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["curbside"]
