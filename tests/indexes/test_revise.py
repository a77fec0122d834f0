"""An index with cases more or fewer, and the exchange of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curbside.config import Config, IndexConfig
from curbside.errors import InternalError, UserError
from curbside.indexes import assess_fit, exchange
from curbside.indexes.assess import Assessor
from curbside.indexes.exchange import Exchange, agreement
from curbside.indexes.revise import compacted, extended, without
from curbside.indexes.rows import HeldOut
from curbside.indexes.vectors import FLAT, HNSW, WIDTHS

GRAPH = Config(index=IndexConfig(kind="hnsw"))


@pytest.fixture(scope="module")
def assessor(world: Any) -> Assessor:
    return Assessor.fit(world.cases, world.features, Config())


@pytest.fixture(scope="module")
def graph(world: Any) -> Assessor:
    return Assessor.fit(world.cases, world.features, GRAPH)


def recalibrated(world: Any, a: Assessor) -> Assessor:
    return a.calibrated(HeldOut(world.pooled("calibration"), 45))


def test_a_graph_serves_after_a_check_that_is_kept(
    world: Any, assessor: Assessor, graph: Assessor, tmp_path: Path
) -> None:
    assert (assessor.index.kind, assessor.exchange) == (FLAT, None)
    assert graph.index.kind == HNSW
    held_out = len(world.rows("calibration")) + len(world.rows("tune"))
    assert graph.exchange == Exchange(HNSW, 64, held_out, 1.0)
    x = world.pooled("test")
    assert agreement(assessor.assess(x), graph.assess(x)) >= 0.995
    assert graph.index_digest != assessor.index_digest  # the kind is part of what was calibrated
    graph.save(tmp_path / "index")
    again = Assessor.load(tmp_path / "index", encoder="encoder-a")
    assert again.exchange == graph.exchange
    assert again.index_digest == graph.index_digest
    assert (again.assess(x).p_value == graph.assess(x).p_value).all()


def test_a_case_alone_gets_from_a_graph_what_it_gets_in_a_batch(
    world: Any, graph: Assessor
) -> None:
    x = world.pooled("test")
    together, alone = graph.assess(x), graph.assess(x[3:4])
    assert alone.p_value[0] == together.p_value[3]
    assert (alone.neighbours[0] == together.neighbours[3]).all()
    assert (alone.posterior[0] == together.posterior[3]).all()


def test_an_index_that_decides_otherwise_does_not_serve(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(assess_fit, "agreement", lambda a, b: 0.99)
    auto = Config(index=IndexConfig(flat_up_to=50))
    stays = Assessor.fit(world.cases, world.features, auto)
    assert stays.index.kind == FLAT
    assert stays.exchange is not None
    assert not stays.exchange.passed
    assert stays.exchange.width == WIDTHS[-1]  # every width was tried
    assert "decides only 99.00%" in caplog.text
    assert "the exact one serves" in caplog.text
    with pytest.raises(UserError, match=r"decides only 99\.00%") as e:
        Assessor.fit(world.cases, world.features, GRAPH)
    assert "index.kind: flat" in e.value.hint


def test_agreement_counts_modality_and_every_level(world: Any, assessor: Assessor) -> None:
    a = assessor.assess(world.pooled("test"))
    n = len(a)
    assert agreement(a, a) == 1
    p = a.p_value.copy()
    p[0] = 0.02 if p[0] > 0.05 else 0.5
    other = a.take(slice(None))
    object.__setattr__(other, "p_value", p)
    assert agreement(a, other) == pytest.approx((n - 1) / n)
    posterior = a.posterior.copy()
    posterior[1:3] = np.roll(posterior[1:3], 1, axis=1)
    object.__setattr__(other, "posterior", posterior)
    assert agreement(a, other) == pytest.approx((n - 3) / n)
    with pytest.raises(InternalError, match="n ≥ 1"):
        agreement(a.take(slice(0, 0)), a.take(slice(0, 0)))
    assert exchange.REQUIRED == 0.995


def test_a_new_modality_is_known_once_its_cases_are_added(world: Any, assessor: Assessor) -> None:
    unseen = np.flatnonzero(world.cases.modalities == "unseen")
    few, rest = unseen[:30], unseen[30:]
    pooled = world.features.pooled
    labels = world.cases.labels[few]
    new = extended(assessor, world.cases.ids[few], ["unseen"] * 30, labels, pooled[few])
    assert new.calibration is None
    with pytest.raises(InternalError, match="no calibration"):
        new.assess(pooled[rest])
    new = recalibrated(world, new)
    before, after = assessor.assess(pooled[rest]), new.assess(pooled[rest])
    assert "unseen" not in assessor.modalities
    assert (before.p_value <= 0.05).mean() > 0.95
    assert (after.p_value <= 0.05).mean() < 0.5
    assert (np.array(after.modalities)[after.modality] == "unseen").mean() > 0.95
    assert len(new) == len(assessor) + 30
    assert new.calibration_digest != assessor.calibration_digest
    with pytest.raises(UserError, match="30 of 30 cases are indexed already"):
        extended(new, world.cases.ids[few], ["unseen"] * 30, labels, pooled[few])


def test_taking_cases_out_and_compacting_agree(world: Any, assessor: Assessor) -> None:
    gone = assessor.ids[::3].tolist()
    x = world.pooled("test")
    thin = recalibrated(world, without(assessor, gone))
    assert len(thin) == len(assessor) - len(gone)
    a = thin.assess(x)
    assert not set(thin.ids[a.neighbours].ravel().tolist()) & set(gone)
    assert a.support.sum() < assessor.assess(x).support.sum()
    small = compacted(thin)
    assert len(small.index) == len(small) == len(thin)
    b = small.assess(x)
    assert (thin.ids[a.neighbours] == small.ids[b.neighbours]).all()
    np.testing.assert_array_equal(a.p_value, b.p_value)
    with pytest.raises(UserError, match="1 of 1 cases are not indexed"):
        without(thin, gone[:1])


def test_a_modality_can_leave_altogether(world: Any, assessor: Assessor, tmp_path: Path) -> None:
    gone = assessor.ids[assessor.neighbour_modalities == "beta"].tolist()
    a = recalibrated(world, without(assessor, gone))
    assert a.modalities == ("alpha", "gamma", "scarce")
    found = a.assess(world.pooled("test"))
    assert found.posterior.shape[1] == 3
    a.save(tmp_path / "index")
    again = Assessor.load(tmp_path / "index", encoder="encoder-a")
    assert len(again) == len(a)
    assert (again.assess(world.pooled("test")).p_value == found.p_value).all()


def test_a_compacted_graph_is_calibrated_again(world: Any, graph: Assessor) -> None:
    small = compacted(without(graph, graph.ids[:5].tolist()))
    assert small.calibration is None
    assert small.index.kind == HNSW
    assert (recalibrated(world, small).assess(world.pooled("test")).p_value > 0).all()
