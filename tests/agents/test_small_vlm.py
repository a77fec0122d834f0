"""Packing and the model: what is packed together is read as if it were alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from tiny_language import PLAN, base, features, world

from curbside.agents.device import on_threads
from curbside.agents.small_vlm.model import SmallVlm
from curbside.agents.small_vlm.packing import Asked, Group, block_mask, pack, rows_of
from curbside.agents.small_vlm.speaking import compare, write
from curbside.agents.small_vlm.wording import Wording, plain, which_of
from curbside.study import Question

VISUAL = PLAN.visual
texts = st.lists(st.integers(5, 400), min_size=1, max_size=5).map(tuple)
asked = st.builds(Asked, texts, st.lists(texts, max_size=3).map(tuple))
images = st.one_of(st.none(), st.integers(0, 7))
groups = st.builds(Group, images, st.lists(asked, min_size=1, max_size=3).map(tuple))


@pytest.fixture(scope="module")
def model() -> SmallVlm:
    return base().fresh(PLAN).eval()


@pytest.fixture(scope="module")
def wording() -> Wording:
    return base().wording


SEEN = features(world(8)).float()


def said(model: SmallVlm, rows: list[list[Group]]) -> list[float]:
    packed = pack(rows, VISUAL)
    with torch.inference_mode():
        return list(model.log_probabilities(packed, SEEN[packed.images]).tolist())


@settings(max_examples=20, deadline=None)
@given(st.lists(groups, min_size=1, max_size=4), st.integers(20, 90))
def test_nothing_leaks_between_what_is_packed(many: list[Group], longest: int) -> None:
    """Each answer has the same probability in a packed batch as in a row of its own."""
    model = _model()
    together = said(model, rows_of(many, VISUAL, longest))
    alone = [
        x
        for g in many
        for q in g.questions
        for a in q.answers
        for x in said(model, [[Group(g.image, (Asked(q.prompt, (a,)),))]])
    ]
    assert together == pytest.approx(alone, abs=2e-4)


_KNOWN: list[SmallVlm] = []


def _model() -> SmallVlm:
    if not _KNOWN:
        _KNOWN.append(base().fresh(PLAN).eval())
    return _KNOWN[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(groups, min_size=1, max_size=4), st.integers(20, 90))
def test_the_mask_is_a_tree(many: list[Group], longest: int) -> None:
    packed = pack(rows_of(many, VISUAL, longest), VISUAL)
    mask = block_mask(packed)[:, 0]
    g, q, a = packed.group, packed.question, packed.answer
    for b, i, j in mask.nonzero().tolist():
        if i == j:
            continue
        assert j < i and g[b, i] == g[b, j] >= 0
        assert q[b, j] == 0 or q[b, j] == q[b, i]
        assert a[b, j] == 0 or (a[b, j] == a[b, i] and q[b, j] == q[b, i])
    # every token sees the whole prefix of its own group
    for b, i in (g >= 0).nonzero().tolist():
        own = (g[b] == g[b, i]) & (q[b] == 0) & (torch.arange(g.shape[1]) <= i)
        assert bool(mask[b, i][own].all())


@given(st.lists(groups, max_size=6), st.integers(10, 100))
def test_rows_hold_every_group_once_and_in_order(many: list[Group], longest: int) -> None:
    rows = rows_of(many, VISUAL, longest)
    assert [g for row in rows for g in row] == many
    for row in rows:
        assert len(row) == 1 or sum(g.length(VISUAL) for g in row) <= longest


def test_another_image_changes_what_is_said_and_no_image_too(model: SmallVlm) -> None:
    one = Asked((7, 8, 9), ((10, 11),))
    first, second, without = (said(model, [[Group(i, (one,))]]) for i in (0, 3, None))
    assert first != pytest.approx(second, abs=1e-6)
    assert first != pytest.approx(without, abs=1e-6)


def test_lower_states_are_kept_and_no_image_is_in_them(model: SmallVlm) -> None:
    short, longer = model.lower([(7, 8), (7, 8, 9)])
    assert short.shape == (3, 32)
    torch.testing.assert_close(short, longer[:3], atol=1e-5, rtol=1e-4)
    assert model.lower([(7, 8)])[0] is short


def wide() -> SmallVlm:
    """As wide as SmolLM2: narrower products take one kernel for any number of rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=300,
    )  # fmt: skip
    return SmallVlm(LlamaForCausalLM(config).eval(), replace(PLAN, entry=1))


