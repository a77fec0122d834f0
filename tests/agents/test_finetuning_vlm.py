"""Tiny random LLaVA and Idefics3 adapted through trl: learns, goes on, is refused, is loaded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests_finetuning_world import OPTIONS, vlm_world
from tiny_models import save_adapter, save_llava
from typer.testing import CliRunner

from curbside.agents.finetuning.card import AdapterCard, read_card
from curbside.agents.finetuning.dialogue import dialogues, told
from curbside.agents.finetuning.export import for_vllm
from curbside.agents.finetuning.material import Material, material_of
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.runs import Run
from curbside.agents.finetuning.vlm import VlmBase, finetune_vlm
from curbside.agents.finetuning.watch import last_whole
from curbside.agents.fleet_spec import CardSpec, Decoding, Limits, TransformersSpec
from curbside.agents.prompting import load_prompt
from curbside.agents.report_draft import load_report
from curbside.agents.transformers_agent import letter_token, open_transformers_agent
from curbside.agents.vision import Ask
from curbside.cases import read_cases
from curbside.cli import app
from curbside.errors import AgentUnavailable, ConfigError, StorageError, UserError
from curbside.readings import Failure, Reading
from curbside.storage import file_digest

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
PROMPT, LIMITS = load_prompt("plain-1"), Limits(greatest_side=56, text=200)
WEIGHTS = "adapter_model.safetensors"
QUICK = Recipe(epochs=1, rate=1e-2, batch=8, held_out=0.25, looks=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_world(tmp_path_factory.mktemp("finetuning"))


def base(world: Path, name: str = "llava", adapter: Path | None = None) -> VlmBase:
    return VlmBase(name, name, world / name, PROMPT, LIMITS, adapter)


def material(world: Path, **given: Any) -> Material:
    cases = read_cases(world / "cases" / "cases.jsonl")
    usual: dict[str, Any] = {"held_out": QUICK.held_out, "report": load_report("chest-1")}
    return material_of(cases, **usual | given)


@pytest.fixture(scope="module")
def adapted(world: Path) -> tuple[Path, AdapterCard]:
    out = world / "adapted"
    card, was_there = finetune_vlm(base(world), material(world), QUICK, out)
    assert not was_there
    return out, card


def processor(world: Path, name: str) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(world / name)


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_tokens_are_those_that_the_agent_is_asked_with(world: Path, name: str) -> None:
    """Prompt tokens in training equal those of a reading, and the letter is the one it looks at."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    found, words = material(world), processor(world, name)
    lessons = found.train[:6]
    data = dialogues(found, lessons, words, PROMPT, LIMITS)
    collate = DataCollatorForVisionLanguageModeling(words, completion_only_loss=True)
    spec = TransformersSpec(kind="transformers", base=name, card=CardSpec(role="generalist"),
                            limits=LIMITS)  # fmt: skip
    agent = open_transformers_agent("a", spec, world)
    engine: Any = agent.engine
    same = engine._load()[-1]
    for lesson, row in zip(lessons, data, strict=True):
        batch = collate([dict(row)])
        kept = batch["labels"][0] != -100
        asked, answer = told(found, lesson, PROMPT, LIMITS)
        from curbside.agents.pictures import encoded

        images = encoded(found.cases[lesson.row].study(), LIMITS)
        inputs = engine._inputs(words, same, Ask(PROMPT.system, asked, images))
        assert batch["input_ids"][0][~kept].tolist() == inputs["input_ids"][0].tolist()
        assert np.allclose(batch["pixel_values"], inputs["pixel_values"])
        tokens = batch["labels"][0][kept].tolist()
        assert tokens[-1] == words.tokenizer.eos_token_id
        if lesson.options:
            assert tokens[0] == letter_token(words.tokenizer, answer)
        else:
            assert json.loads(answer)["answer"] == lesson.answer


def test_every_letter_is_right_about_equally_often(world: Path) -> None:
    found = material(world, held_out=0.0)
    letters = [told(found, x, PROMPT, LIMITS)[1] for x in found.train if x.options]
    assert 0.3 < letters.count("A") / len(letters) < 0.7


def test_the_card_says_where_it_comes_from(world: Path, adapted: tuple[Path, AdapterCard]) -> None:
    out, card = adapted
    assert read_card(out) == card
    assert card.labels == card.held_out + sum(card.tasks.values()) == material(world).labels
    assert 0 < card.share < 0.1 and card.trainable == 17_408
    assert card.seconds > 0 and card.peak_mib > 100 and card.vllm == ""
    best = card.metrics["loss on held-out groups, best"]
    first = card.metrics["loss on held-out groups, first look"]
    assert best is not None and first is not None and best < first
    page = (out / "README.md").read_text()
    for part in ("cases.jsonl", "Intended use", "Not for clinical decisions", "6.3 %"):
        assert part in page
    assert str(world) not in page + (out / "adapter_config.json").read_text()
    assert not (out / "work").exists()


