"""Encoders adapted through transformers' Trainer: embedded, transformers, sentence-transformers."""

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

from tests_finetuning_world import OPTIONS, rows, write

from curbside.agents.conformance import CHECKS, Subject
from curbside.agents.encoder_agent import EncoderAgent, open_encoder_agent
from curbside.agents.finetuning.card import AdapterCard, read_card
from curbside.agents.finetuning.encoders import finetune_encoder
from curbside.agents.finetuning.material import Material, material_of
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.towers import features_of, open_tower
from curbside.agents.finetuning.watch import last_whole
from curbside.agents.fleet_spec import CardSpec, EncoderSpec
from curbside.agents.injections import picture, study_of
from curbside.cases import Cases, read_cases
from curbside.errors import AgentUnavailable, ConfigError, UserError
from curbside.readings import Abstention, Failure, Reading
from curbside.storage import file_digest
from curbside.study import Question

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
QUICK = Recipe(epochs=2, rate=3e-3, held_out=0.25, looks=4)
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip


def save_towers(folder: Path) -> None:
    """Tiny random encoders: a CLIP as sentence-transformers has it, a CLIP vision tower, a ViT."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModel,
        ViTConfig,
        ViTModel,
    )
    from transformers.models.clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    for name, model in (
        ("clip-vision", CLIPVisionModel(CLIPVisionConfig(**SMALL))),
        ("vit", ViTModel(ViTConfig(**SMALL), add_pooling_layer=False)),
    ):
        model.save_pretrained(folder / name)
        pictures.save_pretrained(folder / name)
    text = SMALL | {"vocab_size": 4, "max_position_embeddings": 16, "bos_token_id": 0,
                    "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    words = {t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "a"])}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=SMALL, projection_dim=12))
    whole.save_pretrained(folder / "raw")
    CLIPProcessor(pictures, CLIPTokenizer(vocab=words, merges=[])).save_pretrained(folder / "raw")
    made = SentenceTransformer(str(folder / "raw"), device="cpu", local_files_only=True)
    made.save_pretrained(str(folder / "clip"), create_model_card=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    save_towers(folder)
    made = [*rows(48), *rows(16, role="tune", start=100)]
    write(folder / "cases", [r for r in made if "task" in r])
    return folder


def cases(world: Path) -> Cases:
    return read_cases(world / "cases" / "cases.jsonl")


def material(world: Path, **given: Any) -> Material:
    return material_of(cases(world), **{"held_out": 0.25, "closed_only": True} | given)


def adapted(world: Path, base: str, out: Path, recipe: Recipe = QUICK, **given: Any) -> AdapterCard:
    folder = None if base == "lite0" else world / base
    return finetune_encoder(base, folder, material(world, **given), recipe, out)[0]


def opened(world: Path, base: str, out: Path) -> EncoderAgent:
    spec = EncoderSpec(
        kind="encoder",
        base=base,
        adapter=str(out),
        card=CardSpec(role="specialist", modalities=("photo",)),
    )
    return open_encoder_agent("adapted", spec, world)


@pytest.mark.parametrize("method", ["linear", "lora", "last-block"])
@pytest.mark.parametrize("base", ["lite0", "clip-vision", "vit", "clip"])
def test_it_learns_and_reads_what_it_learned(
    world: Path, tmp_path: Path, base: str, method: Any
) -> None:
    card = adapted(world, base, tmp_path / "out", QUICK.model_copy(update={"method": method}))
    assert card.method == method and card.heads == {"shade": ("ill", "well")}
    assert read_card(tmp_path / "out") == card
    assert (card.steps == 0) == (method == "linear")
    agent = opened(world, base, tmp_path / "out")
    tune = [c for c in cases(world) if c.role == "tune"]
    said = agent.read_batch([c.study() for c in tune])
    right = [
        isinstance(r, Reading) and r.answer == c.label for r, c in zip(said, tune, strict=True)
    ]
    assert np.mean(right) > 0.9
    if method != "linear":
        linear = read_card(tmp_path / "out").trainable - 2 * (card.heads != {})
        assert linear > 0 and card.share > 0
        first = card.metrics["loss on held-out groups, first look"]
        best = card.metrics["loss on held-out groups, best"]
        assert first is not None and best is not None and best <= first


def test_features_served_are_those_that_were_trained(world: Path, tmp_path: Path) -> None:
    """The embedded encoder trains in torch and serves through ONNX Runtime."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    adapted(world, "lite0", tmp_path / "out")
    tower = open_tower("lite0", None)
    holder = tower.train_what(QUICK)
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    set_peft_model_state_dict(holder, state)
    study = study_of(picture(3), question=Question(options=tuple(OPTIONS)))
    trained = features_of(tower, [study], lambda _: None)[0]
    agent = opened(world, "lite0", tmp_path / "out")
    agent.read(study)
    assert agent._vector is not None
    np.testing.assert_allclose(agent._vector(study), trained, atol=2e-3)
    assert max(float(v.abs().max()) for k, v in state.items() if "lora_B" in k) > 0


