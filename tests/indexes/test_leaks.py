"""Calibration cases that the index knows already: copies of an indexed picture."""

from __future__ import annotations

import logging
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curbside.config import Config
from curbside.errors import UserError
from curbside.evals.suite import LeaveOneOutRun
from curbside.evals.suite_runs import leave_one_out
from curbside.indexes.assess import Assessor
from curbside.indexes.features import Features
from curbside.indexes.leaks import near_duplicates


def test_worked_numbers() -> None:
    train = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    turned = np.array([[np.cos(a), np.sin(a)] for a in (0.1, 0.2)], np.float32)
    # cosines 0.995 and 0.980
    assert near_duplicates(train, turned).tolist() == [True, False]
    assert near_duplicates(train, turned, at=0.97).tolist() == [True, True]
    assert near_duplicates(train, np.zeros((0, 2), np.float32)).shape == (0,)
    assert near_duplicates(train, np.zeros((1, 2), np.float32)).tolist() == [False]


def test_copies_of_indexed_pictures_do_not_calibrate(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    f = world.features
    pooled = f.pooled.copy()
    copied, sources = world.rows("calibration")[:40], world.rows("train")[:40]
    pooled[copied] = pooled[sources] * 1.001
    leaky = Features(pooled, f.digests, MappingProxyType({}), f.fingerprint)
    with caplog.at_level(logging.WARNING):
        a = Assessor.fit(world.cases, leaky, Config())
    assert "40 of 312 calibration cases look the same as an indexed one" in caplog.text
    assert a.calibration is not None
    assert len(a.calibration.scores()["all"]) == 312 - 40
    keep = np.ones(len(world.cases), bool)
    keep[copied] = False
    without = Assessor.fit(world.cases.take(np.flatnonzero(keep)), leaky.take(keep), Config())
    assert a.calibration_digest == without.calibration_digest


def test_leaving_one_out_does_not_repeat_it_with_every_fit(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    f = world.features
    pooled = f.pooled.copy()
    pooled[world.rows("calibration")[:4]] = pooled[world.rows("train")[:4]]
    leaky = Features(pooled, f.digests, MappingProxyType({}), f.fingerprint)
    built: Any = SimpleNamespace(
        config=Config(),
        built_cases=lambda: world.cases,
        features=lambda _: leaky,
        views=lambda *_: None,
    )
    run = LeaveOneOutRun(kind="leave-one-out", of="modality", most=2)
    with caplog.at_level(logging.WARNING):
        assert len(leave_one_out(built, run)[2]) == 3
    assert not caplog.text


def test_nothing_but_copies_is_the_user_s_to_mend(world: Any) -> None:
    f = world.features
    pooled, held_out = f.pooled.copy(), world.rows("calibration")
    pooled[held_out] = pooled[world.rows("train")[: len(held_out)]]
    leaky = Features(pooled, f.digests, MappingProxyType({}), f.fingerprint)
    with pytest.raises(UserError, match="all 312 calibration cases look the same"):
        Assessor.fit(world.cases, leaky, Config())
