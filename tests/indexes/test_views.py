"""Views: drawn by content, kept by content, and what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curbside.config import Config, EncoderConfig, IndexConfig, ProjectionConfig
from curbside.indexes.assess import Assessor
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import FeatureSource
from curbside.indexes.projection import Projection
from curbside.indexes.rows import HeldOut
from curbside.indexes.views import (
    KINDS,
    PerturbedEncoder,
    Views,
    most_viewed,
    perturbed,
    views_of,
)
from curbside.study import Study


def picture(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(40, 180, 60), np.linspace(-20, 30, 80))
    return (smooth[:, :, None] + rng.uniform(-30, 30, (1, 1, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def studies(tmp_path: Path) -> list[Study]:
    out = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(picture(i)).save(path)
        out.append(Study.from_image(path, id=f"case-{i}"))
    (tmp_path / "0.png").write_bytes(b"not a picture")
    return out


class Counting(FakeEncoder):
    """Counts what it is asked to encode."""

    def encode(self, images: Any) -> Any:
        self.seen = getattr(self, "seen", 0) + len(images)
        return super().encode(images)


def test_a_view_is_decided_by_pixels_and_kind() -> None:
    drawn = {(i, k): perturbed(picture(i), k) for i in range(3) for k in KINDS}
    for (i, k), y in drawn.items():
        x = picture(i)
        assert y.dtype == np.uint8 and y.ndim == 3
        assert (perturbed(x, k) == y).all()
        assert y.shape != x.shape or (y != x).any()
    shapes = {(y.shape, y.tobytes()) for y in drawn.values()}
    assert len(shapes) == len(drawn)


def test_views_are_kept_and_made_once(studies: list[Study], tmp_path: Path) -> None:
    encoder = Counting()
    rows = np.array([0, 1, 3])
    first = views_of(encoder, studies, rows, tmp_path / "cache")
    assert encoder.seen == 8  # four kinds of two images; the broken one has no view
    assert first.rows.tolist() == [1, 3] * len(KINDS)
    again = views_of(encoder, studies, rows, tmp_path / "cache")
    assert encoder.seen == 8
    np.testing.assert_array_equal(first.pooled, again.pooled)
    more = views_of(encoder, studies, np.arange(4), tmp_path / "cache")
    assert encoder.seen == 12
    np.testing.assert_array_equal(more.pooled[more.rows == 3], first.pooled[first.rows == 3])
    assert len(views_of(encoder, studies, np.array([0])).rows) == 0


def test_a_perturbed_encoder_sees_the_changed_image(studies: list[Study]) -> None:
    encoder = FakeEncoder()
    darker = PerturbedEncoder(encoder, "darker", lambda rgb: rgb // 2)
    found = FeatureSource(darker).of(studies)
    assert found.fingerprint not in (
        encoder.fingerprint,
        PerturbedEncoder(encoder, "other", lambda rgb: rgb).fingerprint,
    )
    assert found.grids is None
    np.testing.assert_array_equal(found.pooled[1], encoder.encode([picture(1) // 2]).pooled[0])


def test_among_counts_positions_in_the_rows_given() -> None:
    v = Views(np.array([4, 4, 9, 9]), np.arange(4, dtype=np.float32)[:, None])
    some = v.among(np.array([7, 9]))
    assert some.rows.tolist() == [1, 1]
    assert some.pooled[:, 0].tolist() == [2, 3]
    assert v.among(np.array([5])).pooled.shape == (0, 1)


def test_which_are_viewed_changes_little_when_cases_join() -> None:
    rng = np.random.default_rng(0)
    digests = [f"{i:064x}" for i in rng.permutation(1000)]
    few = most_viewed(digests[:900], np.arange(900), 200)
    more = most_viewed(digests, np.arange(1000), 200)
    assert len(few) == len(more) == 200
    assert len(np.intersect1d(few, more)) >= 170
    assert (most_viewed(digests, np.arange(3), 200) == [0, 1, 2]).all()


# -- what they do to the index ----------------------------------------------------------


def nuisance(world: Any, axis: int = 3, size: float = 4.0) -> Views:
    """Copies of every train and calibration case that differ along one axis only."""
    rows = np.concatenate([world.rows("train"), world.rows("calibration")])
    rng = np.random.default_rng(1)
    pooled = world.features.pooled[rows].copy()
    pooled[:, axis] += rng.normal(size=len(rows)) * size
    return Views(rows, pooled.astype(np.float32))


def test_a_vector_does_not_follow_what_copies_change(world: Any) -> None:
    views = nuisance(world, axis=10)
    train = world.take("train")
    mine = views.among(world.rows("train"))
    changes = []
    for weight in (0.0, 2.0, 50.0):
        p = Projection.fit(
            train.features.pooled,
            train.cases.modalities,
            train.cases.labels,
            ProjectionConfig(invariance=weight),
            (train.features.pooled[mine.rows], mine.pooled),
        )
        moved = p.apply(mine.pooled) - p.apply(train.features.pooled)
        changes.append(np.linalg.norm(moved, axis=1).mean())
    assert changes[0] > 2 * changes[1] > 2 * changes[2]


def test_the_nuisance_is_the_mean_outer_product_of_differences() -> None:
    """Without shrinkage: copies that differ by a whitening's worth of within-class spread."""
    rng = np.random.default_rng(3)
    modalities = np.repeat(["a", "b", "c"], 60)
    pooled = (
        np.repeat(rng.uniform(14, 22, size=(3, 5)), 60, axis=0) + rng.normal(size=(180, 5))
    ).astype(np.float32)
    x = np.sqrt(pooled.astype(np.float64))
    residual = x - np.repeat(x.reshape(3, 60, 5).mean(axis=1), 60, axis=0)
    # copies that move each case by its own residual add λ·(n − c)/n of what is there already
    copies = ((x + residual) ** 2).astype(np.float32)
    plain = ProjectionConfig(shrinkage=0.0, invariance=0.0)
    added = ProjectionConfig(shrinkage=0.0, invariance=3.0)
    a = Projection.fit(pooled, modalities, modalities, plain)
    b = Projection.fit(pooled, modalities, modalities, added, (pooled, copies))
    factor = np.sqrt(1 + 3 * 177 / 180)
    np.testing.assert_allclose(a.axes, b.axes * factor, rtol=2e-3, atol=2e-4)


