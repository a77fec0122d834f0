"""Model cards: one page, nothing left out, and nothing claimed that was not measured."""

from __future__ import annotations

import pytest

from curbside.agents.contract import AgentCard
from curbside.agents.cost import BuildCost
from curbside.agents.fleet import Fleet
from curbside.agents.model_card import as_html, model_card
from curbside.readings import Abstention, Reading, Response
from curbside.responses import ResponseMatrix

CARD = AgentCard(name="a", kind="openai", role="specialist", fingerprint="f" * 64,
                 modalities=("ct",), base="base/model", adapter="derm", licence="MIT",
                 intended_use="research", limits="single slices", runs_on=("gpu", "site"),
                 cost=4, cost_per_token=0.5)  # fmt: skip


def matrix() -> ResponseMatrix:
    def said(p: float) -> Reading:
        return Reading(agent="a", fingerprint="f", options=("x", "y"), probabilities=(p, 1 - p),
                       confidence=max(p, 1 - p))  # fmt: skip

    rows: list[Response] = [said(0.9), said(0.8), said(0.1), Abstention(agent="a", reason="no")]
    return ResponseMatrix.from_responses(
        list("1234"), ["a"], [("x", "y")] * 4, ["x", "x", "x", "x"], [[r] for r in rows]
    )


def test_a_card_has_everything_on_one_page() -> None:
    page = model_card(
        CARD,
        cost=BuildCost(100, 2_000, 12.4, 2048.0),
        read=matrix(),
        modalities=["ct", "ct", "ct", "mri"],
    )
    for part in ("# a", "base/model", "derm", "MIT", "research", "single slices", "gpu, site",
                 "4 a study, 0.5 a token", "100 labels, 2,000 numbers learned, 12 s", "2.0 GiB",
                 "not a medical device"):  # fmt: skip
        assert part in page
    assert "| ct | 3 | 3 | 0.67 (0.21–0.94) |" in page
    assert "| mri | 1 | 0 | – |" in page
    assert "| all | 4 | 3 | 0.67" in page
    assert len(page.splitlines()) < 60


def test_what_is_not_known_is_said() -> None:
    bare = AgentCard(name="b", kind="fake", role="generalist", fingerprint="f")
    page = model_card(bare)
    for part in ("not stated", "Not stated.", "Not built here.", "Not evaluated yet."):
        assert part in page
    assert "Not evaluated yet." in model_card(bare, read=matrix(), modalities=["ct"] * 4)


@pytest.mark.parametrize("name", ["specialist-discs", "generalist-full"])
def test_embedded_agents_have_cards(fleet: Fleet, name: str) -> None:
    page = model_card(fleet.agents[name].card, cost=fleet.build_cost[name])
    assert "labels" in page and "not for clinical use" in page


def test_a_card_as_html_keeps_its_tables_and_runs_nothing() -> None:
    page = as_html(model_card(CARD.model_copy(update={"limits": "<script>alert(1)</script>"})))
    assert "<h1>a</h1>" in page and "<td>base/model</td>" in page
    assert "<script" not in page and "&lt;script&gt;" in page
