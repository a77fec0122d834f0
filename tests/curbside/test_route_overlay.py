"""``curbside route --overlay``: a picture is written, or it is said why there is none."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from curbside.commands.route import _write_overlay
from curbside.readings import Explanation
from curbside.study import Study

RECORD: Any = SimpleNamespace()


def router(found: Explanation) -> Any:
    return SimpleNamespace(explain=lambda study, record: found)


def test_an_overlay_has_the_size_of_the_picture(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(out, "PNG")
    study = Study.from_image(out.getvalue())
    found = Explanation(
        kind="class_activation", option="x", grid=((1.0, 0.0), (0.0, -1.0)), share=0.4
    )
    said = _write_overlay(router(found), study, RECORD, tmp_path / "o.png")
    assert "orange speaks for 'x'" in said and "40 % of the decision" in said
    with Image.open(tmp_path / "o.png") as written:
        assert written.size == (60, 40)


def test_without_a_grid_the_reason_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    study = Study.from_image(b"x")
    for found, part in (
        (Explanation(kind="none", note="no explanation available"), "no explanation available"),
        (Explanation(kind="cited", citations=("shadow",)), "cited: shadow"),
    ):
        said = _write_overlay(router(found), study, RECORD, tmp_path / "o.png")
        assert part in said
    assert not (tmp_path / "o.png").exists()
