"""The learned projection, against scikit-learn and against what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from curbside.config import ProjectionConfig
from curbside.errors import InternalError, UserError
from curbside.indexes.projection import Projection, class_names

CONFIG = ProjectionConfig()


def fit(world: Any, config: ProjectionConfig = CONFIG) -> Projection:
    train = world.take("train")
    return Projection.fit(train.features.pooled, train.cases.modalities, train.cases.labels, config)


def balanced(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.str_], Any]:
    """Two modalities of two findings, the same number of cases each."""
    modalities = np.repeat(["a", "b"], 40)
    labels = np.tile(np.repeat(["x", "y"], 20), 2)
    means = rng.normal(size=(4, 10)) * 2 + 5
    values = np.repeat(means, 20, axis=0) + rng.normal(size=(80, 10))
    return values.astype(np.float32), modalities, labels


def angles(x: NDArray[Any], axes: NDArray[Any]) -> NDArray[Any]:
    """Cosines between cases: axes are arbitrary up to sign, these are not."""
    z = (x - x.mean(axis=0)) @ axes
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.asarray(z @ z.T)


def test_directions_without_shrinkage_are_those_of_scikit_learn() -> None:
    pooled, modalities, labels = balanced(np.random.default_rng(3))
    ours = Projection.fit(pooled, modalities, labels, ProjectionConfig(shrinkage=0))
    x = np.sign(pooled) * np.sqrt(np.abs(pooled))
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=3)
    theirs.fit(x, np.char.add(modalities, labels))
    z = ours.apply(pooled)
    np.testing.assert_allclose(z @ z.T, angles(x, theirs.scalings_[:, :3]), atol=2e-4)


@pytest.mark.parametrize("shrinkage", [0.1, 0.7, 1.0])
def test_directions_solve_the_generalised_eigenproblem(shrinkage: float) -> None:
    """Fisher's criterion, written out: between · v = λ · (shrunk within) · v."""
    pooled, modalities, labels = balanced(np.random.default_rng(4))
    ours = Projection.fit(pooled, modalities, labels, ProjectionConfig(shrinkage=shrinkage))
    x = (np.sign(pooled) * np.sqrt(np.abs(pooled))).astype(np.float64)
    cells = x.reshape(4, 20, -1)
    means = cells.mean(axis=1)
    within = np.mean([np.cov(c.T, ddof=1) for c in cells], axis=0)
    d = len(within)
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
    _, vectors = scipy.linalg.eigh(np.cov(means.T, ddof=0), within)
    z = ours.apply(pooled)
    np.testing.assert_allclose(z @ z.T, angles(x, vectors[:, ::-1][:, :3]), atol=2e-4)


def test_vectors_have_unit_length_and_bounded_width(world: Any) -> None:
    small = fit(world, ProjectionConfig(dimensions=5))
    z = small.apply(world.features.pooled)
    assert z.dtype == np.float32
    assert z.shape == (len(world.cases), 5)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)
    classes = len(np.unique(world.take("train").cases.modalities)) * 3
    assert fit(world).axes.shape[1] == classes - 1


def test_findings_lie_closer_than_in_the_raw_features(world: Any) -> None:
    train, test = world.take("train"), world.take("test")
    known = np.isin(test.cases.modalities, train.cases.modalities)

    def share_right(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        nearest = (b @ a.T).argmax(axis=1)
        truth = np.char.add(test.cases.modalities[known], test.cases.labels[known])
        names = np.char.add(train.cases.modalities, train.cases.labels)
        return float((names[nearest] == truth).mean())

    raw = Projection.fit(
        train.features.pooled,
        train.cases.modalities,
        train.cases.labels,
        ProjectionConfig(kind="none"),
    )
    learned = fit(world)
    scores = [
        share_right(p.apply(train.features.pooled), p.apply(test.features.pooled[known]))
        for p in (raw, learned)
    ]
    assert scores[1] > scores[0]
    assert scores[1] > 0.85


def test_a_large_modality_does_not_take_the_axes(world: Any) -> None:
    """Copies of one modality's cases leave the between-class axes where they were."""
    train = world.take("train")
    alpha = np.flatnonzero(train.cases.modalities == "alpha")
    rows = np.concatenate([np.arange(len(train.cases)), alpha, alpha, alpha])
    one = ProjectionConfig(dimensions=2, shrinkage=1.0)  # within-class scatter plays no part
    a, b = (
        Projection.fit(
            train.features.pooled[r], train.cases.modalities[r], train.cases.labels[r], one
        ).apply(train.features.pooled)
        for r in (np.arange(len(train.cases)), rows)
    )
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_same_data_give_the_same_bytes_and_other_settings_another_digest(world: Any) -> None:
    a, b = fit(world), fit(world)
    assert a.axes.tobytes() == b.axes.tobytes()
    assert a.digest == b.digest
    assert fit(world, ProjectionConfig(shrinkage=0.2)).digest != a.digest
    assert fit(world, ProjectionConfig(kind="none")).digest != a.digest


@pytest.mark.parametrize("kind", ["lda", "none"])
def test_survives_storage(world: Any, kind: Any) -> None:
    a = fit(world, ProjectionConfig(kind=kind))
    b = Projection.from_arrays(load(save(a.arrays())))
    assert b.digest == a.digest
    assert (b.apply(world.features.pooled) == a.apply(world.features.pooled)).all()


def test_none_only_scales(world: Any) -> None:
    z = fit(world, ProjectionConfig(kind="none")).apply(world.features.pooled)
    expected = world.features.pooled / np.linalg.norm(world.features.pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(z, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["lda", "none"])
def test_features_that_are_all_zero_still_get_a_unit_vector(world: Any, kind: Any) -> None:
    z = fit(world, ProjectionConfig(kind=kind)).apply(np.zeros((2, 24), np.float32))
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)


def test_features_that_cannot_be_projected_are_refused(world: Any) -> None:
    p = fit(world)
    with pytest.raises(InternalError, match=r"\(n, 24\)"):
        p.apply(np.zeros((2, 23), np.float32))
    with pytest.raises(InternalError, match="finite"):
        p.apply(np.full((1, 24), np.nan, np.float32))


def test_one_modality_is_not_enough(world: Any) -> None:
    pooled = world.features.pooled[:20]
    same = np.repeat("alpha", 20)
    with pytest.raises(UserError, match="two modalities"):
        Projection.fit(pooled, same, same, CONFIG)


def test_one_case_a_class_is_not_enough(world: Any) -> None:
    pooled = world.features.pooled[:2]
    with pytest.raises(UserError, match="2 for 2"):
        Projection.fit(pooled, np.array(["a", "b"]), np.array(["", ""]), CONFIG)


def test_more_features_than_cases_without_shrinkage_is_still_finite() -> None:
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(12, 50)).astype(np.float32)
    modalities = np.repeat(["a", "b"], 6)
    p = Projection.fit(pooled, modalities, modalities, ProjectionConfig(shrinkage=0.0))
    assert np.isfinite(p.apply(pooled)).all()


def test_thin_findings_share_their_modality_s_class() -> None:
    modalities = np.array(["a"] * 7 + ["b"] * 2)
    labels = np.array(["x"] * 4 + ["y", "y", ""] + ["x", "x"])
    names = class_names(modalities, labels, minimum=4)
    assert names.tolist() == ["a|x"] * 4 + ["a"] * 3 + ["b"] * 2


def test_no_cases_have_no_classes() -> None:
    empty = np.zeros(0, np.str_)
    assert class_names(empty, empty).shape == (0,)