@pytest.fixture(scope="module")
def subjects(world: Path) -> dict[str, EncoderAgent]:
    made = {}
    for base in ("clip-vision", "clip"):
        adapted(world, base, world / f"out-{base}")
        made[base] = opened(world, base, world / f"out-{base}")
    return made


@pytest.mark.parametrize("base", ["clip-vision", "clip"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_conforms(
    check: Callable[[Subject], None], subjects: dict[str, EncoderAgent], base: str
) -> None:
    check(Subject(subjects[base], Question(options=tuple(OPTIONS))))


def test_it_abstains_on_tasks_that_it_does_not_know(subjects: dict[str, EncoderAgent]) -> None:
    said = subjects["clip"].read(study_of(picture(0), question=Question(options=("a", "b"))))
    assert isinstance(said, Abstention) and "knows no task" in said.reason


def test_what_never_improves_keeps_the_linear_probe(world: Path, tmp_path: Path) -> None:
    """Labels that have nothing to do with the pictures: whatever is learned does not hold."""
    drawn = np.random.default_rng(0).permutation(48)
    closed = [r for r in rows(48) if "task" in r]
    made = [r | {"label": OPTIONS[drawn[i] % 2]} for i, r in enumerate(closed)]
    found = read_cases(write(tmp_path / "cases", made))
    noise = material_of(found, held_out=0.25)
    wild = Recipe(epochs=4, rate=1.0, held_out=0.25, looks=1)
    card, _ = finetune_encoder("vit", world / "vit", noise, wild, tmp_path / "wild")
    assert not card.improved, card.metrics
    assert "which is kept" in (tmp_path / "wild" / "README.md").read_text()
    probe = Recipe(method="linear")
    finetune_encoder("vit", world / "vit", noise, probe, tmp_path / "probe")
    studies = [c.study() for c in found]
    said = [opened(world, "vit", tmp_path / n).read_batch(studies) for n in ("wild", "probe")]
    for a, b in zip(*said, strict=True):
        assert isinstance(a, Reading) and isinstance(b, Reading)
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-6)


def test_killed_it_goes_on_and_ends_with_the_same_bits(world: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    adapted(world, "vit", whole)
    pid = os.fork()
    if pid == 0:
        try:
            adapted(world, "vit", out)
        finally:
            os._exit(7)
    while last_whole(out / "work")[0] is None:
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    adapted(world, "vit", out)
    for name in ("adapter_model.safetensors", "heads.safetensors"):
        assert file_digest(out / name) == file_digest(whole / name)


def test_an_adapter_of_another_base_does_not_read(world: Path, tmp_path: Path) -> None:
    adapted(world, "vit", tmp_path / "out", Recipe(method="linear"))
    said = opened(world, "clip-vision", tmp_path / "out").read(
        study_of(picture(0), question=Question(options=tuple(OPTIONS)))
    )
    assert isinstance(said, Failure) and "made on another vit" in said.message
    assert str(world) not in said.message
    with pytest.raises(UserError, match="training of another base"):
        adapted(world, "clip-vision", tmp_path / "out", Recipe(method="linear"))


def test_what_cannot_be_opened_is_said(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished adapter"):
        opened(world, "vit", tmp_path)
    adapted(world, "vit", tmp_path / "out", Recipe(method="linear"))
    (tmp_path / "out" / "heads.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"heads of .* cannot be read"):
        opened(world, "vit", tmp_path / "out")
    path = tmp_path / "out" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "vlm"}))
    with pytest.raises(UserError, match="adapts a vision-language model"):
        opened(world, "vit", tmp_path / "out")
    shutil.copytree(world / "vit", tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(AgentUnavailable, match="cannot be loaded as an image encoder"):
        open_tower("bad", tmp_path / "bad")


def test_layers_that_are_called_otherwise_need_targets(world: Path) -> None:
    with pytest.raises(ConfigError, match="no linear layer"):
        open_tower("vit", world / "vit").train_what(Recipe(targets={"vision": "nothing"}))
    with pytest.raises(ConfigError, match="are served with 2"):
        open_tower("lite0", None).train_what(Recipe(scale=1.0))
