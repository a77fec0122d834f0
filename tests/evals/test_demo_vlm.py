"""``curbside demo-vlm`` from start to end over phantoms, with a tiny language model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))

from tiny_language import deep

from curbside.agents import kinds
from curbside.agents.finetuning.card import read_card
from curbside.agents.small_vlm import language, stored
from curbside.cli import app
from curbside.phantoms import write_phantoms
from curbside.storage import tree_digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
CONFIG = """
fleet: {specialist_minimum: 12, shots: 4}
index: {stratum_minimum: 8}
policy: {kind: tier, minimum_support: 12}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "curbside.yaml").write_text(CONFIG, encoding="utf-8")
    manifest = write_phantoms(folder / "phantoms", scale=0.12)
    asked = manifest.parent / "vqa" / "vqa-rad"
    asked.mkdir(parents=True)
    pictures = sorted((manifest.parent).rglob("*.png"))[:12]
    rows = []
    for i, picture in enumerate(pictures):
        closed = i % 2 == 0
        rows.append({
            "qid": str(i), "image": str(picture), "question": f"Is it {i}?" if closed else "What?",
            "answer": ("Yes", "No")[i // 2 % 2] if closed else "a shadow",
            "answer_type": "CLOSED" if closed else "OPEN",
            "split": "train" if i < 8 else "test",
        })  # fmt: skip
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (asked / "qa.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def tiny(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CURBSIDE_HOME", str(home))
    monkeypatch.setattr(language, "language_file", lambda: None)
    monkeypatch.setattr(language, "load_language", deep)
    monkeypatch.setattr(stored, "load_language", deep)
    monkeypatch.setattr(kinds, "find_spec", lambda _: object())
    yield


def demo(home: Path) -> str:
    manifest = home / "phantoms" / "manifest.csv"
    given = ["--cases", manifest, "--seeds", "2", "--lessons", "8", "--phantoms"]
    result = CliRunner().invoke(app, ["demo-vlm", *map(str, given)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_from_nothing_to_a_place_in_the_table(home: Path) -> None:
    said = demo(home)
    assert "modality, common" in said and "VQA-RAD open, published, F1" in said
    assert re.search(r"small-vlm (earns|does not earn) (its|a) place", said)
    summary = json.loads((home / "evaluation-vlm" / "summary.json").read_text("utf-8"))
    assert summary["arms"]["small-vlm"]["kind"] == "colleague"
    assert summary["phantoms"]
    assert summary["build_cost"]["small-vlm"]["trainable_parameters"] > 0
    assert any(c.get("agent") == "small-vlm" for c in summary["controls"])
    page = (home / "evaluation-vlm" / "cards" / "small-vlm.md").read_text("utf-8")
    assert "labels," in page and "Not built here" not in page and "| all |" in page


def test_its_card_says_where_it_comes_from(home: Path) -> None:
    (agent,) = (home / "small-vlm").glob("agent-*")
    card = read_card(agent)
    assert card.agent == "small-vlm" and card.seed == 0 and card.unusable == 0
    assert card.labels == sum(card.tasks.values()) > 0
    assert card.tasks["visual questions"] == 8
    assert 0 < card.share < 1
    assert card.seconds > 0 and card.peak_mib > 100
    assert card.metrics["align, seconds"] is not None and "temperature" in card.metrics
    assert 0 <= (card.metrics["label, shuffled"] or 0) <= 1
    assert not any("published" in m for m in card.metrics)
    page = (agent / "README.md").read_text("utf-8")
    assert "## Intended use" in page and "shuffled" in page


def test_again_it_does_nothing(home: Path) -> None:
    before = tree_digest(home / "small-vlm"), tree_digest(home / "evaluation-vlm")
    said = demo(home)
    assert "parts to make" not in said
    assert (tree_digest(home / "small-vlm"), tree_digest(home / "evaluation-vlm")) == before


def test_the_fleet_card_is_that_of_other_agents(home: Path) -> None:
    given = ["fleet", "card", "small-vlm", "--fleet", str(home / "small-vlm.fleet.yaml")]
    said = CliRunner().invoke(app, given, catch_exceptions=False).output
    assert "# small-vlm" in said and "numbers learned" in said
