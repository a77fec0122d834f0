"""Suites that leave one value out of the index: who is held out and beside whom."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curbside.config import Config
from curbside.errors import UserError
from curbside.evals.suite import LeaveOneOutRun
from curbside.evals.suite_runs import leave_one_out


def built(world: Any, cases: Any = None) -> Any:
    return SimpleNamespace(
        config=Config(),
        built_cases=lambda: world.cases if cases is None else cases,
        features=lambda _: world.features,
        views=lambda *_: None,
    )


def table(workspace: Any, run: LeaveOneOutRun) -> Any:
    """Its cells are of any type: names, counts, rates, nothing."""
    return leave_one_out(workspace, run)


def test_a_modality_is_held_out_beside_all_others(world: Any) -> None:
    run = LeaveOneOutRun(kind="leave-one-out", of="modality", most=3)
    _, columns, rows, notes = table(built(world), run)
    tune = world.cases.modalities[world.rows("tune")]
    both = world.cases.modalities[np.isin(world.cases.roles, ("train", "tune"))]
    assert columns[:4] == ["modality", "held out", "known", "AUROC"]
    for name, out, known, auroc, *_ in rows[:-1]:
        assert (out, known) == ((both == name).sum(), (tune != name).sum())
        assert auroc > 0.9  # the planted modalities are far from each other
    assert rows[-1][:3] == ["mean, in all", sum(r[1] for r in rows[:-1]), None]
    assert rows[-1][3] == pytest.approx(np.mean([r[3] for r in rows[:-1]]))
    assert "known: the other tune cases" in notes


def test_a_label_is_held_out_beside_its_own_modality(world: Any) -> None:
    run = LeaveOneOutRun(kind="leave-one-out", of="label", most=4)
    _, _, rows, notes = table(built(world), run)
    c = world.cases
    for name, out, known, auroc, *_, recognised in rows[:-1]:
        task, label = name.split(": ")
        mine = (c.tasks == task) & (c.labels == label)
        assert out == (mine & np.isin(c.roles, ("train", "tune"))).sum()
        assert known == ((c.tasks == task) & (c.labels != label) & (c.roles == "tune")).sum()
        assert 0 <= auroc <= 1 and recognised > 0.9
    assert "known: the other tune cases of the label's modality" in notes


def test_where_nothing_can_be_held_out_that_is_said(world: Any) -> None:
    run = LeaveOneOutRun(kind="leave-one-out", of="label", minimum=10_000)
    with pytest.raises(UserError, match="fewer than two values of label have 10000 cases"):
        leave_one_out(built(world), run)


def test_a_label_that_is_all_of_its_modality_has_nothing_beside_it(world: Any) -> None:
    c = world.cases
    lone = c.having(labels=np.where(c.modalities == "gamma", "finding-0", c.labels))
    run = LeaveOneOutRun(kind="leave-one-out", of="label", most=1_000)
    rows = table(built(world, lone), run)[2]
    (alone,) = [r for r in rows if r[0] == "task of gamma: finding-0"]
    assert alone[2:4] == [0, None] and alone[5] is None
    assert rows[-1][3] is not None
