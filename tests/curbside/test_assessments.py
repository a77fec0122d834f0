"""Columns stay together, and vectors that are not unit vectors are refused."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from curbside.assessments import Assessments, Embeddings
from curbside.errors import InternalError


def make(n: int = 4) -> Assessments:
    rng = np.random.default_rng(0)
    posterior = rng.dirichlet(np.ones(3), n).astype(np.float32)
    per_agent = [rng.random((n, 2)).astype(np.float32) for _ in range(4)]
    return Assessments(
        modalities=("a", "b", "c"),
        agents=("x", "y"),
        strata=("all", "a"),
        posterior=posterior,
        novelty=rng.random(n),
        p_value=rng.random(n),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 50, np.int32),
        support=np.arange(n, dtype=np.int32),
        specialist=np.full(n, -1, np.int16),
        neighbours=np.arange(2 * n).reshape(n, 2),
        similarity=rng.random((n, 2)).astype(np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=per_agent[0],
        competence_low=per_agent[1],
        competence_high=per_agent[2],
        competence_support=per_agent[3],
    )


def test_the_modality_is_the_likeliest() -> None:
    a = make()
    assert a.modality.tolist() == a.posterior.argmax(1).tolist()
    assert len(a) == 4


def test_rows_are_taken_from_every_column() -> None:
    a, rows = make(), np.array([3, 1])
    taken = a.take(rows)
    assert len(taken) == 2
    for f in fields(a):
        value = getattr(a, f.name)
        if isinstance(value, tuple):
            assert getattr(taken, f.name) == value
        else:
            np.testing.assert_array_equal(getattr(taken, f.name), value[rows])
    assert make().take(slice(0, 1)).support.tolist() == [0]


def test_unit_vectors_are_kept() -> None:
    vectors = np.eye(3, dtype=np.float32)
    assert len(Embeddings(vectors, "f")) == 3
    assert len(Embeddings(np.zeros((0, 3), np.float32), "f")) == 0


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.eye(3), "float32"),
        (np.ones(3, np.float32), "float32"),
        (np.ones((2, 3), np.float32), "unit vectors"),
        (np.full((1, 2), np.nan, np.float32), "unit vectors"),
    ],
    ids=["float64", "flat", "long", "nan"],
)
def test_others_are_a_bug(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(InternalError, match=message):
        Embeddings(vectors, "f")
