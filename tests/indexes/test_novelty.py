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
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestNeighbors

from curbside.config import IndexConfig
from curbside.errors import InternalError
from curbside.indexes.novelty import SCORES, FakeNovelty, fit_score, load_score
from curbside.indexes.scores.classifier import Energy, SoftmaxConfidence
from curbside.indexes.scores.distance import (
    KthNeighbour,
    LocalOutlier,
    Mahalanobis,
    RelativeMahalanobis,
)
from curbside.indexes.scores.subspace import Residual
from curbside.indexes.vectors import VectorIndex

NONE = np.zeros((0, 3), np.float32)


def unit(x: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def training(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6)) * 3
    x = np.repeat(centres, 50, axis=0) + rng.normal(size=(150, 6)) * 0.5
    return unit(x), np.repeat(["a", "b", "c"], 50)


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


def test_relative_mahalanobis_is_scipy_s() -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))

    def shrunk(residual: NDArray[Any], freedom: int) -> NDArray[Any]:
        s = residual.T @ residual / freedom
        return np.asarray(0.9 * s + 0.1 * np.trace(s) / 6 * np.eye(6))

    x64 = x.astype(float)
    means = np.stack([x64[c == k].mean(axis=0) for k in "abc"])
    within = shrunk(x64 - np.repeat(means, 50, axis=0), 147)
    whole = shrunk(x64 - x64.mean(axis=0), 149)
    near = cdist(q, means, "mahalanobis", VI=np.linalg.inv(within)).min(axis=1) ** 2
    every = cdist(q, x64.mean(axis=0)[None], "mahalanobis", VI=np.linalg.inv(whole))[:, 0] ** 2
    ours = RelativeMahalanobis.fit(x, c).score(q, NONE)
    np.testing.assert_allclose(ours, near - every, rtol=1e-5, atol=1e-4)


