"""Routing a manifest through the router, kept and reused; pages made from a result."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from curbside.cases import read_cases
from curbside.config import Config
from curbside.evals.markdown import benchmark_page
from curbside.evals.routing import routed
from curbside.indexes.features import Features
from curbside.readings import CaseRecord, Outcome, Reason, Status, Tier, Versions


def record(study, tier: Tier, status: Status) -> CaseRecord:
    answer = "yes" if status is Status.ANSWERED else None
    return CaseRecord(
        case=study.id,
        content="x",
        tier=tier,
        outcome=Outcome(
            status=status, route=("g",), answer=answer, reasons=(Reason(code="c", text="t"),)
        ),
        versions=Versions(code="", encoder="", index="", calibration="", policy="", fleet=""),
    )


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A workspace and a router that count what they are asked."""
    (tmp_path / "m.csv").write_text("image\na.png\nb.png\nc.png\n")
    cases = read_cases(tmp_path / "m.csv")
    seen = []

    class FakeRouter:
        @classmethod
        def from_config(cls, path):
            return cls()

        def close(self):
            """Nothing is open."""

        def read_batch(self, studies, *, label=""):
            seen.append(len(studies))
            kinds = [
                (Tier.COMMON, Status.ANSWERED),
                (Tier.NOVEL, Status.NEEDS_REVIEW),
                (Tier.COMMON, Status.NOT_ANALYSED),
            ]
            return [record(s, *k) for s, k in zip(studies, kinds, strict=True)]

    monkeypatch.setattr("curbside.router.api.Router", FakeRouter)
    features = Features(
        np.zeros((3, 2), np.float32), ("1", "2", "3"), MappingProxyType({}), "encoder"
    )
    workspace = SimpleNamespace(
        config=Config(),
        features=lambda cases, label: features,
        assessor=lambda: SimpleNamespace(calibration_digest="c"),
        fleet=lambda: SimpleNamespace(fingerprint="f"),
    )
    return workspace, cases, seen


def test_routed_once_then_read_back(opened, tmp_path):
    workspace, cases, seen = opened
    path = tmp_path / "out" / "routed.json"
    first = routed(workspace, tmp_path / "curbside.yaml", cases, path)
    assert first.outcomes == {
        "common": {"answered": 1, "not_analysed": 1},
        "novel": {"needs_review": 1},
    }
    assert list(first.answers) == [cases.ids[0]]
    assert any("1 not analysed" in line for line in first.lines())
    again = routed(workspace, tmp_path / "curbside.yaml", cases, path)
    assert seen == [3]
    assert again.reused and "nothing changed" in again.lines()[0]
    assert again.outcomes == first.outcomes


def test_another_fleet_or_a_torn_file_routes_again(opened, tmp_path):
    workspace, cases, seen = opened
    path = tmp_path / "routed.json"
    routed(workspace, tmp_path / "c", cases, path)
    workspace.fleet = lambda: SimpleNamespace(fingerprint="newer")
    routed(workspace, tmp_path / "c", cases, path)
    path.write_text(path.read_text()[:40])
    routed(workspace, tmp_path / "c", cases, path)
    assert seen == [3, 3, 3]


def test_benchmark_page_has_the_verdict_first(plant):
    from curbside.evals.evaluation import evaluate
    from curbside.evals.summary import summarise

    world = plant(lambda a, m: 0.7, per=12, draws=2)
    result = evaluate(world.everything, world.assessments, world.trained, Config(), replicates=40)
    summary = summarise(
        result,
        manifest="m.csv",
        digest="d",
        build_cost={},
        specialists={},
        versions={},
        notes=["two draws"],
        phantoms=False,
        attributes=False,
        generated_at="2026-01-02T03:04:05+00:00",
        machine="two cores",
    )
    page = benchmark_page(summary, 3600)
    verdict = summary.verdict[:1].upper() + summary.verdict[1:]
    assert page.index(verdict) < page.index("| arm |")
    assert "training seeds 0, 1" in page
    assert "2026-01-02, two cores" in page
    assert "60 minutes" in page
    assert page.count("| P1:accuracy:") == 4
    assert page.count("| P2:net_benefit:") == 4
    assert "nan" not in page
