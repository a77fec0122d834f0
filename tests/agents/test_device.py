"""Where torch computes, and what follows it there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_language import PLAN, base, material

from curbside.agents.device import has_bfloat16, one_device, torch_device
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.finetuning.runs import Run, arguments
from curbside.agents.small_vlm import bench
from curbside.agents.small_vlm.courses import packed_batches
from curbside.agents.small_vlm.lessons import corpus_lessons
from curbside.agents.small_vlm.packing import pack


def seen(patch: pytest.MonkeyPatch, *, gpu: bool, half: bool = True) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: gpu)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda: half)


@pytest.mark.parametrize(
    ("gpu", "half", "device"),
    [(False, True, "cpu"), (True, True, "cuda:0"), (True, False, "cuda:0")],
)
def test_a_gpu_is_taken_where_torch_sees_one(
    gpu: bool, half: bool, device: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen(monkeypatch, gpu=gpu, half=half)
    assert str(torch_device()) == device
    assert has_bfloat16() is (gpu and half)
    given = arguments(Run(tmp_path / "out", {}), Recipe(), lessons=8, watched=0, seed=0)
    assert given["use_cpu"] is not gpu
    assert given["bf16"] is (gpu and half)
    assert given["gradient_checkpointing"] is gpu


def test_one_process_trains_on_one_of_several_gpus() -> None:
    for count in (0, 1, 3):
        told = SimpleNamespace(n_gpu=count, _n_gpu=count)
        assert one_device(told)._n_gpu == min(count, 1)


def test_packed_rows_move_whole() -> None:
    made = material(8)
    rows, _ = packed_batches(
        corpus_lessons(made.cases, range(8), base().wording, 0), made.features, PLAN.visual
    )
    packed = pack(rows, PLAN.visual)
    assert packed.to(torch.device("cpu")) is packed
    away = packed.to(torch.device("meta"))
    assert away.texts == packed.texts
    assert {t.device.type for t in vars(away).values() if isinstance(t, torch.Tensor)} == {"meta"}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_bench_counts_what_was_learned() -> None:
    found = bench.bench_small_vlm(base(), PLAN, lessons=30)
    told = found.to_json()
    assert (found.device, found.lessons) == ("cpu", 30)
    # an image's prefix, and a question with its answer
    assert found.tokens > 30 * (1 + PLAN.visual + 4)
    assert told["tokens_rate"] == pytest.approx(found.tokens / found.seconds)
    assert found.peak_mib > 100 and found.answers_rate > 0
