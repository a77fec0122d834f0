"""The assessor: what it says, that a batch and one case agree, and what it refuses."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.assessments import Assessments
from curbside.config import Config, EncoderConfig, IndexConfig, ProjectionConfig
from curbside.errors import (
    ImageError,
    IndexCorrupt,
    IndexMismatch,
    InternalError,
    NotBuilt,
    StorageError,
    UserError,
)
from curbside.indexes.assess import Assessor
from curbside.indexes.conformal import Calibration
from curbside.indexes.features import Features
from curbside.indexes.posterior import vote
from curbside.indexes.tags import TAGS, disagreement

CONFIG = Config()
AGENTS = ("specialist-alpha", "generalist-full")
COLUMNS = [f.name for f in fields(Assessments) if f.name not in ("modalities", "agents", "strata")]


@pytest.fixture(scope="module")
def assessor(world: Any) -> Assessor:
    return Assessor.fit(world.cases, world.features, CONFIG)


def same(a: Assessments, b: Assessments) -> None:
    for name in COLUMNS:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, err_msg=name)


def index_config(**values: Any) -> Config:
    return Config(index=IndexConfig(**values))


# -- what it says -----------------------------------------------------------------------


def test_columns_have_the_promised_shapes_and_types(world: Any, assessor: Assessor) -> None:
    n, k, m = len(world.rows("test")), 10, 4
    a = assessor.assess(world.pooled("test"))
    assert len(a) == n
    assert a.modalities == ("alpha", "beta", "gamma", "scarce")
    expected = {
        "posterior": ((n, m), np.float32),
        "novelty": ((n,), np.float64),
        "p_value": ((n,), np.float64),
        "stratum": ((n,), np.int16),
        "stratum_n": ((n,), np.int32),
        "support": ((n,), np.int32),
        "specialist": ((n,), np.int16),
        "neighbours": ((n, k), np.int64),
        "similarity": ((n, k), np.float32),
        "tag_disagreement": ((n,), np.bool_),
        "competence": ((n, 0), np.float32),
        "competence_support": ((n, 0), np.float32),
    }
    for name, (shape, dtype) in expected.items():
        assert getattr(a, name).shape == shape, name
        assert getattr(a, name).dtype == dtype, name
    np.testing.assert_allclose(a.posterior.sum(axis=1), 1, atol=1e-5)
    assert ((a.p_value > 0) & (a.p_value <= 1)).all()
    assert (np.diff(a.similarity, axis=1) <= 0).all()


def test_known_modalities_are_recognised_and_the_unseen_is_strange(
    world: Any, assessor: Assessor
) -> None:
    a = assessor.assess(world.pooled("test"))
    truth = world.take("test").cases.modalities
    known = truth != "unseen"
    assert (np.array(a.modalities)[a.modality][known] == truth[known]).mean() > 0.99
    assert (a.p_value[~known] <= 0.05).all()
    assert (a.p_value[known] <= 0.05).mean() < 0.12


def test_the_stratum_is_that_of_the_predicted_modality_or_the_pooled_one(
    world: Any, assessor: Assessor
) -> None:
    a = assessor.assess(world.pooled("test"))
    assert a.strata == ("all", "alpha", "beta", "gamma")
    by = [a.strata[s] for s in a.stratum]
    names = np.array(a.modalities)[a.modality]
    assert by == ["all" if m == "scarce" else m for m in names]
    n = len(world.rows("calibration"))
    assert set(a.stratum_n[names == "scarce"]) == {n}


def test_thresholds_agree_with_p_values(world: Any, assessor: Assessor) -> None:
    a = assessor.assess(world.pooled("test"))
    for i in range(len(a)):
        t = assessor.threshold(0.05, a.strata[a.stratum[i]])
        assert (a.p_value[i] <= 0.05) == (a.novelty[i] >= t)


def test_support_counts_labelled_training_cases(world: Any) -> None:
    cases = world.cases
    bare = np.where((cases.modalities == "beta") & (cases.labels == "finding-1"), "", cases.labels)
    a = Assessor.fit(cases.having(labels=bare), world.features, CONFIG)
    found = a.assess(world.pooled("test"))
    support = {found.modalities[m]: s for m, s in zip(found.modality, found.support, strict=True)}
    assert support == {"alpha": 120, "beta": 80, "gamma": 120, "scarce": 18}


def test_neighbours_point_at_what_is_indexed(world: Any, assessor: Assessor) -> None:
    train = world.take("train").cases
    assert (assessor.ids == train.ids).all()
    assert (assessor.labels == train.labels).all()
    assert (assessor.neighbour_modalities == train.modalities).all()
    # an indexed case is its own nearest neighbour
    a = assessor.assess(world.pooled("train")[:50])
    assert (a.neighbours[:, 0] == np.arange(50)).all()
    np.testing.assert_allclose(a.similarity[:, 0], 1, atol=1e-5)


def test_a_small_modality_is_not_outvoted() -> None:
    similarity = np.array([[0.9, 0.9, 0.9, 0.9]], np.float32)
    p = vote(similarity, np.array([[0, 1, 1, 1]]), np.array([10, 1000]))
    assert p.argmax() == 0
    assert p.dtype == np.float32
    # one vote of 1/10 against three of 1/1000
    np.testing.assert_allclose(p[0], [0.1 / 0.103, 0.003 / 0.103], atol=2e-3)


def test_no_modality_is_ever_impossible(world: Any, assessor: Assessor) -> None:
    assert (assessor.assess(world.pooled("test")).posterior > 0).all()


# -- a batch and one case ---------------------------------------------------------------


@pytest.mark.parametrize("novelty", ["mahalanobis", "knn"])
def test_one_case_alone_gets_what_it_gets_in_a_batch(
    world: Any, novelty: Literal["mahalanobis", "knn"]
) -> None:
    a = Assessor.fit(world.cases, world.features, index_config(novelty=novelty)).bind(
        AGENTS, {"alpha": AGENTS[0]}
    )
    pooled = world.pooled("test")
    batch = a.assess(pooled)
    for i in range(0, len(pooled), 7):
        one, row = a.assess(pooled[i : i + 1]), batch.take(np.array([i]))
        same(one, row)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_batch_in_any_order(world: Any, assessor: Assessor, data: Any) -> None:
    pooled = world.pooled("test")
    rows = data.draw(st.lists(st.integers(0, len(pooled) - 1), max_size=90))
    picked = np.array(rows, np.intp)
    same(assessor.assess(pooled[picked]), assessor.assess(pooled).take(picked))


def test_many_cases_are_assessed_quickly(world: Any, assessor: Assessor) -> None:
    pooled = np.tile(world.pooled("test"), (20, 1))
    assessor.assess(pooled[:100])
    start = time.perf_counter()
    assessor.assess(pooled)
    assert len(pooled) / (time.perf_counter() - start) > 5_000


# -- agents -----------------------------------------------------------------------------


def test_binding_names_the_specialist_of_the_predicted_modality(
    world: Any, assessor: Assessor
) -> None:
    bound = assessor.bind(AGENTS, {"alpha": "specialist-alpha", "elsewhere": "generalist-full"})
    a = bound.assess(world.pooled("test"))
    assert a.agents == AGENTS
    names = np.array(a.modalities)[a.modality]
    assert (a.specialist == np.where(names == "alpha", 0, -1)).all()
    assert a.competence.shape == (len(a), 2)
    assert np.isnan(a.competence).all()
    assert (a.competence_support == 0).all()
    assert assessor.assess(world.pooled("test")).agents == ()


def test_a_specialist_that_is_no_agent_is_a_bug(assessor: Assessor) -> None:
    with pytest.raises(InternalError, match="'nobody' is none of"):
        assessor.bind(AGENTS, {"alpha": "nobody"})


# -- tags -------------------------------------------------------------------------------

CORPUS = ("ct_head", "cxr", "mri_brain", "fundus", "phantom_rings")


@pytest.mark.parametrize(
    ("tag", "seen", "expected"),
    [
        ("CT", "ct_head", False),
        ("ct ", "ct_head", False),
        ("MR", "ct_head", True),
        ("DX", "cxr", False),
        ("CR", "cxr", False),
        ("MG", "cxr", True),
        ("OP", "fundus", False),
        ("OT", "cxr", False),
        ("", "cxr", False),
        (None, "cxr", False),
        ("CT", "phantom_rings", False),
        ("cxr", "mri_brain", True),
        ("cxr", "cxr", False),
    ],
)
def test_tags_against_pixels(tag: str | None, seen: str, expected: bool) -> None:
    assert disagreement([tag], np.array([CORPUS.index(seen)]), CORPUS).tolist() == [expected]


def test_tags_are_dicom_codes() -> None:
    assert all(code.isupper() and len(code) <= 16 and names for code, names in TAGS.items())


def test_tags_change_nothing_else(world: Any, assessor: Assessor) -> None:
    pooled = world.pooled("test")
    plain = assessor.assess(pooled)
    tagged = assessor.assess(pooled, modality_tags=["beta"] * len(pooled))
    names = np.array(tagged.modalities)[tagged.modality]
    assert (tagged.tag_disagreement == (names != "beta")).all()
    for name in COLUMNS:
        if name != "tag_disagreement":
            np.testing.assert_array_equal(getattr(plain, name), getattr(tagged, name))
    with pytest.raises(InternalError, match="1 tags"):
        assessor.assess(pooled, modality_tags=["beta"])


# -- what goes in -----------------------------------------------------------------------


def test_only_train_and_calibration_matter(world: Any, assessor: Assessor) -> None:
    used = np.flatnonzero(np.isin(world.cases.roles, ["train", "calibration"]))
    less = Assessor.fit(world.cases.take(used), world.features.take(used), CONFIG)
    assert less.index_digest == assessor.index_digest
    assert less.calibration_digest == assessor.calibration_digest


def test_digests_follow_what_they_are_of(world: Any, assessor: Assessor) -> None:
    rows = np.flatnonzero(np.arange(len(world.cases)) != world.rows("calibration")[0])
    less = Assessor.fit(world.cases.take(rows), world.features.take(rows), CONFIG)
    assert less.index_digest == assessor.index_digest
    assert less.calibration_digest != assessor.calibration_digest
    other = Assessor.fit(world.cases, world.features, index_config(neighbours=3))
    assert other.fingerprint == assessor.fingerprint
    assert other.index_digest != assessor.index_digest


def test_images_that_failed_are_left_out(world: Any, assessor: Assessor) -> None:
    row = int(world.rows("train")[0])
    f = world.features
    pooled = f.pooled.copy()
    pooled[row] = 0
    broken = Features(
        pooled,
        f.digests,
        MappingProxyType({row: ImageError("truncated", "cut off")}),
        f.fingerprint,
    )
    a = Assessor.fit(world.cases, broken, CONFIG)
    assert len(a) == len(assessor) - 1
    assert world.cases.ids[row] not in a.ids


def test_calibration_cases_that_share_a_group_with_the_index_are_refused(world: Any) -> None:
    groups = world.cases.groups.copy()
    groups[world.rows("calibration")[:3]] = groups[world.rows("train")[0]]
    with pytest.raises(UserError, match=r"3 of 312 calibration cases share a group"):
        Assessor.fit(world.cases.having(groups=groups), world.features, CONFIG)


def test_calibration_images_that_are_in_the_index_are_refused(world: Any) -> None:
    f = world.features
    digests = np.array(f.digests)
    digests[world.rows("calibration")[:2]] = digests[world.rows("train")[0]]
    copied = Features(f.pooled, tuple(digests), f.failures, f.fingerprint)
    with pytest.raises(UserError, match=r"2 of 312 calibration cases share an image"):
        Assessor.fit(world.cases, copied, CONFIG)


def test_cases_without_a_group_share_none(world: Any, assessor: Assessor) -> None:
    groups = np.full(len(world.cases), "")
    a = Assessor.fit(world.cases.having(groups=groups), world.features, CONFIG)
    assert a.index_digest == assessor.index_digest


def test_letting_indexed_cases_calibrate_would_flag_everyone(world: Any) -> None:
    """The failure that the refusal prevents: with k = 1 every indexed case finds itself."""
    a = Assessor.fit(world.cases, world.features, index_config(novelty="knn"))
    a.score.k = 1  # type: ignore[attr-defined]  # the knn score's own
    test = world.take("test")
    known = test.cases.modalities != "unseen"

    def flagged(role: str) -> float:
        found = a._measure(world.pooled(role))
        b = a.with_calibration(
            Calibration.fit(found.novelty, found.posterior.argmax(axis=1), a.modalities, minimum=45)
        )
        return float((b.assess(test.features.pooled[known]).p_value <= 0.05).mean())

    assert flagged("calibration") < 0.12
    assert flagged("train") > 0.95


@pytest.mark.parametrize("role", ["train", "calibration"])
def test_a_role_without_cases_is_the_user_s_to_mend(world: Any, role: str) -> None:
    roles = np.where(world.cases.roles == role, "test", world.cases.roles)
    with pytest.raises(UserError, match=f"no .*{role}"):
        Assessor.fit(world.cases.having(roles=roles), world.features, CONFIG)


def test_features_of_other_cases_are_a_bug(world: Any) -> None:
    with pytest.raises(InternalError, match="features for"):
        Assessor.fit(world.cases, world.features.take([0, 1]), CONFIG)


def test_without_a_projection(world: Any) -> None:
    plain = Config(encoder=EncoderConfig(projection=ProjectionConfig(kind="none")))
    a = Assessor.fit(world.cases, world.features, plain)
    assert a.embed(world.pooled("test")).vectors.shape[1] == 24
    assert len(a.assess(world.pooled("test"))) == len(world.rows("test"))


def test_embeddings_carry_the_fingerprint_of_encoder_and_projection(
    world: Any, assessor: Assessor
) -> None:
    e = assessor.embed(world.pooled("test"))
    assert e.fingerprint == assessor.fingerprint
    other = Features(world.features.pooled, world.features.digests, {}, "encoder-b")
    assert Assessor.fit(world.cases, other, CONFIG).fingerprint != assessor.fingerprint
    shrunk = Config(encoder=EncoderConfig(projection=ProjectionConfig(shrinkage=0.3)))
    assert Assessor.fit(world.cases, world.features, shrunk).fingerprint != assessor.fingerprint
    assert len(assessor.embed(np.zeros((0, 24), np.float32))) == 0


# -- on disk ----------------------------------------------------------------------------


@pytest.mark.parametrize("novelty", ["mahalanobis", "knn"])
def test_survives_storage(
    world: Any, tmp_path: Path, novelty: Literal["mahalanobis", "knn"]
) -> None:
    a = Assessor.fit(world.cases, world.features, index_config(novelty=novelty))
    a.save(tmp_path / "index")
    b = Assessor.load(tmp_path / "index", encoder="encoder-a")
    same(a.assess(world.pooled("test")), b.assess(world.pooled("test")))
    for name in ("fingerprint", "index_digest", "calibration_digest", "modalities", "strata"):
        assert getattr(a, name) == getattr(b, name)
    assert a.threshold(0.05, "alpha") == b.threshold(0.05, "alpha")
    assert (a.ids == b.ids).all()


def test_the_index_of_another_encoder_is_refused(assessor: Assessor, tmp_path: Path) -> None:
    assessor.save(tmp_path / "index")
    with pytest.raises(IndexMismatch) as e:
        Assessor.load(tmp_path / "index", encoder="encoder-b")
    assert "encoder: expected encoder-b, found encoder-a" in str(e.value)
    assert "curbside build" in str(e.value)


def test_no_index_yet(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="curbside build"):
        Assessor.load(tmp_path / "index", encoder="encoder-a")


@pytest.mark.parametrize(
    "name",
    [
        "vectors.faiss",
        "projection.safetensors",
        "novelty.safetensors",
        "calibration.safetensors",
        "cases.json",
    ],
)
def test_a_damaged_index_is_refused_before_it_is_parsed(
    assessor: Assessor, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    assessor.save(tmp_path / "index")
    path = tmp_path / "index" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)

    def parsed(_: Any) -> Any:
        raise AssertionError("parsed before it was verified")

    monkeypatch.setattr(faiss, "deserialize_index", parsed)
    with pytest.raises(IndexCorrupt, match=name):
        Assessor.load(tmp_path / "index", encoder="encoder-a")


def test_an_index_made_by_other_code_is_refused(
    assessor: Assessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessor.save(tmp_path / "index")
    monkeypatch.setattr("curbside.indexes.projection._VERSION", "2")
    with pytest.raises(IndexMismatch, match="another version of the code: fingerprint"):
        Assessor.load(tmp_path / "index", encoder="encoder-a")


def test_a_disk_that_fills_leaves_the_old_index_working(
    world: Any, assessor: Assessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assessor.save(tmp_path / "index")
    before = assessor.assess(world.pooled("test"))
    other = Assessor.fit(world.cases, world.features, index_config(neighbours=3))
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "novelty.safetensors":
            write(self, data[:10])
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="what was there before is unchanged"):
        other.save(tmp_path / "index")
    monkeypatch.undo()
    loaded = Assessor.load(tmp_path / "index", encoder="encoder-a")
    same(before, loaded.assess(world.pooled("test")))
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_a_statement_about_this_calibration_set_needs_larger_strata(world: Any) -> None:
    rows = np.flatnonzero(
        (world.cases.roles != "calibration")
        | (world.cases.modalities != "gamma")
        | (world.cases.labels == "finding-0")
        | (world.cases.labels == "finding-1")
    )
    cases, features = world.cases.take(rows), world.features.take(rows)
    # 40 cases of gamma: enough for 5 % on average, not for 5 % with confidence 0.9
    plain, sure = (
        Assessor.fit(cases, features, Config(index=IndexConfig(calibration_confidence=c)))
        for c in (0.0, 0.9)
    )
    assert plain.strata == ("all", "alpha", "beta", "gamma")
    assert sure.strata == ("all", "alpha", "beta")
    assert sure.calibration_digest != plain.calibration_digest
