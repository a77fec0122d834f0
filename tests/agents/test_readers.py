"""Scoring options through text, and how branches that know nothing are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from curbside.agents.fleet import Fleet
from curbside.agents.heads import Blend
from curbside.agents.option_training import TrainedScorer
from curbside.agents.readers import Opinions, OptionScorer, Reader, Tuned, option_text, read
from curbside.agents.trunk import Inputs
from curbside.study import Question


def unit(n: int, width: int = 384, seed: int = 0) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    vectors: NDArray[np.float32] = v / np.linalg.norm(v, axis=1, keepdims=True)
    return vectors


def drawn(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def trained(text: dict[str, np.ndarray], width: int = 6, **more: Any) -> TrainedScorer:
    torch.manual_seed(0)
    scorer = TrainedScorer(3 * drawn(20, width, seed=9) + 1, text, **more).eval()
    with torch.no_grad():
        for residual in scorer.residuals:
            n, w = residual.shape
            residual += torch.from_numpy(0.1 * drawn(n, w, seed=8))
    return scorer


def test_what_serves_scores_as_what_was_trained() -> None:
    text = {"t": unit(3), "other": unit(2, seed=3)}
    scorer = trained(text, dropout=0.5)
    served, features = scorer.served(), drawn(5, 6)
    with torch.inference_mode():
        image = scorer.image(torch.from_numpy(features))
        np.testing.assert_allclose(served.image(features), image.numpy(), atol=1e-6)
        for task in text:
            known, named = scorer.known(image, task), scorer.by_name(image, task)
            ours = served.image(features)
            np.testing.assert_allclose(served.known(ours, task), known.numpy(), atol=1e-5)
            np.testing.assert_allclose(served.by_name(ours, text[task]), named.numpy(), atol=1e-5)


def test_scores_are_cosines_of_projected_features() -> None:
    text = {"t": unit(3)}
    served = TrainedScorer(drawn(20, 6), text).served()
    image = served.image(drawn(5, 6, seed=1))
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(served.known(image, "t"), 10 * image @ text["t"].T, atol=1e-5)


def test_features_are_standardised_first() -> None:
    served = trained({"t": unit(2)}, 4).served()
    moved = replace(served, mean=served.mean * 2 + 5, scale=served.scale * 2)
    features = drawn(3, 4, seed=1)
    np.testing.assert_allclose(moved.image(features * 2 + 5), served.image(features), atol=1e-6)


def test_residuals_move_known_labels_alone() -> None:
    text = {"t": unit(2), "other": unit(2, seed=3)}
    served = TrainedScorer(drawn(20, 4), text).served()
    moved = replace(served, residual={**served.residual, "t": served.residual["t"] + 0.5})
    image = served.image(np.ones((1, 4), np.float32))
    assert not np.array_equal(moved.known(image, "t"), served.known(image, "t"))
    np.testing.assert_array_equal(moved.known(image, "other"), served.known(image, "other"))
    np.testing.assert_array_equal(moved.by_name(image, unit(2)), served.known(image, "t"))


def test_dropout_is_of_training_alone() -> None:
    scorer = trained({"t": unit(2)}, dropout=0.5)
    features = torch.from_numpy(drawn(5, 6))
    assert torch.equal(scorer.image(features), scorer.image(features))
    assert not torch.equal(scorer.train().image(features), scorer.image(features))


@pytest.mark.parametrize("task", ["keys", "v1.0", "a b/c", "%", "ü", "type"])
def test_any_task_name_has_its_residual(task: str) -> None:
    text = {task: unit(2), "plain": unit(3)}
    served = trained(text, 4).served()
    back = OptionScorer.from_arrays(load(save(served.arrays())), text)
    image = back.image(np.ones((1, 4), np.float32))
    assert back.known(image, task).shape == (1, 2)
    for name in text:
        np.testing.assert_array_equal(back.options_of(name), served.options_of(name))


def test_a_scorer_that_lacks_a_task() -> None:
    served = trained({"t": unit(2)}).served()
    with pytest.raises(KeyError, match=r"residual\.more"):
        OptionScorer.from_arrays(served.arrays(), {"t": unit(2), "more": unit(2)})


def test_a_scorer_of_no_task() -> None:
    assert TrainedScorer(drawn(3, 4), {}).served().weight.shape == (384, 4)


def test_names_are_put_as_words() -> None:
    assert option_text("basal_cell_carcinoma") == "basal cell carcinoma"


def _array(said: list[float] | None) -> NDArray[np.float32] | None:
    return None if said is None else np.array(said, np.float32)


class Fixed:
    """Opinions as given."""

    def __init__(self, adapted: list[float] | None, frozen: list[float] | None) -> None:
        self.blend = Blend(0.5, 2.0)
        self._said = (_array(adapted), _array(frozen))

    def opinions(
        self, inputs: Inputs, questions: Sequence[Question], tuned: Tuned = None
    ) -> Opinions:
        return [self._said for _ in questions]


def test_branches_that_know_nothing() -> None:
    inputs: Any = None
    asked = [Question(("a", "b"))]

    def said(adapted: list[float] | None, frozen: list[float] | None) -> Any:
        reader: Reader = Fixed(adapted, frozen)
        return read(reader, inputs, asked)[0]

    assert said(None, None) is None
    p = np.array([0.8, 0.2])
    np.testing.assert_allclose(said([0.8, 0.2], None), p**0.5 / (p**0.5).sum(), atol=1e-5)
    np.testing.assert_allclose(said(None, [0.8, 0.2]), p**2 / (p**2).sum(), atol=1e-5)
    both = p**0.5 * p[::-1] ** 2
    np.testing.assert_allclose(said([0.8, 0.2], [0.2, 0.8]), both / both.sum(), atol=1e-5)


def test_unseen_options_are_read_from_their_names(fleet: Fleet, world: Any) -> None:
    """The same words under another task give what the words alone give."""
    agent: Any = fleet.agents["generalist-full"]
    cases = world.cases.take(world.cases.where(role="test"))
    inputs, _ = agent._trunk.of(cases.studies())
    names = ("first_thing", "second_thing")
    opinions = agent.reader.opinions(inputs, [Question(names)] * len(inputs))
    again = agent.reader.opinions(inputs, [Question(("first thing", "second thing"))] * len(inputs))
    for (a, frozen), (b, _) in zip(opinions, again, strict=True):
        assert frozen is None
        np.testing.assert_array_equal(a, b)