def test_local_outlier_factor_by_hand() -> None:
    """Breunig et al. 2000, definitions 3 to 7, written out for cases outside the data."""
    x, _ = training()
    q = unit(np.random.default_rng(9).normal(size=(10, 6)))
    k = 20
    among = cdist(x, x)
    np.fill_diagonal(among, np.inf)
    near = np.argsort(among, axis=1)[:, :k]
    reach_of = np.sort(among, axis=1)[:, k - 1]

    def density(distance: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        reach = np.maximum(np.take_along_axis(distance, rows, 1), reach_of[rows])
        return np.asarray(1 / reach.mean(axis=1))

    own = density(among, near)
    away = cdist(q, x)
    rows = np.argsort(away, axis=1)[:, :k]
    reference = own[rows].mean(axis=1) / density(away, rows)
    np.testing.assert_allclose(LocalOutlier.fit(x, _).score(q, NONE), reference, rtol=1e-4)


def test_residual_worked_numbers_and_scikit_learn_s() -> None:
    # cases spread along the first axis only: the rest of three axes is outside
    x = np.array([[3, 1, 2], [5, 1, 2], [7, 1, 2]], np.float32)
    fitted = Residual.fit(x, np.array(["a"] * 3))
    q = np.array([[100, 1, 2], [5, 4, 6]], np.float32)
    np.testing.assert_allclose(fitted.score(q, NONE), [0, 5], atol=1e-6)
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    pca = PCA(n_components=2).fit(x.astype(float))
    outside = q - pca.inverse_transform(pca.transform(q.astype(float)))
    ours = Residual.fit(x, c).score(q, NONE)
    np.testing.assert_allclose(ours, np.linalg.norm(outside, axis=1), rtol=1e-5)


def reference_classifier(x: Any, c: Any) -> LinearDiscriminantAnalysis:
    """scikit-learn's, given the same covariance: pooled over classes, divided by n − c."""

    class Shrunk(EmpiricalCovariance):  # type: ignore[misc]  # mypy skips scikit-learn
        def fit(self, X: Any, y: Any = None) -> Any:
            self.covariance_ = np.cov(X.T)
            return self

    model = LinearDiscriminantAnalysis(
        solver="lsqr", priors=[1 / 3] * 3, covariance_estimator=Shrunk()
    )
    return model.fit(x, c)


def test_classifier_scores_are_scikit_learn_s() -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    model = reference_classifier(x, c)
    # its covariance is Σ_k Σ/3 with 49 degrees of freedom each, as ours without shrinkage is
    within = Mahalanobis.fit(x, c, shrinkage=0.0)
    scale = 0.1 * np.trace(model.covariance_) / 6
    shrunk = 0.9 * model.covariance_ + scale * np.eye(6)
    np.testing.assert_allclose(
        within.score(q, NONE),
        cdist(q, model.means_, "mahalanobis", VI=np.linalg.inv(model.covariance_)).min(1) ** 2,
        rtol=1e-4,
    )
    coef = np.linalg.solve(shrunk, model.means_.T)
    logits = q @ coef - 0.5 * (model.means_.T * coef).sum(axis=0)
    np.testing.assert_allclose(
        Energy.fit(x, c).score(q, NONE), -logsumexp(logits, axis=1), rtol=1e-5
    )
    p = softmax(logits, axis=1).max(axis=1)
    ours = SoftmaxConfidence.fit(x, c).score(q, NONE)
    np.testing.assert_allclose(1 / (1 + np.exp(ours)), p, rtol=1e-4)


def test_softmax_confidence_is_that_of_the_modality_not_of_its_findings() -> None:
    x, c = training()
    fine = np.where(np.arange(150) % 2 == 0, np.char.add(c, "|x"), np.char.add(c, "|y"))
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    coarse = SoftmaxConfidence.fit(x, c).score(q, NONE)
    split = SoftmaxConfidence.fit(x, fine).score(q, NONE)
    assert np.corrcoef(coarse, split)[0, 1] > 0.95
    one = SoftmaxConfidence.fit(x, np.full(150, "a"))
    assert (one.score(q, NONE) == 0).all()


# -- what every score must do -----------------------------------------------------------

ALL: dict[str, Any] = {name: (e.fit, e.load) for name, e in SCORES.items()}
ALL["fake"] = (FakeNovelty.fit, FakeNovelty.load)
CONFORMING = sorted(ALL)


def fitted_scores(name: str, x: Any, c: Any, q: Any) -> NDArray[np.float64]:
    _, similarity = VectorIndex(x).search(q, 5)
    return np.asarray(ALL[name][0](x, c).score(q, similarity))


@pytest.mark.parametrize("name", CONFORMING)
def test_conforms_shape_and_finite(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    for n in (20, 1, 0):
        values = fitted_scores(name, x, c, q[:n])
        assert values.dtype == np.float64
        assert values.shape == (n,)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", CONFORMING)
def test_conforms_one_case_scores_as_in_a_batch(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(6, 6)))
    alone = np.concatenate([fitted_scores(name, x, c, q[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(alone, fitted_scores(name, x, c, q), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFORMING)
def test_conforms_survives_storage(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    _, similarity = VectorIndex(x).search(q, 5)
    fit, again = ALL[name]
    a = fit(x, c)
    b = again(load(save(a.arrays())))
    np.testing.assert_array_equal(a.score(q, similarity), b.score(q, similarity))


@pytest.mark.parametrize("name", CONFORMING)
def test_conforms_the_order_of_training_cases_is_of_no_account(name: str) -> None:
    x, c = training()
    q = unit(np.random.default_rng(9).normal(size=(20, 6)))
    mixed = np.random.default_rng(4).permutation(len(x))
    np.testing.assert_allclose(
        fitted_scores(name, x, c, q),
        fitted_scores(name, x[mixed], c[mixed], q),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", CONFORMING)
def test_conforms_strange_scores_higher(name: str) -> None:
    """Known cases lie about three of six axes, as classes do in more axes than there are."""
    rng = np.random.default_rng(3)
    centres = np.eye(6)[:3] + 0.5
    x = unit(np.repeat(centres, 50, axis=0) + rng.normal(size=(150, 6)) * 0.05)
    known = unit(np.repeat(centres, 50, axis=0) + rng.normal(size=(150, 6)) * 0.05)
    strange = unit(-np.eye(6)[3:].repeat(20, axis=0) + rng.normal(size=(60, 6)) * 0.05)
    c = np.repeat(["a", "b", "c"], 50)
    a, b = fitted_scores(name, x, c, known), fitted_scores(name, x, c, strange)
    assert np.median(b) > np.quantile(a, 0.9)


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
    with pytest.raises(InternalError, match="mahalanobis, relative-mahalanobis"):
        use()


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InternalError, match="dimensions"):
        Mahalanobis(np.zeros((2, 3)), np.eye(4))
