"""A whole run over drawn images with a tiny language model: made, judged, put into a fleet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))

from small_world import REAL_EYES, write_world
from tiny_language import base, short
from typer.testing import CliRunner

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.agents.fleet_spec import CardSpec, SmallVlmSpec
from curbside.agents.small_vlm import language, stored
from curbside.agents.small_vlm.agent import open_small_vlm_agent
from curbside.cli import app
from curbside.errors import UserError
from curbside.evals.small_vlm_run import Run
from curbside.indexes.encoder import Lite0Encoder
from curbside.indexes.features import FeatureSource
from curbside.readings import Reading

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FeatureSource:
    return FeatureSource(Lite0Encoder(threads=1), folder=tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, source: FeatureSource) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("world")
    cases, asked = write_world(folder)
    yield Run(folder / "vlm", cases, asked, source, base, plan=REAL_EYES, courses=short(2))


def always_benign() -> FakeAgent:
    card = AgentCard(name="g", kind="fake", role="generalist", fingerprint="f")
    return FakeAgent(card, lambda q: [float(o == "benign") for o in q.options])


def test_every_line_has_its_controls(run: Run) -> None:
    rows = run.table(SEEDS, {"G16": always_benign()})
    names = [r.name for r in rows]
    assert names[:3] == ["modality, common", "modality, rare", "label"]
    assert [n for n in names if n.endswith("published")] == [
        "VQA-RAD closed, published", "VQA-RAD open, published",
    ]  # fmt: skip
    assert len(rows) == 9
    for row in rows:
        assert {"without", "blank", "shuffled"} <= set(row.controls)
        assert len(row.seeds) == 2 and row.n > 0
    label = rows[2]
    assert label.n == 16 and label.controls["G16"][0] == 0.5
    assert run.facts(SEEDS)["images to learn from"] == "24"


def test_what_was_said_is_not_asked_again(
    run: Run, source: FeatureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run.table(SEEDS, {})

    def never() -> NoReturn:
        raise AssertionError("the language model was opened")

    again = Run(
        run.folder, run.cases, run.questions, source, never,
        plan=run.plan, courses=run.courses,
    )  # fmt: skip
    assert again.table(SEEDS, {}) == first


def test_the_agent_reads_as_the_evaluation_did(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "load_language", base)
    folder = run.agent(0)
    assert run.agent(0) == folder and folder.name.startswith("agent-")
    spec = SmallVlmSpec(kind="small-vlm", folder=folder.name, card=CardSpec(role="generalist"))
    agent = open_small_vlm_agent("small", spec, folder.parent)
    cases, _ = run.judged("test").where(run.has_known_task)
    scores = run.labels(0).said
    said = agent.read_batch([c.study() for c in cases[:6]])
    for reading, case, score in zip(said, cases[:6], scores[:6], strict=True):
        assert isinstance(reading, Reading), reading
        assert reading.answer == case.options[int(np.argmax(score))]


def test_without_visual_questions_it_reads_the_corpus(run: Run, source: FeatureSource) -> None:
    alone = Run(run.folder, run.cases, None, source, base, plan=run.plan, courses=run.courses)
    assert alone.finished(0).name == "read"
    assert [r.name for r in alone.table([0], {})] == ["modality, common", "modality, rare", "label"]


def test_a_manifest_without_train_cases_is_refused(run: Run, source: FeatureSource) -> None:
    some = run.cases.take(run.cases.where(role="test"))
    with pytest.raises(UserError, match="no case of role train"):
        Run(run.folder, some, None, source, base).finished(0)


def test_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(language, "files", gone)
    result = CliRunner().invoke(app, ["demo-vlm"])
    assert result.exit_code != 0
    assert "extra 'vlm'" in str(result.exception)
