"""The kill drill itself: few points here, twenty by ``curbside bench finetune-kill``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from test_finetuning_encoders import save_towers
from tests_finetuning_world import rows, write

from curbside.agents.device import on_threads
from curbside.agents.finetuning import adapting
from curbside.agents.finetuning import kill_drill as module
from curbside.agents.finetuning.adapting import adapt
from curbside.agents.finetuning.card import AdapterCard, read_card
from curbside.agents.finetuning.kill_drill import kill_drill
from curbside.agents.finetuning.recipe import Recipe
from curbside.agents.fleet_spec import FleetSpec
from curbside.cli import app
from curbside.errors import InternalError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.*:FutureWarning", "ignore:.*fork.*:DeprecationWarning"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drill")
    save_towers(folder)
    write(folder / "cases", [r for r in rows(32) if "task" in r])
    return folder


def test_killed_trainings_end_with_the_same_adapter(world: Path, tmp_path: Path) -> None:
    cases = world / "cases" / "cases.jsonl"
    found = kill_drill(str(world / "vit"), cases, tmp_path, points=2)
    assert found.points == found.same == 2 and found.kills >= 2
    assert not (tmp_path / "killed").exists()


def test_the_command_tells_an_adapter_that_differs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([{"a": "1"}, {"a": "2"}])
    monkeypatch.setattr(module, "_learned", lambda _: next(made))
    monkeypatch.setattr(module, "_whole", lambda _: None)
    monkeypatch.setattr(module, "_killed", lambda *_: True)
    done = CliRunner().invoke(app, ["bench", "finetune-kill", "--points", "1", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout.splitlines()[-1])["same"] == 0


def test_it_goes_on_on_as_many_threads_as_it_began(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another number the last digits would be others."""
    spec = FleetSpec.model_validate({"agents": {"embedded": {"kind": "embedded"}}})

    def train(out: Path) -> AdapterCard:
        manifest = world / "cases" / "cases.jsonl"
        recipe = Recipe(method="linear")
        return adapt(str(world / "vit"), manifest, out, spec, Path(), recipe, shots=None, seed=0)[0]

    with on_threads(1):
        assert train(tmp_path / "one").machine.endswith(", 1 thread")
    seen = []

    def counted(_: str, __: Any, ___: Any, ____: Any, out: Path) -> tuple[AdapterCard, bool]:
        seen.append(torch.get_num_threads())
        return read_card(tmp_path / "one"), True

    monkeypatch.setattr(adapting, "finetune_encoder", counted)
    with on_threads(2):
        train(tmp_path / "one")
        train(tmp_path / "new")
        assert torch.get_num_threads() == 2
    assert seen == [1, 2]


def test_a_kill_waits_until_there_is_something_to_go_on_from(tmp_path: Path) -> None:
    written = tmp_path / "checkpoint"

    def work() -> None:
        time.sleep(0.2)
        written.touch()
        time.sleep(60)

    assert module._killed(work, 0.0, written.exists) and written.exists()
    assert not module._killed(lambda: None, 0.0, lambda: False), "it had ended by itself"


def test_a_training_that_fails_by_itself_is_no_kill(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="nobody killed"):
        kill_drill(str(world / "vit"), tmp_path / "none.csv", tmp_path, points=1)
