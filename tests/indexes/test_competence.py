"""Competence: worked numbers, shrinkage, honesty about support, and which cases may teach it."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, betabinom

from curbside.assessments import Embeddings
from curbside.config import Config
from curbside.errors import (
    ImageError,
    IndexCorrupt,
    IndexMismatch,
    InternalError,
    NotBuilt,
    UserError,
)
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.features import Features
from curbside.responses import ResponseMatrix, ResponseStatus

AGENTS = ("specialist-alpha", "generalist", "silent")
READ = int(ResponseStatus.READ)


def matrix(cases: Any, right: Any, status: Any = READ) -> ResponseMatrix:
    """Two options; ``right`` (n, a) says where an agent chooses the true one, the first."""
    n, a = right.shape
    probabilities = np.where(right[:, :, None], [0.9, 0.1], [0.1, 0.9]).astype(np.float32)
    return ResponseMatrix(
        cases=tuple(str(c) for c in cases),
        agents=AGENTS[:a],
        status=np.broadcast_to(np.asarray(status, np.int8), (n, a)).copy(),
        probabilities=probabilities,
        n_options=np.full(n, 2, np.int16),
        truth=np.zeros(n, np.int16),
        confidence=np.full((n, a), 0.9, np.float32),
        latency_ms=np.zeros((n, a), np.float32),
        cost=np.ones((n, a), np.float32),
    )


def planted(cases: Any, seed: int = 0) -> ResponseMatrix:
    """The specialist is right on alpha alone, the generalist on 70 %, the third never reads."""
    rng = np.random.default_rng(seed)
    n = len(cases)
    right = np.zeros((n, 3), bool)
    right[:, 0] = rng.random(n) < np.where(cases.modalities == "alpha", 0.95, 0.3)
    right[:, 1] = rng.random(n) < 0.7
    status = np.full((n, 3), READ)
    status[:, 2] = ResponseStatus.ABSTAINED
    return matrix(cases.ids, right, status)


@pytest.fixture(scope="module")
def assessor(world: Any) -> Assessor:
    return Assessor.fit(world.cases, world.features, Config())


@pytest.fixture(scope="module")
def competence(world: Any, assessor: Assessor) -> Competence:
    tune = world.take("tune")
    return Competence.fit(assessor, tune.cases, tune.features, planted(tune.cases))


def tiny(**values: Any) -> Competence:
    """Five outcomes on two axes, one agent, one modality."""
    kept: dict[str, Any] = {
        "vectors": np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], np.float32),
        "column": np.zeros(5, np.intp),
        "correct": np.array([[1], [1], [0], [1], [0]], bool),
        "read": np.ones((5, 1), bool),
    } | values
    return Competence(
        "print",
        ("one",),
        ("m",),
        **kept,
        temperature=0.1,
        within=4.0,
        between=8.0,
        usual=0.9,
    )


def at(x: list[list[float]]) -> Embeddings:
    return Embeddings(np.array(x, np.float32), "print")


def test_worked_numbers() -> None:
    p, low, high, support = tiny().estimate(at([[1, 0]]), np.array([0]))
    far = np.exp(-1 / 0.1)  # the weight of the three at a right angle
    overall = 3.5 / 6
    as_others = (3 + 8 * overall) / (5 + 8)
    # 3 of 5 by a rate drawn as others' are, and by any rate
    a, b = 8 * overall, 8 * (1 - overall)
    odds = 9 * betabinom(5, a, b).pmf(3) / betabinom(5, 1, 1).pmf(3)
    alike = odds / (1 + odds)
    modality = alike * as_others + (1 - alike) * (3 + 1) / (5 + 2)
    near = 2 + 3 * far
    expected = (2 + far + 4 * modality) / (near + 4)
    np.testing.assert_allclose(p[0, 0], expected, rtol=1e-5)
    effective = near + 4
    np.testing.assert_allclose(support[0, 0], effective, rtol=1e-5)
    a, b = expected * effective + 0.5, (1 - expected) * effective + 0.5
    np.testing.assert_allclose(low[0, 0], beta.ppf(0.025, a, b), rtol=1e-4)
    np.testing.assert_allclose(high[0, 0], beta.ppf(0.975, a, b), rtol=1e-4)
    for values in (p, low, high, support):
        assert values.dtype == np.float32
        assert values.shape == (1, 1)


def test_near_outcomes_count_more() -> None:
    p, *_ = tiny().estimate(at([[1, 0], [0, 1]]), np.array([0, 0]))
    assert p[0, 0] > p[1, 0]


def test_below_the_minimum_support_nothing_is_claimed() -> None:
    read = np.array([[1], [0], [0], [0], [0]], bool)
    p, low, high, support = tiny(read=read, correct=read).estimate(at([[1, 0]]), np.array([0]))
    assert 0 < support[0, 0] < 5
    assert np.isnan([p, low, high]).all()
    p, low, high, _ = tiny().estimate(at([[1, 0]]), np.array([0]))
    assert np.isfinite([p, low, high]).all()


def test_an_outcome_that_is_near_and_of_the_modality_counts_once() -> None:
    x = np.array([[1, 0]] * 7, np.float32)
    right = np.ones((7, 1), bool)
    here = Embeddings(np.array([[1, 0]], np.float32), "print")
    for own, beside, said in ((4, 0, False), (4, 1, True), (5, 0, True), (0, 5, True)):
        n = own + beside
        c = Competence(
            "print",
            ("one",),
            ("m", "other"),
            x[:n],
            np.repeat([0, 1], [own, beside]),
            right[:n],
            right[:n],
            temperature=0.1,
            within=4.0,
            between=8.0,
            usual=0.9,
        )
        p, *_ = c.estimate(here, np.array([0]))
        assert np.isfinite(p[0, 0]) == said, (own, beside)


def test_far_from_every_outcome_the_coarse_rate_stands_with_a_wide_interval() -> None:
    x = np.array([[1, 0, 0]] * 50 + [[0, 1, 0]] * 50, np.float32)
    right = np.ones((100, 1), bool)
    c = tiny(vectors=x, column=np.zeros(100, np.intp), correct=right, read=right)
    p, low, _, support = c.estimate(at([[0, 0, 1], [1, 0, 0]]), np.array([0, 0]))
    assert (p > 0.9).all()
    assert support[0, 0] == pytest.approx(4, abs=0.1)  # no more than the prior's weight
    assert low[0, 0] < 0.6 < low[1, 0]


def test_planted_competence_is_found(world: Any, assessor: Assessor, competence: Any) -> None:
    pooled, modalities = world.pooled("test"), world.take("test").cases.modalities
    p, low, high, support = competence.estimate(
        assessor.embed(pooled), assessor.modality_of(pooled)
    )
    alpha, beta_ = modalities == "alpha", modalities == "beta"
    assert p[alpha, 0].mean() == pytest.approx(0.95, abs=0.06)
    assert p[beta_, 0].mean() == pytest.approx(0.3, abs=0.12)
    assert p[alpha, 1].mean() == pytest.approx(0.7, abs=0.1)
    # the better agent of each modality, on nearly every case
    assert (p[alpha, 0] > p[alpha, 1]).mean() > 0.95
    assert (p[beta_, 0] < p[beta_, 1]).mean() > 0.95
    assert np.isnan(p[:, 2]).all()
    assert (support[:, 2] == 0).all()
    # fewer outcomes, wider interval
    width = (high - low)[:, 1]
    scarce = modalities == "scarce"
    assert width[scarce].mean() > width[alpha].mean()


def test_a_thin_modality_is_pulled_towards_the_overall_rate(world: Any, assessor: Any) -> None:
    """Twelve outcomes, all wrong, do not make a rate of nought where all others are right."""
    tune = world.take("tune")
    right = (tune.cases.modalities != "scarce")[:, None] | np.zeros((1, 3), bool)
    c = Competence.fit(assessor, tune.cases, tune.features, matrix(tune.cases.ids, right))
    scarce = world.take("test").cases.modalities == "scarce"
    pooled = world.pooled("test")[scarce]
    p, *_ = c.estimate(assessor.embed(pooled), assessor.modality_of(pooled))
    assert (p > 0.001).all()
    assert (p < 0.5).all()


def test_a_modality_that_an_agent_never_learned_is_not_vouched_for_by_those_that_it_did() -> None:
    """300 of 400 right elsewhere; here 3 of 14: a plain pull of strength 32 would say 0.6."""
    rng = np.random.default_rng(0)
    x = np.pad(rng.normal(size=(414, 40)), ((0, 0), (0, 1))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    far = np.eye(41, dtype=np.float32)[[40, 40]]  # at a right angle to every outcome
    right = np.r_[np.arange(400) < 300, np.arange(14) < 3][:, None]
    c = Competence(
        "print",
        ("one",),
        ("known", "new"),
        x,
        np.repeat([0, 1], [400, 14]),
        right,
        np.ones_like(right),
        temperature=0.02,
        within=8.0,
        between=32.0,
        usual=0.9,
    )
    p, *_ = c.estimate(Embeddings(far, "print"), np.array([0, 1]))
    assert p[0, 0] == pytest.approx(0.75, abs=0.01)
    assert 3 / 14 < p[1, 0] < 0.3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_intervals_hold_their_estimate(seed: int, n: int, a: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 9, 5))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    read = rng.random((n, a)) < rng.random()
    c = Competence(
        "print",
        tuple(f"agent-{i}" for i in range(a)),
        ("m", "k"),
        x[:n],
        rng.integers(0, 2, n),
        read & (rng.random((n, a)) < rng.random()),
        read,
        temperature=float(rng.choice([0.02, 0.2])),
        within=float(rng.choice([1, 64])),
        between=float(rng.choice([1, 64])),
        usual=float(rng.uniform(-1, 1)),
    )
    p, low, high, _ = c.estimate(Embeddings(x[n:], "print"), rng.integers(0, 2, 9))
    known = ~np.isnan(p)
    # too few readings in all cannot be five near or in a modality
    assert not known[:, read.sum(axis=0) < 5].any()
    assert ((low <= p) & (p <= high) & (low >= 0) & (high <= 1))[known].all()


def test_abstentions_and_failures_count_neither_way(world: Any, assessor: Assessor) -> None:
    tune = world.take("tune")
    r = planted(tune.cases)
    status = r.status.copy()
    status[::3, 1] = ResponseStatus.FAILED
    status[1::3, 1] = ResponseStatus.ABSTAINED
    less = ResponseMatrix(**{**r.__dict__, "status": status})
    c = Competence.fit(assessor, tune.cases, tune.features, less)
    pooled = world.pooled("test")
    p, _, _, support = c.estimate(assessor.embed(pooled), assessor.modality_of(pooled))
    assert np.nanmean(p[:, 1]) == pytest.approx(0.7, abs=0.12)
    assert (support[:, 1] < support[:, 0] + 1e-6).all()


def test_an_unknown_truth_teaches_nothing(world: Any, assessor: Assessor) -> None:
    tune = world.take("tune")
    r = planted(tune.cases)
    unknown = ResponseMatrix(**{**r.__dict__, "truth": np.full(len(r), -1, np.int16)})
    with pytest.raises(UserError, match="no agent has read a tune case"):
        Competence.fit(assessor, tune.cases, tune.features, unknown)


@pytest.mark.parametrize("role", ["train", "calibration", "test", ""])
def test_cases_of_other_roles_are_refused(world: Any, assessor: Assessor, role: str) -> None:
    tune = world.take("tune")
    roles = tune.cases.roles.astype("U16")
    roles[:2] = role
    with pytest.raises(UserError, match=f"2 of {len(roles)} cases have another role") as e:
        Competence.fit(assessor, tune.cases.having(roles=roles), tune.features, planted(tune.cases))
    assert (role or "none") in str(e.value)


def test_responses_of_some_cases_in_any_order(world: Any, assessor: Assessor) -> None:
    tune = world.take("tune")
    r = planted(tune.cases)
    rows = np.random.default_rng(0).permutation(len(r))[:200]
    c = Competence.fit(assessor, tune.cases, tune.features, r.take(rows))
    at = np.sort(rows)
    d = Competence.fit(assessor, tune.cases.take(at), tune.features.take(at), r.take(at))
    e = assessor.embed(world.pooled("test"))
    m = assessor.modality_of(world.pooled("test"))
    for x, y in zip(c.estimate(e, m), d.estimate(e, m), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_responses_of_cases_not_given_are_a_bug(world: Any, assessor: Assessor) -> None:
    tune = world.take("tune")
    r = planted(tune.cases)
    with pytest.raises(InternalError, match="responses are of no case given"):
        Competence.fit(assessor, tune.cases.take(np.arange(5)), tune.features.take(np.arange(5)), r)


def test_images_that_failed_teach_nothing(world: Any, assessor: Assessor) -> None:
    tune = world.take("tune")
    r = planted(tune.cases)
    failed = {i: ImageError("empty", "no bytes") for i in range(1, len(tune.cases))}
    f = tune.features
    broken = Features(f.pooled, f.digests, MappingProxyType(failed), f.fingerprint)
    c = Competence.fit(assessor, tune.cases, broken, r)
    assert len(c._vectors) == 1


def test_the_group_of_a_case_does_not_vouch_for_it(world: Any, assessor: Assessor) -> None:
    """Outcomes that only repeat within a group must not teach a narrow kernel."""
    tune = world.take("tune")
    rng = np.random.default_rng(0)
    first = np.arange(0, len(tune.cases), 2)
    rows = np.repeat(first, 2)
    coin = np.repeat(rng.random(len(first)) < 0.5, 2)[:, None] | np.zeros((1, 3), bool)
    twins = tune.cases.take(rows)
    twins = twins.having(ids=np.array([f"twin-{i}" for i in range(len(rows))]))
    features = tune.features.take(rows)
    apart = twins.having(groups=np.array([f"g{i}" for i in range(len(rows))]))
    r = matrix(twins.ids, coin)
    honest = Competence.fit(assessor, twins, features, r)
    fooled = Competence.fit(assessor, apart, features, r)
    assert fooled.within < honest.within


# -- bound to the assessor ---------------------------------------------------------------


def test_bound_competence_is_the_same_alone_and_in_a_batch(
    world: Any, assessor: Assessor, competence: Competence
) -> None:
    names = ("generalist", "specialist-alpha", "never-seen")
    bound = assessor.bind(names, {"alpha": "specialist-alpha"}, competence)
    pooled = world.pooled("test")
    a = bound.assess(pooled)
    own = competence.estimate(assessor.embed(pooled), a.modality)
    np.testing.assert_allclose(a.competence[:, 0], own[0][:, 1], atol=1e-6)
    np.testing.assert_allclose(a.competence[:, 1], own[0][:, 0], atol=1e-6)
    assert np.isnan(a.competence[:, 2]).all()
    assert (a.competence_support[:, 2] == 0).all()
    one = bound.assess(pooled[7:8])
    for name in ("competence", "competence_low", "competence_high", "competence_support"):
        np.testing.assert_array_equal(getattr(one, name)[0], getattr(a, name)[7])


def test_competence_of_other_embeddings_is_refused(
    world: Any, assessor: Assessor, competence: Competence
) -> None:
    other = Features(world.features.pooled, world.features.digests, {}, "encoder-b")
    with pytest.raises(IndexMismatch, match="curbside build"):
        Assessor.fit(world.cases, other, Config()).bind(AGENTS, {}, competence)
    with pytest.raises(IndexMismatch):
        competence.estimate(at([[1, 0]]), np.array([0]))


# -- on disk ----------------------------------------------------------------------------


def test_survives_storage(
    world: Any, assessor: Assessor, competence: Competence, tmp_path: Path
) -> None:
    competence.save(tmp_path / "competence")
    again = Competence.load(tmp_path / "competence")
    assert again.digest == competence.digest
    e = assessor.embed(world.pooled("test"))
    m = assessor.modality_of(world.pooled("test"))
    for x, y in zip(competence.estimate(e, m), again.estimate(e, m), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_digest_follows_the_outcomes(world: Any, assessor: Any, competence: Any) -> None:
    tune = world.take("tune")
    other = Competence.fit(assessor, tune.cases, tune.features, planted(tune.cases, seed=1))
    assert other.digest != competence.digest


def test_damage_and_absence_are_told(competence: Competence, tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="no competence"):
        Competence.load(tmp_path / "competence")
    competence.save(tmp_path / "competence")
    path = tmp_path / "competence" / "outcomes.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-3])
    with pytest.raises(IndexCorrupt, match=r"outcomes\.safetensors"):
        Competence.load(tmp_path / "competence")
