"""The trial of the drift check: a foreign source is seen, its absence is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from curbside.cases import Cases, read_cases
from curbside.config import Config, IndexConfig, ProjectionConfig
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.drift_trial import PERTURBATIONS, drift_trial
from curbside.indexes.encoder import FakeEncoder
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.views import Views

SIZES = {"train": 40, "tune": 12, "calibration": 40, "test": 20}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Two modalities; the first has a second source with a bright stripe."""
    folder = tmp_path_factory.mktemp("trial")
    rng = np.random.default_rng(0)
    lines = ["image,modality,role,group,dataset"]
    for modality, dataset, n in (("xray", "a", 1.0), ("xray", "b", 0.6), ("ct", "c", 1.0)):
        for role, size in SIZES.items():
            for i in range(round(n * size)):
                x = np.full((16, 16, 3), 200.0 if modality == "xray" else 60.0)
                if dataset == "b":
                    x[:, 10:14] = 20
                x += rng.normal(0, 30, x.shape)
                name = f"{dataset}-{role}-{i}.png"
                Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(folder / name)
                lines.append(f"{name},{modality},{role},{name},{dataset}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return read_cases(folder / "manifest.csv")


CONFIG = Config(index=IndexConfig(neighbours=5, stratum_minimum=20))
CONFIG = CONFIG.model_copy(
    update={
        "encoder": CONFIG.encoder.model_copy(update={"projection": ProjectionConfig(kind="none")})
    }
)


def test_half_of_another_source_is_seen_and_none_of_it_is_not(cases: Cases) -> None:
    seen: list[str] = []
    rows = drift_trial(
        cases,
        FeatureSource(FakeEncoder(dimensions=24)),
        CONFIG,
        window=30,
        windows=6,
        done=lambda r: seen.append(r.change),
    )
    by = {r.change: r for r in rows}
    assert seen == ["0% b", "10% b", "50% b", *PERTURBATIONS]
    assert by["0% b"].drifted < 0.4
    assert by["50% b"].drifted == 1
    assert by["50% b"].flagged > by["0% b"].flagged
    assert {r.modality for r in rows} == {"xray"}
    assert json.loads(json.dumps(rows[0].to_json()))["cases"] == 30


def test_the_index_on_trial_is_fitted_with_copies_of_the_cases_it_has(
    cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FeatureSource(FakeEncoder(dimensions=24))
    pooled = source.of(cases.studies()).pooled
    given: list[Views] = []
    fit = Assessor.fit

    def spied(known: Cases, features: Features, config: Config, views: Views) -> Assessor:
        given.append(views)
        assert np.array_equal(features.pooled[views.rows], views.pooled)
        return fit(known, features, config, views)

    monkeypatch.setattr(Assessor, "fit", spied)
    views = Views(np.arange(len(cases)), pooled)
    drift_trial(cases, source, CONFIG, views=views, windows=1, perturb=False)
    left_out = sum(c.attributes["dataset"] == "b" for c in cases)
    assert [len(v.rows) for v in given] == [len(cases) - left_out]


def test_a_manifest_without_sources_is_the_user_s_to_mend(cases: Cases) -> None:
    with pytest.raises(UserError, match="no modality has a second source"):
        drift_trial(cases, FeatureSource(FakeEncoder(dimensions=24)), CONFIG, column="scanner")
