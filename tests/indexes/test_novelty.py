"""Novelty scores: worked numbers, independent references, and what they are for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from curbside.config import IndexConfig
from curbside.errors import InternalError
from curbside.indexes.novelty import SCORES, KthNeighbour, Mahalanobis, fit_score, load_score
from curbside.indexes.vectors import VectorIndex

NAMES = sorted(SCORES)
NONE = np.zeros((0, 3), np.float32)


def unit(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def training(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6)) * 3
    x = np.repeat(centres, 50, axis=0) + rng.normal(size=(150, 6)) * 0.5
    return unit(x), np.repeat(["a", "b", "c"], 50)


def scored(name: str, x: NDArray[np.float32], c: NDArray[np.str_], q: Any) -> NDArray[np.float64]:
    _, similarity = VectorIndex(x).search(q, 5)
    return fit_score(name, x, c).score(q, similarity)


def test_mahalanobis_worked_numbers() -> None:
    # two classes about (0, 0) and (10, 0), with residuals ±1 on each axis
    x = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]] * 2, np.float32)
    x[4:, 0] += 10
    m = Mahalanobis.fit(x, np.repeat(["a", "b"], 4), shrinkage=0.0)
    # residual sum of squares is 4 on each axis, over 8 cases − 2 classes: S = (2/3)·I
    q = np.array([[0, 0], [2, 0], [10, 3], [5, 0]], np.float32)
    np.testing.assert_allclose(m.score(q, NONE), [0, 4 * 1.5, 9 * 1.5, 25 * 1.5], rtol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_mahalanobis_is_scipy_s(shrinkage: float) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    means = np.stack([x[c == k].astype(float).mean(axis=0) for k in "abc"])
    within = sum(np.cov(x[c == k].T.astype(float), ddof=1) for k in "abc") / 3
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / 6 * np.eye(6)
    reference = cdist(q, means, "mahalanobis", VI=np.linalg.inv(within)).min(axis=1) ** 2
    ours = Mahalanobis.fit(x, c, shrinkage=shrinkage).score(q, NONE)
    np.testing.assert_allclose(ours, reference, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_kth_neighbour_is_scikit_learn_s(k: int) -> None:
    x, _ = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    reference, _ = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x).kneighbors(q)
    _, similarity = VectorIndex(x).search(q, 5)
    ours = KthNeighbour(k).score(q, similarity)
    np.testing.assert_allclose(ours, reference[:, k - 1], atol=1e-5)


def test_kth_neighbour_takes_the_last_there_is() -> None:
    similarity = np.array([[0.9, 0.5]], np.float32)
    assert KthNeighbour(7).score(NONE, similarity)[0] == pytest.approx(0.5)
    assert KthNeighbour.fit(np.ones((1, 3), np.float32), np.array(["a"])).k == 1


@pytest.mark.parametrize("name", NAMES)
def test_strange_scores_higher(name: str) -> None:
    x, c = training()
    known = unit(x + np.random.default_rng(1).normal(size=x.shape) * 0.02)
    strange = unit(np.random.default_rng(2).normal(size=(50, 6)))
    a, b = scored(name, x, c, known), scored(name, x, c, strange)
    assert a.dtype == b.dtype == np.float64
    assert np.median(b) > np.quantile(a, 0.99)


@pytest.mark.parametrize("name", NAMES)
def test_survives_storage(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    _, similarity = VectorIndex(x).search(q, 5)
    a = fit_score(name, x, c)
    b = load_score(name, load(save(a.arrays())))
    assert (a.score(q, similarity) == b.score(q, similarity)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_training_cases_is_of_no_account(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    mixed = np.random.default_rng(4).permutation(len(x))
    np.testing.assert_allclose(
        scored(name, x, c, q), scored(name, x[mixed], c[mixed], q), rtol=1e-5, atol=1e-6
    )


def mahalanobis_turned(turn: NDArray[np.float64]) -> NDArray[np.float64]:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    turned = np.asarray(x @ turn, np.float32)
    return Mahalanobis.fit(turned, c).score(np.asarray(q @ turn, np.float32), NONE)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mahalanobis_does_not_depend_on_the_axes(seed: int) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
    np.testing.assert_allclose(
        mahalanobis_turned(turn), mahalanobis_turned(np.eye(6)), rtol=1e-3, atol=1e-3
    )


def test_single_cases_as_classes_are_finite() -> None:
    x = unit(np.random.default_rng(0).normal(size=(4, 6)))
    m = Mahalanobis.fit(x, np.array(list("abcd")))
    assert np.isfinite(m.score(x, NONE)).all()


def test_the_table_is_what_the_configuration_allows() -> None:
    assert set(get_args(IndexConfig.model_fields["novelty"].annotation)) == set(SCORES)


@pytest.mark.parametrize(
    "use", [lambda: fit_score("zebra", NONE, np.array([])), lambda: load_score("zebra", {})]
)
def test_an_unknown_score_names_the_known(use: Callable[[], Any]) -> None:
    with pytest.raises(InternalError, match="mahalanobis, knn"):
        use()


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InternalError, match="dimensions"):
        Mahalanobis(np.zeros((2, 3)), np.eye(4))
