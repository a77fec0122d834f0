"""Judging estimates of P(correct): what is planted is found, and nothing sees its own fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curbside.config import Config
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.competence_report import WAYS, competence_report
from curbside.indexes.outcomes import Outcomes


@pytest.fixture(scope="module")
def judged(world: Any) -> Outcomes:
    """One agent is right on alpha, and its confidence says nothing; the other knows itself."""
    tune = world.take("tune")
    n = len(tune.cases)
    rng = np.random.default_rng(0)
    right = np.empty((n, 2), bool)
    right[:, 0] = rng.random(n) < np.where(tune.cases.modalities == "alpha", 0.95, 0.2)
    confidence = np.full((n, 2), 0.7, np.float32)
    confidence[:, 1] = rng.uniform(0.1, 0.95, n)
    right[:, 1] = rng.random(n) < confidence[:, 1]
    return Outcomes(
        ("place", "knows"),
        tune.features.pooled,
        tune.cases.groups,
        tune.cases.tasks,
        right,
        np.ones((n, 2), bool),
        confidence,
    )


def test_competence_and_confidence_each_help_where_they_know(world: Any, judged: Outcomes) -> None:
    assessor = Assessor.fit(world.cases, world.features, Config())
    steps: list[int] = []
    found = competence_report(assessor, judged, also=judged, advance=steps.append)
    assert steps == [1] * 5
    found = competence_report(assessor, judged)
    rows = {r.agent: dict(zip(WAYS, r.log_loss, strict=True)) for r in found.rows}
    assert list(rows) == ["", "place", "knows"]
    place, knows = rows["place"], rows["knows"]
    assert place["competence"] < place["overall rate"] - 0.1
    assert knows["competence and confidence"] < knows["competence"] - 0.05
    assert rows[""]["competence and confidence"] == min(rows[""].values())
    assert found.rows[0].known == 1
    assert found.to_json()["within"] == found.within


def test_too_few_groups_are_the_user_s_to_mend(world: Any, judged: Outcomes) -> None:
    assessor = Assessor.fit(world.cases, world.features, Config())
    one = Outcomes(**{**judged.__dict__, "groups": np.full(len(judged), "same")})
    with pytest.raises(UserError, match="5 folds by group"):
        competence_report(assessor, one)
