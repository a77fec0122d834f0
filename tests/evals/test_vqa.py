"""Scores of answers in words, against values worked out by hand and by sacrebleu."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.evals.vqa import SCORES, bleu_1, exact_match, normalised, rouge_l, scores, token_f1

GOLDEN = [
    # said, truth, exact, F1, BLEU-1, ROUGE-L
    ("Yes.", "yes", 1, 1, 1, 1),
    ("no", "yes", 0, 0, 0, 0),
    ("The left lung", "left lung", 1, 1, 1, 1),
    ("left upper lung", "left lung", 0, 4 / 5, 2 / 3, 4 / 5),
    ("lung", "left lung", 0, 2 / 3, math.exp(1 - 2), 2 / 3),
    ("lung left", "left lung", 0, 1, 1, 1 / 2),
    ("police killed gunman", "police kill gunman", 0, 2 / 3, 2 / 3, 2 / 3),
    ("police ended gunman", "gunman police kill", 0, 2 / 3, 2 / 3, 1 / 3),
]


@pytest.mark.parametrize(("said", "truth", "exact", "f1", "bleu", "rouge"), GOLDEN)
def test_goldens(said, truth, exact, f1, bleu, rouge):
    assert exact_match(said, truth) == exact
    assert token_f1(said, truth) == pytest.approx(f1)
    assert bleu_1(said, truth) == pytest.approx(bleu)
    assert rouge_l(said, truth) == pytest.approx(rouge)


def test_an_empty_answer_earns_nothing_unless_nothing_was_asked_for():
    assert [f("", "yes") for f in (exact_match, token_f1, bleu_1, rouge_l)] == [0, 0, 0, 0]
    assert [f("", "") for f in (exact_match, token_f1, bleu_1, rouge_l)] == [1, 1, 1, 1]


words = st.lists(st.sampled_from(["left", "right", "lung", "mass", "no"]), max_size=6).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(words, words)
def test_scores_lie_between_nothing_and_a_match(said, truth):
    found = scores([said], [truth])
    assert set(found) == set(SCORES)
    for values in found.values():
        assert 0 <= values[0] <= 1 + 1e-6
        assert values[0] >= found["exact_match"][0] - 1e-6
    # F1 is symmetric and an order can only lose against a bag
    assert token_f1(said, truth) == pytest.approx(token_f1(truth, said))
    assert rouge_l(said, truth) <= token_f1(said, truth) + 1e-9


def test_normalisation_is_idempotent_and_many_come_at_once():
    assert normalised(normalised("The X-ray, of a Chest!")) == "x ray of chest"
    found = scores(["yes", "no"], ["yes", "yes"])
    assert np.array_equal(found["exact_match"], [1, 0])
