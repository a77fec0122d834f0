"""On a GPU: what trains and answers there does, and as it does on the processor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tests_finetuning_world import OPTIONS, vlm_world
from tiny_language import PLAN, base, material, short

from curbside.agents.encoder_agent import open_encoder_agent
from curbside.agents.finetuning.encoders import finetune_encoder
from curbside.agents.finetuning.material import material_of
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.vlm import VlmBase, finetune_vlm
from curbside.agents.finetuning.watch import Watch
from curbside.agents.fleet_spec import CardSpec, EncoderSpec, Limits, TransformersSpec
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.small_vlm.making import Maker
from curbside.agents.small_vlm.speaking import compare
from curbside.agents.small_vlm.speaking import write as say
from curbside.agents.small_vlm.stored import with_adapter
from curbside.agents.transformers_agent import open_transformers_agent
from curbside.cases import read_cases
from curbside.readings import Reading

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]
LIMITS = Limits(greatest_side=56, text=200)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_world(tmp_path_factory.mktemp("gpu"))


def test_the_small_vlm_learns_there_and_answers_as_on_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    log: Any = Watch.on_log

    def listening(self: Any, args: Any, *rest: Any, logs: Any = None, **more: Any) -> None:
        told.append({"device": args.device.type, "bf16": args.bf16, **(logs or {})})
        log(self, args, *rest, logs=logs, **more)

    monkeypatch.setattr(Watch, "on_log", listening)
    made = material()
    folder = Maker(tmp_path, made, base, seed=0, plan=PLAN, courses=short(40)).read()
    assert {t["device"] for t in told} == {"cuda"}
    assert {t["bf16"] for t in told} == {False}
    model = with_adapter(base(), PLAN, folder).base_model.model.eval()
    assert model.device.type == "cuda"
    words = base().wording
    prompt = words.prompt("What kind of image is this?")
    answers = [words.answer("clear"), words.answer("shadow")]
    there = compare(model, made.features, prompt, answers)
    said = say(model, made.features[:4], prompt, end=words.end, most=8)
    here = compare(model.cpu(), made.features, prompt, answers)
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-3)
    assert [s.tokens for s in said] == [
        s.tokens for s in say(model, made.features[:4], prompt, end=words.end, most=8)
    ]


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_a_vlm_is_adapted_with_checkpointing_in_half_precision(
    name: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    told: list[Any] = []
    step = SFTTrainer.training_step

    def listening(self: Any, model: Any, *args: Any, **given: Any) -> Any:
        told.append((self.args.bf16, model.is_gradient_checkpointing, model.device.type))
        return step(self, model, *args, **given)

    monkeypatch.setattr(SFTTrainer, "training_step", listening)
    found = read_cases(world / "cases" / "cases.jsonl")
    recipe = Recipe(epochs=3, rate=1e-2, held_out=0.25, looks=4)
    some = material_of(found, held_out=0.25, report=load_report("chest-1"))
    one = VlmBase(name, name, world / name, load_prompt("plain-1"), LIMITS, None)
    card, _ = finetune_vlm(one, some, recipe, tmp_path / "adapted")
    assert set(told) == {(torch.cuda.is_bf16_supported(), True, "cuda")}
    assert torch.cuda.get_device_name() in card.machine
    best = card.metrics["loss on held-out groups, best"]
    first = card.metrics["loss on held-out groups, first look"]
    assert best is not None and first is not None and best < first
    right = {}
    for adapter in ("", str(tmp_path / "adapted")):
        spec = TransformersSpec(
            kind="transformers", base=name, adapter=adapter, device="cuda", dtype="bfloat16",
            card=CardSpec(role="generalist"), limits=LIMITS,
        )  # fmt: skip
        agent = open_transformers_agent("a", spec, world)
        tune = [c for c in found if c.role == "tune" and c.options]
        said: Any = agent.read_batch([c.study() for c in tune])
        assert all(isinstance(r, Reading) for r in said)
        right[adapter] = float(np.mean([
            np.log(r.probabilities[c.options.index(str(c.label))])
            for r, c in zip(said, tune, strict=True)
        ]))  # fmt: skip
    assert right[str(tmp_path / "adapted")] > right[""]


def test_the_embedded_encoder_is_adapted_there_and_reads_on_the_processor(
    world: Path, tmp_path: Path
) -> None:
    found = read_cases(world / "cases" / "cases.jsonl")
    some = material_of(found, held_out=0.25, closed_only=True, report=load_report("chest-1"))
    recipe = Recipe(epochs=4, rate=3e-3, held_out=0.25, looks=4)
    card, _ = finetune_encoder("lite0", None, some, recipe, tmp_path / "adapted")
    assert card.steps > 0 and torch.cuda.get_device_name() in card.machine
    spec = EncoderSpec(
        kind="encoder", base="lite0", adapter=str(tmp_path / "adapted"),
        card=CardSpec(role="generalist"),
    )  # fmt: skip
    agent = open_encoder_agent("a", spec, world)
    tune = [c for c in found if c.role == "tune" and c.options == tuple(OPTIONS)]
    said: Any = agent.read_batch([c.study() for c in tune])
    right = [r.answer == c.label for r, c in zip(said, tune, strict=True)]
    assert np.mean(right) > 0.9
