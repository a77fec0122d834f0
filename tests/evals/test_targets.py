"""Targets: all of them, what holds and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from curbside.evals.familiarity import Band, Novel
from curbside.evals.stability import Stability
from curbside.evals.targets import Target, targets
from curbside.indexes.selection import Fold, Result

NOVEL = [
    Novel("oct", 50, 0.99, 0.02, {0.05: 0.97, 0.10: 0.99}),
    Novel("ecg", 50, 1.0, 0.0, {0.05: 0.99, 0.10: 1.0}),
    Novel("all", 100, 0.995, 0.01, {0.05: 0.98, 0.10: 0.995}),
]
BANDS = [Band("cxr", 0.05, 90, 80, 60, 0.06, 0.0, 0.12)]
ROUTES = [
    Stability("jpeg-75", "small", 500, 0.98, 0.97, 0.98, 0.99, 0.01, 0.01),
    Stability("noise-5", "larger", 500, 0.92, 0.90, 0.93, 0.99, 0.05, 0.02),
]
LEFT_OUT = [
    Result(Fold("modality", m), "served", "mahalanobis", 40, a, 0.05, 0.9, 0.0, float("nan"))
    for m, a in (("cxr", 0.999), ("us_breast", 0.975))
]


def test_all_of_them_hold() -> None:
    found = {t.name: t for t in targets(NOVEL, 0.045, BANDS, ROUTES, LEFT_OUT)}
    assert all(t.holds for t in found.values())
    assert len(found) == 12
    assert found["… macro over novel modalities"].value == pytest.approx(0.995)
    assert found["a modality left out: mean AUROC"].value == pytest.approx(0.987)
    assert found["same route: jpeg-75"].limit == "≥ 0.97"
    assert found["same route: noise-5"].limit == "≥ 0.9"
    assert found["known flagged at α = 5 %"].limit == "0.03 to 0.07"
    assert found["… FPR95"].limit == "≤ 0.04"


def test_each_failure_is_named() -> None:
    worse = targets(
        [NOVEL[0], replace(NOVEL[1], auroc=0.96), NOVEL[2]],
        0.08,
        [replace(BANDS[0], flagged=0.2)],
        [replace(ROUTES[0], same=0.969), ROUTES[1]],
        [replace(LEFT_OUT[0], auroc=0.92), LEFT_OUT[1]],
    )
    assert [t.name for t in worse if not t.holds] == [
        "… macro over novel modalities",
        "… worst of them",
        "a modality left out: mean AUROC",
        "… worst",
        "known flagged at α = 5 %",
        "… strata and levels above their band",
        "same route: jpeg-75",
    ]


def test_what_was_not_measured_does_not_hold() -> None:
    assert not Target("a modality left out", float("nan"), 0.93, 1).holds
    assert [t.holds for t in targets([], 0.05, [], [], [])] == [False, False, True, True]
