"""Stability of routes: what a route is, and that changes of the picture are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curbside.cases import Case, Cases
from curbside.config import Config, IndexConfig, ProjectionConfig, TierPolicy
from curbside.errors import UserError
from curbside.evals.stability import first_route, measure_stability, stability_markdown
from curbside.indexes.assess import Assessor
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import FeatureSource
from curbside.router.policies import make_policy
from curbside.study import Study

AGENTS = ("specialist-red", "generalist")
TIER = TierPolicy(minimum_support=10)
POLICY = make_policy(TIER, agents=AGENTS, generalist="generalist")


def picture(colour: tuple[int, int, int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    image = np.full((24, 24, 3), colour, float) + rng.normal(0, 40, (24, 24, 3))
    image[rng.integers(12) :, rng.integers(12) :] *= rng.uniform(0.3, 0.9)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Assessor, FakeEncoder, list[Study]]:
    """Red cases have a specialist, blue ones do not; the last study cannot be read."""
    cases, studies = [], []
    colours = {"red": (200, 40, 40), "blue": (40, 40, 200)}
    for role, n in (("train", 30), ("calibration", 40), ("test", 8)):
        for m, colour in colours.items():
            for i in range(n):
                path = tmp_path / f"{role}-{m}-{i}.png"
                Image.fromarray(picture(colour, len(cases))).save(path)
                c = Case(path.stem, path, modality=m, label=f"l{i % 2}", role=role, group=path.stem)
                cases.append(c)
                if role == "test":
                    studies.append(c.study())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    encoder = FakeEncoder()
    table = Cases(cases, tmp_path / "cases.csv")
    features = FeatureSource(encoder).of(table.studies())
    config = Config(
        index=IndexConfig(stratum_minimum=10),
    )
    config = config.model_copy(
        update={
            "encoder": config.encoder.model_copy(
                update={"projection": ProjectionConfig(kind="none")}
            )
        }
    )
    a = Assessor.fit(table, features, config).bind(AGENTS, {"red": "specialist-red"})
    return a, encoder, [*studies, Study.from_image(broken, id="broken")]


def test_a_route_is_whom_is_asked_and_whether_it_is_held(world: Any) -> None:
    assessor, encoder, studies = world
    pooled = FeatureSource(encoder).of(studies[:-1]).pooled
    found = assessor.assess(pooled)
    calm = replace(found, p_value=np.ones(len(found)))
    routes = first_route(calm, POLICY, 0.05)
    assert set(routes[:8]) == {1}  # the specialist alone
    assert set(routes[8:]) == {2}  # the generalist alone
    held = first_route(replace(found, p_value=np.zeros(len(found))), POLICY, 0.05)
    assert (held < 0).all()
    assert not set(held.tolist()) & set(routes.tolist())


def test_what_changes_nothing_changes_no_route(world: Any) -> None:
    assessor, encoder, studies = world

    def turned_blue(rgb: Any) -> Any:
        return rgb[:, :, ::-1].copy()

    found = measure_stability(
        assessor,
        POLICY,
        0.0,
        encoder,
        studies,
        perturbations={"nothing": lambda x: x, "jpeg-50": turned_blue},
    )
    nothing, swapped = found
    assert nothing.n == 16  # the broken one is not routed, so it is not counted
    assert (nothing.same, nothing.gate, nothing.modality) == (1, 1, 1)
    assert nothing.low == pytest.approx(0.05 ** (1 / 16))
    assert nothing.holds and nothing.size == "small"
    # red for blue: another modality, another reader
    assert swapped.modality == 0 and swapped.same == 0
    assert not swapped.holds and swapped.size == "larger"
    text = stability_markdown(found)
    assert "| nothing | 100.0%" in text
    assert "90% NOT held" in text


def test_what_is_newly_held_is_counted(world: Any) -> None:
    assessor, encoder, studies = world

    def noise(rgb: Any) -> Any:
        return np.random.default_rng(0).integers(0, 255, rgb.shape, np.uint8)

    (found,) = measure_stability(
        assessor, POLICY, 0.3, encoder, studies[:-1], perturbations={"noise": noise}
    )
    before = assessor.assess(FeatureSource(encoder).of(studies[:-1]).pooled).p_value <= 0.3
    assert found.to_novel + before.mean() - found.from_novel <= 1
    assert found.gate == pytest.approx(1 - found.to_novel - found.from_novel)


def test_no_image_is_the_user_s_to_mend(world: Any) -> None:
    assessor, encoder, studies = world
    with pytest.raises(UserError, match="no case has an image"):
        measure_stability(assessor, POLICY, 0.05, encoder, studies[-1:])