def test_it_is_loaded_by_peft_and_reads_better(
    world: Path, adapted: tuple[Path, AdapterCard]
) -> None:
    spec = TransformersSpec(
        kind="transformers", base="llava", card=CardSpec(role="generalist"), limits=LIMITS,
        decoding=Decoding(orders=2),
    )  # fmt: skip
    found = read_cases(world / "cases" / "cases.jsonl")
    tune = [c for c in found if c.role == "tune" and c.options]
    right = {}
    for adapter in ("", "adapted"):
        agent = open_transformers_agent("a", spec.model_copy(update={"adapter": adapter}), world)
        said: Any = agent.read_batch([c.study() for c in tune])
        assert all(isinstance(r, Reading) for r in said)
        truth = [r.probabilities[OPTIONS.index(str(c.label))]
                 for r, c in zip(said, tune, strict=True)]  # fmt: skip
        right[adapter] = float(np.mean(np.log(truth)))
    assert right["adapted"] > right[""]


def test_on_another_base_of_the_same_shape_it_does_not_answer(
    world: Path, adapted: tuple[Path, AdapterCard], tmp_path: Path
) -> None:
    """Its tensors would fit; its card says that they belong elsewhere."""
    save_llava(tmp_path / "llava", seed=9)
    shutil.copytree(adapted[0], tmp_path / "adapted")
    spec = TransformersSpec(
        kind="transformers", base="llava", adapter="adapted", card=CardSpec(role="generalist"),
        limits=LIMITS,
    )  # fmt: skip
    tune = next(c for c in read_cases(world / "cases" / "cases.jsonl") if c.options)
    failed = open_transformers_agent("a", spec, tmp_path).read(tune.study())
    assert isinstance(failed, Failure) and failed.kind == "unavailable"
    assert "belongs to base 'llava'" in failed.message


def test_a_finished_training_is_not_trained_again(
    world: Path, adapted: tuple[Path, AdapterCard]
) -> None:
    before = file_digest(adapted[0] / WEIGHTS)
    card, was_there = finetune_vlm(base(world), material(world), QUICK, adapted[0])
    assert was_there and card == adapted[1]
    assert file_digest(adapted[0] / WEIGHTS) == before


