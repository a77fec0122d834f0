"""Models in process: tiny random LLaVA and Idefics3, base and adapters, under the same contract."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_models import save_adapter, save_idefics3, save_llava

from curbside.agents.conformance import CHECKS, Subject
from curbside.agents.fleet_spec import CardSpec, Decoding, Limits, TransformersSpec
from curbside.agents.injections import picture, study_of
from curbside.agents.transformers_agent import open_transformers_agent
from curbside.agents.vision import VisionAgent
from curbside.readings import Failure, Reading
from curbside.study import Question, QuestionKind

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
ASKED = Question(options=("benign", "malignant", "normal"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    save_llava(folder / "llava")
    save_adapter(folder / "llava", folder / "derm", seed=1)
    save_idefics3(folder / "idefics3")
    yield folder


def opened(folder: Path, base: str, adapter: str = "") -> VisionAgent:
    spec = TransformersSpec(
        kind="transformers",
        base=base,
        adapter=adapter,
        card=CardSpec(role="generalist", questions=tuple(QuestionKind)),
        decoding=Decoding(max_tokens=8),
        limits=Limits(images=2, greatest_side=64, text=200),
    )
    return open_transformers_agent("local", spec, folder)


@pytest.fixture(params=["llava", "idefics3", "derm"], scope="module")
def subject(request: pytest.FixtureRequest, models: Path) -> Subject:
    if request.param == "derm":
        return Subject(opened(models, "llava", "derm"), ASKED)
    return Subject(opened(models, request.param), ASKED)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_conforms(check: Callable[[Subject], None], subject: Subject) -> None:
    check(subject)


def probabilities(agent: VisionAgent, seed: int) -> tuple[float, ...]:
    reading = agent.read(study_of(picture(seed), question=ASKED))
    assert isinstance(reading, Reading)
    return reading.probabilities


def test_an_adapter_is_another_agent_that_says_something_else(models: Path) -> None:
    base, adapted = opened(models, "llava"), opened(models, "llava", "derm")
    assert base.card.fingerprint != adapted.card.fingerprint
    assert adapted.card.adapter == "derm"
    assert not np.allclose(probabilities(base, 0), probabilities(adapted, 0), atol=1e-4)
    assert not np.allclose(probabilities(base, 0), probabilities(base, 1), atol=1e-6)


def test_a_folder_with_other_weights_has_another_fingerprint(models: Path, tmp_path: Path) -> None:
    save_llava(tmp_path / "llava", seed=5)
    first, second = opened(models, "llava").card, opened(tmp_path, "llava").card
    assert first.fingerprint != second.fingerprint


def test_a_model_that_cannot_be_loaded_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    failed = opened(tmp_path, "broken").read(study_of(picture(0), question=ASKED))
    assert isinstance(failed, Failure)
    assert failed.kind == "unavailable"
    assert str(tmp_path) not in failed.message


def test_an_adapter_of_another_base_is_a_failure_and_not_the_base(models: Path) -> None:
    """peft would leave it out with a warning, and the base would answer in its name."""
    failed = opened(models, "idefics3", "derm").read(study_of(picture(0), question=ASKED))
    assert isinstance(failed, Failure) and failed.kind == "unavailable"
    assert "adapter derm belongs to another base" in failed.message


def test_a_pickled_checkpoint_is_not_opened(models: Path, tmp_path: Path) -> None:
    import shutil

    import torch

    shutil.copytree(models / "llava", tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    weights.unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    failed = opened(tmp_path, "pickled").read(study_of(picture(0), question=ASKED))
    assert isinstance(failed, Failure) and failed.kind == "unavailable"


def test_a_prompt_that_the_model_cannot_take_does_not_lose_the_others(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = opened(models, "llava")
    engine: Any = agent.engine
    real, calls = engine._inputs, iter([True, False, False, False])

    def sometimes(processor: Any, same: Any, ask: Any) -> Any:
        if next(calls, False):
            raise ValueError("jane doe")
        return real(processor, same, ask)

    monkeypatch.setattr(engine, "_inputs", sometimes)
    studies = [study_of(picture(i), question=ASKED, id=str(i)) for i in range(2)]
    first, second = agent.read_batch(studies)
    assert isinstance(first, Failure) and first.message == "ValueError"
    assert isinstance(second, Reading)


@pytest.mark.parametrize(("base", "adapter"), [("llava", ""), ("llava", "derm"), ("idefics3", "")])
def test_images_are_made_once_for_all_orders_and_change_nothing(
    base: str, adapter: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = [study_of(picture(i), picture(i + 7), question=ASKED) for i in (0, 1, 0)]

    def answers(agent: VisionAgent) -> list[tuple[float, ...]]:
        said = agent.read_batch(studies)
        assert all(isinstance(r, Reading) for r in said), said
        return [r.probabilities for r in said if isinstance(r, Reading)]

    agent = opened(models, base, adapter)
    engine: Any = agent.engine
    model, processor, _ = engine._load()
    own = model.get_base_model() if adapter else model
    towers: list[Any] = []
    prepared: list[Any] = []
    tower = own.model.vision_tower if base == "llava" else own.model.vision_model
    tower.register_forward_hook(lambda *seen: towers.append(seen))
    whole = processor.image_processor._whole

    def prepare(*images: Any, **given: Any) -> Any:
        prepared.append(images)
        return whole(*images, **given)

    monkeypatch.setattr(processor.image_processor, "_whole", prepare)
    # named by the processors of some families
    monkeypatch.setattr(
        type(processor.image_processor), "__getattr__", lambda _, n: getattr(whole, n)
    )
    got = answers(agent)
    assert len(towers) == len(prepared) == 3  # of nine prompts: three orders of three studies
    assert got[0] == got[2] != got[1]

    plain = opened(models, base, adapter)
    engine = plain.engine
    _, processor, same = engine._load()
    processor.image_processor = processor.image_processor._whole
    monkeypatch.setattr(same, "featured", lambda inputs: inputs)
    assert answers(plain) == got  # bit for bit


def test_what_a_processor_takes_out_is_there_for_the_next(models: Path) -> None:
    """Idefics3's processor takes rows and columns out of what its image processor gives."""
    from curbside.agents.same_images import _Prepared

    made: list[int] = []

    def whole(images: Any, **given: Any) -> dict[str, Any]:
        made.append(len(images))
        return {"rows": 1, **given}

    kept = _Prepared(whole)
    one, other = object(), object()
    assert kept([[one]], size=3).pop("rows") == 1
    assert kept([one], size=3) == {"rows": 1, "size": 3} and made == [1]
    for images, given in (([other], {"size": 3}), ([other], {"size": 4}), ([other, one], {})):
        kept(images, **given)
    assert made == [1, 1, 1, 2]
