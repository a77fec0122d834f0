"""Courses: they learn what was planted, and a killed one goes on as if nothing had been."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_language import PLAN, base, features, material, short, world

from curbside.agents.small_vlm import making
from curbside.agents.small_vlm.aligning import Aligner, settle
from curbside.agents.small_vlm.courses import packed_batches, run_course
from curbside.agents.small_vlm.lessons import corpus_lessons, drawn, visual_lessons
from curbside.agents.small_vlm.making import Maker
from curbside.agents.small_vlm.stored import adapted, with_adapter
from curbside.errors import StorageError
from curbside.storage import tree_digest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def maker(folder: Path, *, seed: int = 0, n: int = 32) -> Maker:
    return Maker(folder, material(n), base, seed=seed, plan=PLAN, courses=short())


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_drawn_lessons_favour_no_case_twice() -> None:
    cases = world(40)
    course = drawn(cases, 30, seed=3)
    assert course == drawn(cases, 30, seed=3) != drawn(cases, 30, seed=4)
    assert len(course) == 30
    assert max(Counter(course).values()) == 1
    assert max(Counter(drawn(cases, 70, seed=3)).values()) <= 3


def test_corpus_lessons_ask_label_and_modality() -> None:
    words = base().wording
    lessons = corpus_lessons(world(20), range(20), words, 0)
    said = [words.words(a) for g in lessons for q in g.questions for a in q.answers]
    assert {"benign", "malignant", "clear", "shadow"} == set(said)
    assert all(1 <= len(g.questions) <= 2 for g in lessons)
    asked = Counter(words.words(q.prompt) for g in lessons for q in g.questions)
    assert any("benign, malignant" in a for a in asked)
    assert any("malignant, benign" in a for a in asked), "options come in several orders"


def test_modality_may_be_asked_of_every_image() -> None:
    lessons = corpus_lessons(world(20), range(20), base().wording, 0, modality_too=1.0)
    assert all(len(g.questions) == 2 for g in lessons)


def test_visual_lessons_share_an_image() -> None:
    made = material()
    rows = {c.id + c.question: r for c, r in zip(made.questions, made.rows, strict=True)}
    lessons = visual_lessons(
        made.questions, lambda c: rows[c.id + c.question], base().wording, 0, passes=2
    )
    assert sorted((g.image, len(g.questions)) for g in lessons) == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_aligning_finds_what_was_planted() -> None:
    model, cases = base().fresh(PLAN), world(32)
    targets = settle(model, cases, features(cases), base().wording)
    aligner = Aligner(model, targets.states)
    assert targets.truth.min() >= 0
    optimiser = torch.optim.Adam(aligner.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        loss = aligner(features(cases).float(), targets.truth, targets.allowed)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0]


def test_a_case_without_a_label_is_aligned_by_its_modality_alone() -> None:
    from dataclasses import replace

    model = base().fresh(PLAN)
    cases = [replace(c, label=None, options=()) for c in world(4)]
    targets = settle(model, cases, features(cases), base().wording)
    assert targets.truth[:, 1].tolist() == [-1] * 4
    loss = Aligner(model, targets.states)(
        features(cases).float(), targets.truth, targets.allowed
    )["loss"]  # fmt: skip
    assert torch.isfinite(loss)


def test_a_training_step_lowers_the_loss() -> None:
    made = material(16)
    peft = adapted(base().fresh(PLAN))
    lessons = corpus_lessons(made.cases, range(16), base().wording, 0)
    rows, collate = packed_batches(lessons, made.features, PLAN.visual)
    batch = collate(rows[:1])
    optimiser = torch.optim.Adam([p for p in peft.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(8):
        loss = peft(**batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_only_adapters_above_the_entry_and_the_projector_are_trained() -> None:
    peft = adapted(base().fresh(PLAN))
    learned = [n for n, p in peft.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "projector" in n for n in learned)
    assert {n.split("layers.")[1][0] for n in learned if "layers." in n} == {"1", "2"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    one = maker(folder)
    one.visual("visual", lambda _: True)
    return folder


def test_stages_leave_safetensors_and_no_checkpoint(undisturbed: Path) -> None:
    assert sorted(p.name for p in undisturbed.iterdir()) == ["align", "read", "visual"]
    names = {p.name for p in undisturbed.rglob("*") if p.is_file()}
    assert names == {
        "projector.safetensors", "adapter_model.safetensors", "adapter_config.json", "made.json",
    }  # fmt: skip
    assert adapter(undisturbed / "read") != adapter(undisturbed / "visual")


def test_what_is_made_is_not_made_again(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(making, "run_course", never)
    before = tree_digest(undisturbed)
    maker(undisturbed).visual("visual", lambda _: True)
    assert tree_digest(undisturbed) == before


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 5, 7, 9, 12])
def test_a_killed_course_gives_the_same_adapter(
    at: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after any step of any stage, with a half-written checkpoint left behind."""
    from curbside.agents.finetuning.watch import Watch

    step, count = Watch.on_step_end, 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        step(self, *args, **kwargs)
        if count == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", dying)
        with pytest.raises(Killed):
            maker(tmp_path).visual("visual", lambda _: True)
    for work in tmp_path.glob("*-work"):
        (work / "checkpoint-999").mkdir()
    maker(tmp_path).visual("visual", lambda _: True)
    for stage in ("read", "visual"):
        assert adapter(tmp_path / stage) == adapter(undisturbed / stage), stage


def test_a_stage_computes_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many threads a process has must not show in an adapter's last digits."""
    seen, course = list[int](), run_course

    def counted(*args: Any, **given: Any) -> Any:
        seen.append(torch.get_num_threads())
        return course(*args, **given)

    monkeypatch.setattr(making, "run_course", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        maker(tmp_path).read()
        assert (seen, torch.get_num_threads()) == ([1, 1], 2)  # aligned, then read
    finally:
        torch.set_num_threads(before)


def test_a_full_disk_is_said_and_gone_on_from(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(StorageError, match="cannot write a checkpoint"):
            maker(tmp_path).read()
    maker(tmp_path).read()
    assert adapter(tmp_path / "read") == adapter(undisturbed / "read")


def test_other_material_or_a_damaged_stage_is_made_again(undisturbed: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder)
    made = folder / "read" / "adapter_model.safetensors"
    whole = made.read_bytes()
    made.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    maker(folder).read()
    assert made.read_bytes() == whole
    maker(folder, n=24).read()
    assert made.read_bytes() != whole
    other = maker(tmp_path / "other", seed=1).read()
    assert adapter(other) != whole


def test_a_stored_adapter_is_the_one_that_was_trained(undisturbed: Path) -> None:
    from safetensors.torch import load_file

    peft = with_adapter(base(), PLAN, undisturbed / "visual")
    stored = load_file(str(undisturbed / "visual" / "adapter_model.safetensors"))
    projector = {k: v for k, v in stored.items() if "projector" in k}
    assert {k.rpartition("projector.")[2] for k in projector} == {
        "first.weight", "first.bias", "second.weight", "second.bias",
        "mean", "deviation", "shift", "spread",
    }  # fmt: skip
    inner = peft.base_model.model.projector
    for k, v in projector.items():
        mine = inner.get_parameter if "weight" in k or "bias" in k else inner.get_buffer
        name = k.rpartition("projector.")[2]
        torch.testing.assert_close(mine(f"modules_to_save.default.{name}"), v)