def killed(work: Callable[[], object], when: Callable[[], bool]) -> int:
    """Run in a fork, and kill -9 it once ``when`` holds.  Returns how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(7)
    while not when():
        if os.waitpid(pid, os.WNOHANG)[0]:
            return 0
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("point", ["before the first checkpoint", "half-written"])
def test_killed_it_goes_on_and_ends_with_the_same_bits(
    world: Path, adapted: tuple[Path, AdapterCard], tmp_path: Path, point: str
) -> None:
    out = tmp_path / "out"

    def work() -> object:
        return finetune_vlm(base(world), material(world), QUICK, out)

    def reached() -> bool:
        if point.startswith("before"):
            return (out / "run.json").is_file()
        return last_whole(out / "work")[0] is not None

    assert killed(work, reached) == signal.SIGKILL
    if point == "half-written":
        whole, _ = last_whole(out / "work")
        assert whole is not None
        later = whole.with_name(f"checkpoint-{int(whole.name.split('-')[1]) + 2}")
        shutil.copytree(whole, later)
        raw = bytearray((later / WEIGHTS).read_bytes())
        (later / WEIGHTS).write_bytes(raw[: len(raw) // 2])
    card, was_there = finetune_vlm(base(world), material(world), QUICK, out)
    assert not was_there and card.steps == adapted[1].steps
    assert file_digest(out / WEIGHTS) == file_digest(adapted[0] / WEIGHTS)
    assert card.metrics == adapted[1].metrics


def test_idefics3_with_its_projector_is_no_adapter_for_vllm(world: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, rate=1e-2, parts=("language", "projector"), held_out=0.0)
    some = material(world, shots=4, held_out=0.0)
    card, _ = finetune_vlm(base(world, "idefics3"), some, recipe, tmp_path / "out")
    assert card.vllm == "no: it also adapts projector" and card.family == "idefics3"
    assert card.metrics["loss on held-out groups, best"] is None
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert "connector" in config["target_modules"]


def test_it_goes_on_from_an_adapter_of_this_base_alone(world: Path, tmp_path: Path) -> None:
    made = save_adapter(world / "llava", tmp_path / "derm", seed=1)
    few = material(world, shots=2, held_out=0.0)
    recipe = Recipe(epochs=1, held_out=0.0)
    card, _ = finetune_vlm(base(world, adapter=made), few, recipe, tmp_path / "out")
    assert card.started_from == "derm"
    # by shape where it has no card, by digest where it has one
    other = save_adapter(world / "idefics3", tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="belongs to another base"):
        finetune_vlm(base(world, adapter=other), few, recipe, tmp_path / "x")
    save_llava(tmp_path / "llava", seed=9)
    away = VlmBase("a", "a", tmp_path / "llava", PROMPT, LIMITS, tmp_path / "out")
    with pytest.raises(UserError, match="belongs to base 'llava'"):
        finetune_vlm(away, few, recipe, tmp_path / "x")
    with pytest.raises(UserError, match="no LoRA adapter in safetensors"):
        finetune_vlm(base(world, adapter=tmp_path), few, recipe, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_of_something_else_is_refused(
    world: Path, adapted: tuple[Path, AdapterCard], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="training of another cases, seed"):
        finetune_vlm(base(world), material(world, seed=3), QUICK, adapted[0])
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="is not empty"):
        Run(tmp_path / "own", {})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Run(tmp_path, {})


def test_a_loss_that_is_no_number_leaves_no_adapter(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    real = SFTTrainer.compute_loss

    def broken(*args: Any, **given: Any) -> Any:
        found = real(*args, **given)
        return (found[0] * float("nan"), found[1]) if isinstance(found, tuple) else found * np.nan

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken)
    few = material(world, shots=2, held_out=0.0)
    with pytest.raises(UserError, match="no number at step 1") as e:
        finetune_vlm(base(world), few, Recipe(held_out=0.0), tmp_path / "out")
    assert "lower the rate" in e.value.hint
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_a_full_disk_is_said_and_gone_on_from(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    real, calls = Trainer._save_optimizer_and_scheduler, iter([False, True])

    def full(self: Any, folder: str) -> None:
        if next(calls, False):
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(StorageError, match="cannot write a checkpoint") as e:
        finetune_vlm(base(world), material(world), QUICK, tmp_path / "out")
    assert "it goes on" in e.value.hint
    assert last_whole(tmp_path / "out" / "work")[0] is not None


def test_models_that_are_not_known_need_targets(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "llava", tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "newvlm"}))
    strange = VlmBase("s", "s", tmp_path / "other", PROMPT, LIMITS)
    with pytest.raises(ConfigError, match=r"'newvlm' are not known here.*llava, idefics3"):
        finetune_vlm(strange, material(world), QUICK, tmp_path / "out")
    told_ = Recipe(targets={"language": r".*\.q_proj"})
    with pytest.raises(AgentUnavailable, match="cannot be loaded"):
        finetune_vlm(strange, material(world), told_, tmp_path / "out")
    with pytest.raises(UserError, match="is for encoders"):
        finetune_vlm(base(world), material(world), Recipe(method="linear"), tmp_path / "out")


def test_names_for_vllm(world: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    renamed = load_file(for_vllm(world / "llava", tmp_path / "v") / "model.safetensors")
    assert any("vision_tower.vision_model." in k for k in renamed)
    assert not any(".vision_tower.encoder" in k for k in renamed)
    again = ["finetune", "vllm-base", str(world / "llava"), str(tmp_path / "u")]
    assert "written" in CliRunner().invoke(app, again, catch_exceptions=False).stdout
    assert load_file(tmp_path / "u" / "model.safetensors").keys() == renamed.keys()
    with pytest.raises(UserError, match="is there already"):
        for_vllm(world / "llava", tmp_path / "v")
    with pytest.raises(UserError, match="reads checkpoints of type 'idefics3' as they are"):
        for_vllm(world / "idefics3", tmp_path / "w")
    with pytest.raises(AgentUnavailable, match=r"config\.json cannot be read"):
        for_vllm(tmp_path / "no model", tmp_path / "w")


def test_the_command(world: Path, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "version: 1\ngeneralist: vlm\nagents:\n  vlm:\n    kind: transformers\n"
        f"    base: {world / 'llava'}\n    limits: {{greatest_side: 56, text: 200}}\n"
        "    card: {role: generalist, intended_use: trying}\n  me: {kind: person}\n"
    )
    cases = str(world / "cases" / "cases.jsonl")
    call = ["finetune", "--agent", "vlm", "--cases", cases, "--out", str(tmp_path / "out")]
    call += ["--fleet", str(fleet), "--shots", "2", "--epochs", "1"]
    first = CliRunner().invoke(app, call, catch_exceptions=False).stdout
    assert "labels to learn from" in first and "vLLM      serves it" in first
    assert read_card(tmp_path / "out").intended_use == "trying"
    assert "finished already" in CliRunner().invoke(app, call, catch_exceptions=False).stdout
    for change, said in (
        (("vlm", "nobody"), "is no agent of the fleet"),
        (("vlm", "me"), "of kind person, which is not adapted here"),
        (("1", "0"), "make no recipe"),
    ):
        wrong = [change[1] if c == change[0] else c for c in call]
        with pytest.raises(UserError, match=said):
            CliRunner().invoke(app, wrong, catch_exceptions=False)
    with pytest.raises(UserError, match="--agent, --cases and --out are needed"):
        CliRunner().invoke(app, call[:3], catch_exceptions=False)
