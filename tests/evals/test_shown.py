"""Cases shown in a report: only when asked for, with what the readings rest on."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.cases import read_cases
from curbside.evals.shown import shown_cases
from curbside.readings import Explanation


class Explaining(FakeAgent):
    def explain(self, study, option):
        return Explanation(kind="class_activation", option=option, grid=((1.0, -1.0),), share=0.5)


@pytest.fixture
def cases(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(path)
        rows.append([path.name, "ct" if i % 2 else "mri", "x", "t", "x|y", "test"])
    rows.append(["gone.png", "ct", "x", "t", "x|y", "test"])
    path = tmp_path / "manifest.csv"
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["image", "modality", "label", "task", "options", "role"])
        writer.writerows(rows)
    return read_cases(path)


def fleet(specialist=Explaining):
    def agent(kind, name, p):
        role = "generalist" if name == "g" else "specialist"
        return kind(AgentCard(name=name, kind="fake", role=role, fingerprint=name), lambda q: p)

    agents = {"s": agent(specialist, "s", [0.9, 0.1]), "g": agent(FakeAgent, "g", [0.2, 0.8])}
    return SimpleNamespace(agents=agents, specialists={"ct": "s"}, generalist="g")


def test_cases_are_read_by_their_specialist_and_overlaid_where_that_is_known(cases):
    shown = shown_cases(fleet(), cases, 7)
    assert len(shown) == 6, "the one whose image is gone is passed over"
    by_specialist = [s for s in shown if s.title.endswith("by s")]
    assert len(by_specialist) == 3 and all(len(s.pictures) == 2 for s in by_specialist)
    assert "ct: x (0.90, right)" in by_specialist[0].title
    assert (
        "orange speaks for x" in by_specialist[0].rests_on and "50 %" in by_specialist[0].rests_on
    )
    rest = [s for s in shown if s.title.endswith("by g")]
    assert all(len(s.pictures) == 1 for s in rest)
    assert "y (0.80, wrong: x)" in rest[0].title and "no explanation" in rest[0].rests_on
    assert len(shown_cases(fleet(), cases, 2)) <= 2
    nobody = fleet(lambda card, answer: FakeAgent(card, lambda q: None))
    assert all(s.title.endswith("by g") for s in shown_cases(nobody, cases, 7))
    assert shown_cases(fleet(), cases.take(np.array([], np.intp)), 3) == []
