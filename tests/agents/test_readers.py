"""Scoring options through text, and how branches that know nothing are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from curbside.agents.fleet import Fleet
from curbside.agents.heads import Blend
from curbside.agents.readers import OptionScorer, Reader, option_text, read
from curbside.agents.trunk import Inputs
from curbside.study import Question


def unit(n: int, width: int = 384, seed: int = 0) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_scores_are_cosines_of_projected_features() -> None:
    text = {"t": unit(3)}
    scorer = OptionScorer(6, text).eval()
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image = scorer.image(features)
        torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
        cosines = image.numpy() @ text["t"].T
        np.testing.assert_allclose(scorer.known(image, "t").numpy(), 10 * cosines, atol=1e-5)
        named = scorer.by_name(image, torch.from_numpy(unit(2, seed=1))).numpy()
    np.testing.assert_allclose(named, 10 * image.numpy() @ unit(2, seed=1).T, atol=1e-5)
    np.testing.assert_array_equal(scorer.text_of("t"), text["t"])


def test_features_are_standardised_first() -> None:
    scorer = OptionScorer(4, {"t": unit(2)}).eval()
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = scorer.image(features)
        scorer.mean.fill_(5.0)
        scorer.scale.fill_(2.0)
        torch.testing.assert_close(scorer.image(features * 2 + 5), plain)


def test_residuals_move_known_labels_alone() -> None:
    scorer = OptionScorer(4, {"t": unit(2), "other": unit(2, seed=3)}).eval()
    image = scorer.image(torch.ones(1, 4))
    before = scorer.known(image, "t"), scorer.known(image, "other")
    with torch.no_grad():
        scorer.residual["t"] += 0.5
    assert not torch.equal(scorer.known(image, "t"), before[0])
    assert torch.equal(scorer.known(image, "other"), before[1])
    assert torch.equal(scorer.by_name(image, torch.from_numpy(unit(2))), before[0]), (
        "a name alone knows no residual"
    )


@pytest.mark.parametrize("task", ["keys", "v1.0", "a b/c", "%", "ü", "type"])
def test_any_task_name_has_its_residual(task: str) -> None:
    scorer = OptionScorer(4, {task: unit(2), "plain": unit(3)})
    assert scorer.known(scorer.image(torch.ones(1, 4)), task).shape == (1, 2)
    names = scorer.state_dict().keys()
    assert "residual.plain" in names
    assert len([n for n in names if n.startswith("residual.")]) == 2


def test_a_scorer_of_no_task() -> None:
    assert OptionScorer(4, {}).project.out_features == 384


def test_names_are_put_as_words() -> None:
    assert option_text("basal_cell_carcinoma") == "basal cell carcinoma"


class Fixed:
    """Opinions as given."""

    def __init__(self, adapted: list[float] | None, frozen: list[float] | None) -> None:
        self.blend = Blend(0.5, 2.0)
        self._said = tuple(
            None if p is None else np.array(p, np.float32) for p in (adapted, frozen)
        )

    def opinions(self, inputs: Inputs, questions: Sequence[Question]) -> Any:
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
    reader: Any = getattr(fleet.agents["generalist-full"], "reader", None)
    cases = world.cases.take(world.cases.where(role="test"))
    inputs, _ = fleet.agents["generalist-full"]._trunk.of(cases.studies())  # type: ignore[attr-defined]
    names = ("first_thing", "second_thing")
    opinions = reader.opinions(inputs, [Question(names)] * len(inputs))
    again = reader.opinions(inputs, [Question(("first thing", "second thing"))] * len(inputs))
    for (a, frozen), (b, _) in zip(opinions, again, strict=True):
        assert frozen is None
        np.testing.assert_array_equal(a, b)