def test_copies_only_make_calibration_scores_larger(world: Any) -> None:
    a = Assessor.fit(world.cases, world.features, Config())
    held = world.pooled("calibration")
    views = nuisance(world).among(world.rows("calibration"))
    plain = a.calibrated(HeldOut(held, 45))
    copied = a.calibrated(HeldOut(held, 45, copies=views))
    assert plain.calibration is not None and copied.calibration is not None
    for s, values in plain.calibration.scores().items():
        assert (copied.calibration.scores()[s] >= values).all()
    assert copied.calibration_digest != plain.calibration_digest
    test = world.pooled("test")
    assert (copied.assess(test).p_value >= plain.assess(test).p_value).all()


def test_fewer_decisions_hang_on_what_copies_change(world: Any) -> None:
    views = nuisance(world, axis=10)
    test = world.take("test")
    known = test.features.pooled[test.cases.modalities != "unseen"]
    rng = np.random.default_rng(9)
    moved = known.copy()
    moved[:, 10] += rng.normal(size=len(known)) * 4.0
    flips = []
    for on in (False, True):
        config = Config(
            encoder=EncoderConfig(projection=ProjectionConfig(invariance=2.0 if on else 0.0)),
            index=IndexConfig(calibration_copies=on),
        )
        a = Assessor.fit(world.cases, world.features, config, views)
        before, after = (a.assess(x).p_value <= 0.05 for x in (known, moved))
        flips.append((before != after).mean())
    assert flips[1] < 0.5 * flips[0]