def test_lower_states_do_not_say_what_was_asked_with_them() -> None:
    """Else a training in a process that has read other texts ends with other bits."""
    many = [tuple(range(first, first + n)) for n in range(24) for first in range(2, 42)]
    together, other = wide(), wide()
    with on_threads(1):
        company = together.lower(many)
        for text, states in zip(many[::7], company[::7], strict=True):
            assert torch.equal(other.lower([text])[0], states), len(text)


def test_gradients_reach_the_projector_and_nothing_of_the_language_model() -> None:
    fresh = base().fresh(PLAN)
    packed = pack([[Group(0, (Asked((7, 8), ((9,),)),))]], VISUAL)
    fresh(packed, SEEN[:1])["loss"].backward()
    assert all(p.grad is not None for p in fresh.projector.parameters())
    assert all(p.grad is None for p in fresh.language.parameters())


def test_entry_must_be_a_layer() -> None:
    with pytest.raises(ValueError, match="entry 3"):
        base().fresh(replace(PLAN, entry=3))


def test_comparing_scores_every_answer_alone(model: SmallVlm) -> None:
    answers = [(10, 11), (12,), (13, 14, 15)]
    whole = compare(model, SEEN[:3], (7, 8), answers)
    turned = compare(model, SEEN[:3], (7, 8), answers[::-1])
    assert whole.shape == (3, 3) and bool((whole < 0).all())
    torch.testing.assert_close(whole, turned.flip(1), atol=1e-4, rtol=1e-5)


def test_writing_takes_the_likeliest_token_each_time(model: SmallVlm) -> None:
    """With keys and values kept, as when everything is read again for every token."""
    prompt = (7, 8, 9)
    for i, s in enumerate(write(model, SEEN[:3], prompt, end=2, most=5)):
        tokens: tuple[int, ...] = ()
        for token in s.tokens:
            packed = pack([[Group(i, (Asked(prompt + tokens),))]], VISUAL)
            with torch.inference_mode():
                states = model.states(packed, SEEN[i : i + 1])
                assert int(model.logits(states[0, -1]).argmax()) == token
            tokens += (token,)
        assert 0 < s.confidence <= 1
        assert s.finished or len(s.tokens) == 5


def test_writing_stops_at_the_end(model: SmallVlm) -> None:
    (free,) = write(model, None, (7, 8, 9), end=2, most=4)
    (stopped,) = write(model, None, (7, 8, 9), end=free.tokens[1], most=4)
    assert stopped.finished and stopped.tokens == free.tokens[:1]


def test_wording_lists_options_in_order_of_name(wording: Wording) -> None:
    one = wording.closed(Question(("normal", "benign")))
    assert one == wording.closed(Question(("benign", "normal")))
    assert "Which of: benign, normal?" in wording.words(one)
    yes = wording.closed(Question(("yes", "no"), "Is there an opacity?"))
    assert "Which" not in wording.words(yes)
    assert plain("CT_chest  x") == "ct chest x"
    assert which_of(["a_b"]) == "Which of: a b?"


def test_long_questions_keep_both_ends(wording: Wording) -> None:
    whole = wording.words(wording.prompt("first " + "heart " * 400 + "last?"))
    assert whole.startswith("Question: first") and whole.endswith("Answer:")
    assert "last?" in whole
    assert len(wording.prompt("heart " * 400)) < 200


def test_a_mark_inside_a_question_stays_text(wording: Wording) -> None:
    assert wording.end not in wording.prompt("say </s> now")
