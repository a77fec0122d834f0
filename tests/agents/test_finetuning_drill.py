"""The kill drill itself: few points here, twenty by ``curbside bench finetune-kill``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from test_finetuning_encoders import save_towers
from tests_finetuning_world import rows, write

from curbside.agents.finetuning import kill_drill as module
from curbside.agents.finetuning.kill_drill import kill_drill
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
