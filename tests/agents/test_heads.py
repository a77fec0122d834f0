"""Heads against scikit-learn's own probabilities, which head a question means, the blend."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from curbside.agents.heads import INVERSE_PENALTY, Blend, Head, Heads, match_task, softmax
from curbside.study import Question


def labelled(
    classes: int, n: int = 60, d: int = 12, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    rng = np.random.default_rng(seed)
    labels = np.array([f"label-{i % classes}" for i in range(n)])
    centres = rng.normal(size=(classes, d)) * 2
    values = centres[np.arange(n) % classes] * 3 + rng.normal(size=(n, d)) * 5 + 4
    return values.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_head_says_what_scikit_learn_says(classes: int) -> None:
    values, labels = labelled(classes)
    head = Head.fit(values, labels)
    standard = (values - values.mean(0)) / (values.std(0) + 1e-3)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(standard, labels)
    said = head.probabilities(values, tuple(model.classes_))
    np.testing.assert_allclose(said, model.predict_proba(standard), atol=1e-5)
    assert head.labels == tuple(model.classes_)
    assert said.dtype == np.float32


def test_head_on_other_options() -> None:
    values, labels = labelled(4)
    head = Head.fit(values, labels)
    whole = head.probabilities(values, head.labels)
    part = head.probabilities(values, ("label-3", "label-1"))
    np.testing.assert_allclose(part, (whole[:, [3, 1]].T / whole[:, [3, 1]].sum(1)).T, atol=1e-6)
    with_new = head.probabilities(values, ("label-3", "new", "label-1"))
    np.testing.assert_allclose(with_new[:, [0, 2]], part, atol=1e-6)
    assert (with_new[:, 1] == 0).all()
    assert (head.probabilities(values[:2], ("new", "newer")) == 0.5).all()


def test_options_that_are_both_improbable_still_differ() -> None:
    weight = np.array([[200.0], [0.0], [3.0]], np.float32)
    nothing = np.zeros(1, np.float32)
    head = Head(("a", "b", "c"), nothing, nothing + 1, weight, np.zeros(3, np.float32))
    one = np.ones((1, 1), np.float32)
    assert head.probabilities(one, ("b", "c"))[0, 1] == pytest.approx(1 / (1 + np.exp(-3)))


def test_head_of_one_label_is_sure_of_it() -> None:
    values, _ = labelled(2, n=8)
    head = Head.fit(values, np.array(["only"] * 8))
    assert (head.probabilities(values, ("only",)) == 1).all()
    assert head.probabilities(values[:1], ("only", "other")).tolist() == [[1, 0]]


def test_heads_there_and_back() -> None:
    values, labels = labelled(3)
    heads = Heads({"a/b": Head.fit(values, labels), "c": Head.fit(values[:, :5], labels)})
    back = Heads.from_arrays(heads.arrays(), heads.labels())
    assert back.keys() == heads.keys()
    expected = heads["a/b"].probabilities(values, heads["a/b"].labels)
    assert (back["a/b"].probabilities(values, heads["a/b"].labels) == expected).all()
    assert heads.parameters == 3 * (12 + 1) + 3 * (5 + 1)


TASKS = {
    "nodule": ["benign", "malignant"],
    "breast": ["benign", "malignant", "normal"],
    "lesion": ["benign", "malignant", "normal"],
    "chest": ["normal", "pneumonia", "tuberculosis", "covid"],
}


@pytest.mark.parametrize(
    ("options", "task", "ambiguous", "expected"),
    [
        # the named task, where its labels cover the options
        (("benign", "malignant"), "breast", False, "breast"),
        (("benign", "malignant", "normal"), "lesion", False, "lesion"),
        (("normal", "pneumonia"), "chest", True, "chest"),
        # a name that is unknown, or whose labels do not cover: by options
        (("benign", "malignant"), "unheard", False, "nodule"),
        (("benign", "malignant"), "chest", False, "nodule"),
        (("benign", "normal"), "nodule", True, "breast"),
        # the fewest labels that cover; order does not count
        (("malignant", "benign"), None, False, "nodule"),
        (("covid", "normal"), None, False, "chest"),
        (("pneumonia",), None, False, "chest"),
        # several that fit equally
        (("benign", "malignant", "normal"), None, False, None),
        (("benign", "malignant", "normal"), None, True, "breast"),
        (("normal",), None, False, None),
        # nothing covers, or nothing is asked
        (("benign", "teapot"), "nodule", True, None),
        ((), "nodule", True, None),
        ((), None, False, None),
    ],
)
def test_match_task(
    options: tuple[str, ...], task: str | None, ambiguous: bool, expected: str | None
) -> None:
    assert match_task(Question(options, task=task), TASKS, ambiguous=ambiguous) == expected


def test_match_task_knows_nothing() -> None:
    assert match_task(Question(("a", "b"), task="t"), {}, ambiguous=True) is None


def simulated(
    n: int, *, temperature: float, seed: int = 0
) -> list[tuple[NDArray[np.float32], NDArray[np.float32], int]]:
    """Truth drawn from frozen ** temperature; the adapted opinion is noise that is sure."""
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(n):
        k = 2 + i % 4
        frozen = softmax(rng.normal(size=(1, k)).astype(np.float32) * 2)[0]
        adapted = softmax(rng.normal(size=(1, k)).astype(np.float32) * 4)[0]
        true = frozen.astype(float) ** temperature
        cases.append((adapted, frozen, int(rng.choice(k, p=true / true.sum()))))
    return cases


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_blend_recovers_a_temperature(temperature: float) -> None:
    found = Blend.fit(simulated(3000, temperature=temperature))
    assert found.frozen == pytest.approx(temperature, rel=0.12)
    assert found.adapted < 0.08  # noise: it is all but silenced


def test_blend_of_few_cases_stays_near_the_defaults() -> None:
    assert Blend.fit([]) == Blend()
    found = Blend.fit(simulated(4, temperature=3.0))
    assert found.frozen == pytest.approx(1.0, rel=0.35)
    assert found.adapted == pytest.approx(0.3, rel=0.35)


def test_blend_prefers_the_opinion_that_is_right() -> None:
    swapped = [(b, a, t) for a, b, t in simulated(1500, temperature=1.0)]
    found = Blend.fit(swapped)
    assert found.adapted == pytest.approx(1.0, rel=0.15)
    assert found.frozen < 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=6),
    st.floats(0.01, 3),
    st.floats(0.01, 3),
)
def test_blend_is_a_distribution_and_commutes_with_order(
    logits: list[float], adapted: float, frozen: float
) -> None:
    one = softmax(np.array([logits], np.float32))[0]
    other = softmax(np.array([logits[::-1]], np.float32))[0]
    blend = Blend(adapted, frozen)
    both = blend(one, other)
    assert both.sum() == pytest.approx(1, abs=1e-5)
    assert (both >= 0).all()
    np.testing.assert_allclose(blend(one[::-1], other[::-1]), both[::-1], atol=1e-6)
