"""Who may join the index: never test, never both roles, a group stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.cases import Case, Cases
from curbside.errors import IndexCorrupt
from curbside.router.growth import Withheld, admit


def cases(*rows: dict[str, Any]) -> Cases:
    plain: dict[str, Any] = {"image": Path("x"), "modality": "xray", "label": "broken"}
    return Cases(
        [Case(**({"id": f"c{i}"} | plain | r)) for i, r in enumerate(rows)],
        Path("memory"),
    )


KNOWN = cases(
    {"id": "k0", "role": "train", "group": "p0"},
    {"id": "k1", "role": "tune", "group": "p1"},
    {"id": "k2", "role": "calibration", "group": "p2"},
)
TEST = cases({"id": "t0", "role": "test", "group": "p9"}, {"id": "t1", "role": "test"})
WITHHELD = Withheld.of(TEST, ["image-t0", "image-t1"])


def ask(row: dict[str, Any], digest: str = "new") -> tuple[str | None, dict[str, int]]:
    found = admit(KNOWN, ["image-0", "image-1", "image-2"], cases(row), [digest], WITHHELD)
    return (found.cases[0].role if found.rows else None), dict(found.refused)


@pytest.mark.parametrize(
    ("row", "digest", "why"),
    [
        ({"role": "test"}, "new", "a test case"),
        ({"group": "p9"}, "new", "a test case"),
        ({"id": "t0"}, "new", "a test case"),
        ({}, "image-t1", "a test case"),
        ({}, "", "the image cannot be used"),
        ({"label": None}, "new", "no modality or no label"),
        ({"modality": None}, "new", "no modality or no label"),
        ({}, "image-1", "known already"),
        ({"id": "k1"}, "new", "the id is another case's"),
        ({"role": "calibration"}, "new", "calibration cases are never learned from"),
        ({"group": "p2"}, "new", "calibration cases are never learned from"),
        ({"group": "p0", "role": "tune"}, "new", "its group is in role train"),
    ],
)
def test_who_may_not_join_and_why(row: dict[str, Any], digest: str, why: str) -> None:
    assert ask(row, digest) == (None, {why: 1})


@pytest.mark.parametrize(
    ("row", "role"),
    [({"group": "p0"}, "train"), ({"group": "p1"}, "tune"), ({"role": "tune"}, "tune")],
)
def test_a_group_stays_in_its_role_and_a_given_role_is_kept(row: dict[str, Any], role: str) -> None:
    assert ask(row) == (role, {})


def test_an_image_that_comes_twice_joins_once() -> None:
    found = admit(KNOWN, [""] * 3, cases({}, {}), ["same", "same"], Withheld())
    assert found.rows == (0,)
    assert found.refused == {"known already": 1}


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.sampled_from(["", "p0", "p1", "p2", "p9", "a", "b", "c"]), max_size=30),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_no_group_spans_two_roles_and_no_case_is_in_two(groups: list[str], share: float) -> None:
    new = cases(*({"id": f"n{i}", "group": g} for i, g in enumerate(groups)))
    digests = [f"image-n{i}" for i in range(len(groups))]
    found = admit(KNOWN, [""] * 3, new, digests, WITHHELD, tune_share=share)
    role_of: dict[str, str | None] = {c.group: c.role for c in KNOWN}
    for case in found.cases:
        assert case.role in ("train", "tune")
        if case.group:
            assert role_of.setdefault(case.group, case.role) == case.role
    assert "p9" not in {c.group for c in found.cases}
    assert len(found.rows) + sum(found.refused.values()) == len(groups)
    again = admit(KNOWN, [""] * 3, new, digests, WITHHELD, tune_share=share)
    assert [c.role for c in again.cases] == [c.role for c in found.cases]
    fresh = {c.role for c in found.cases if c.group not in ("p0", "p1")}
    if share in (0.0, 1.0):
        assert fresh <= {"tune" if share else "train"}


def test_what_is_withheld_survives_as_text_and_names_nobody() -> None:
    import json

    text = json.dumps(WITHHELD.to_json())
    assert Withheld.from_json(text) == WITHHELD
    assert "p9" not in text and "t0" not in text.replace("image-t0", "")
    for bad in ("", "{}", "[]"):
        with pytest.raises(IndexCorrupt, match="list of test cases"):
            Withheld.from_json(bad)
