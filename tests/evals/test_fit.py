"""Fitting a policy on planted tune cases: what is chosen, what is refused, what is certified."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from curbside.config import (
    AveragePolicy,
    CascadePolicy,
    ConsultPolicy,
    PolicyProvenance,
    TierPolicy,
    load_policy,
    load_policy_file,
    save_policy,
)
from curbside.errors import ConfigError, UserError
from curbside.evals.fit import (
    KINDS,
    Seen,
    certified_curve,
    certify_floor,
    fit_policy,
    grid_of,
    refuse,
    variant_of,
    variants,
)
from curbside.evals.replay import Recording
from curbside.evals.session import refuse_seen
from curbside.indexes.risk import Point

SERVING = ("specialist-cxr", "specialist-fundus", "specialist-mri_brain", "generalist-full")


def seen(world, role="tune"):
    part = world.trained[0].tune if role == "tune" else world.trained[0].test
    recording = Recording.of(part.matrix, part.assessments, SERVING)
    groups = np.char.add(f"{role}-", part.frame.group.astype(str))
    return Seen(role, part.frame, recording, groups, "generalist-full")


@pytest.fixture
def good_specialists(plant):
    return plant(lambda a, m: 0.95 if a.endswith(m) else 0.5, per=80)


@pytest.fixture
def poor_specialists(plant):
    return plant(lambda a, m: 0.3 if a.startswith("specialist") else 0.9, per=80)


def test_the_better_reader_is_found(good_specialists, poor_specialists):
    support = fit_policy(seen(good_specialists), ["tier"]).policy.minimum_support
    assert support <= 300  # the specialists read what they have
    nobody = fit_policy(seen(poor_specialists), ["tier"]).policy.minimum_support
    assert nobody > 300  # the generalist reads all


def test_ties_go_to_the_default_and_to_the_simplest_kind(plant):
    world = plant(lambda a, m: 1.0, per=40)
    fitted = fit_policy(seen(world))
    assert fitted.policy == TierPolicy(alpha=0)
    assert list(fitted.compared) == list(variants())
    assert fitted.cross_fitted == pytest.approx(1)


def test_cross_fitting_does_not_reward_luck(plant):
    # nobody knows anything: what is best in the sample is luck, and held-out folds say so
    fitted = [
        fit_policy(seen(plant(lambda a, m: 0.5, per=60, seed=s)), ["cascade"]) for s in range(4)
    ]
    gap = [f.objective - f.cross_fitted for f in fitted]
    assert all(g >= -1e-6 for g in gap) and np.mean(gap) > 0.005


def test_a_price_keeps_from_asking_two(plant):
    world = plant(lambda a, m: 0.7, per=80)
    free = fit_policy(seen(world), ["average"])
    priced = fit_policy(seen(world), ["tier", "average"], price=0.5)
    assert isinstance(free.policy, AveragePolicy)
    assert isinstance(priced.policy, TierPolicy)


@pytest.mark.parametrize("role", ["test", "calibration", "train", ""])
def test_fitting_on_another_role_is_refused(good_specialists, role):
    with pytest.raises(UserError, match="not fitted on role"):
        fit_policy(replace(seen(good_specialists), role=role))
    with pytest.raises(UserError):
        refuse(role, "tune")


def test_nothing_to_choose_on_is_said(good_specialists):
    whole = seen(good_specialists)
    bare = replace(whole, frame=replace(whole.frame, label=np.full(len(whole.frame), "")))
    with pytest.raises(UserError, match="no tune case"):
        fit_policy(bare)


def strange(plant, at: float) -> Seen:
    """The specialist is wrong up to the p-value ``at``; the generalist, always surer, elsewhere."""
    whole = seen(plant(lambda a, m: 1.0, per=120, rare=(), novel=()))
    facts, matrix = whole.recording.assessments, whole.recording.matrix
    general = np.array([a.startswith("generalist") for a in matrix.agents])
    right = (facts.p_value <= at)[:, None] == general
    sure = np.broadcast_to(np.where(general, 0.9, 0.8), right.shape).astype(np.float32)
    choice = np.where(right, matrix.truth[:, None], (matrix.truth[:, None] + 1) % 3)
    rest = np.repeat((1 - sure)[..., None] / 2, 3, axis=2)
    np.put_along_axis(rest, choice[..., None], sure[..., None], axis=2)
    said = replace(matrix, probabilities=rest.astype(np.float32), confidence=sure)
    return replace(whole, recording=Recording.of(said, facts, SERVING))


def test_escalating_by_familiarity_is_chosen_where_it_tells_who_is_right(plant):
    fitted = fit_policy(strange(plant, 0.2), ["tier", "cascade"])
    assert isinstance(fitted.policy, CascadePolicy)
    assert fitted.policy.escalate_unfamiliar == 0.2 and fitted.policy.escalate_below <= 0.8
    assert fitted.objective == fitted.cross_fitted == pytest.approx(1)
    assert fitted.compared["tier"] < 0.9
    assert fitted.grid["escalate_unfamiliar"] == [0.1, 0.2, 0.4]
    assert "refer_disagreement" not in fitted.grid
    assert fitted.compared["cascade"] < 0.9 and variant_of(fitted.policy) in fitted.compared


def test_cases_that_the_gate_holds_back_choose_nothing(plant):
    # familiarity tells who is right only where the gate refers: there nobody answers
    fitted = fit_policy(strange(plant, 0.2), alpha=0.2)
    assert fitted.policy == TierPolicy(alpha=0)
    assert fitted.objective == pytest.approx(1)
    cascade = fit_policy(strange(plant, 0.2), ["cascade"], alpha=0.15)
    assert cascade.grid["escalate_unfamiliar"] == [0.2, 0.4]
    with pytest.raises(UserError, match="holds every tune case back"):
        fit_policy(strange(plant, 0.2), alpha=0.9999)


def test_where_familiarity_tells_nothing_it_is_left_alone(plant):
    fitted = fit_policy(strange(plant, -1.0), ["cascade"])
    assert fitted.policy == CascadePolicy(alpha=0)


def test_what_a_referral_is_worth_decides_whether_disagreement_goes_to_a_person(plant):
    whole = seen(plant(lambda a, m: 0.6, per=80))
    nothing, much = (fit_policy(whole, ["cascade"], referral=r) for r in (0.0, 0.9))
    assert isinstance(nothing.policy, CascadePolicy) and isinstance(much.policy, CascadePolicy)
    assert not nothing.policy.refer_disagreement
    assert much.policy.refer_disagreement
    assert much.grid["refer_disagreement"] == [True]
    assert much.compared[variant_of(much.policy)] > much.compared["cascade"] + 0.05
    # by hand: what is answered rightly, and 0.9 for each case that is not answered
    replayed = whole.replayed([much.policy])
    worth = replayed.right[:, 0] + 0.9 * (1 - replayed.answered[:, 0])
    by = [worth[whole.frame.modality == m].mean() for m in np.unique(whole.frame.modality)]
    assert much.objective == pytest.approx(np.mean(by), abs=1e-5)
    assert 0 < replayed.answered.mean() < 1


def test_competence_leaves_to_a_person_what_is_worth_less_than_a_referral(plant):
    whole = seen(plant(lambda a, m: 0.6, per=80))
    low, high = (fit_policy(whole, ["competence"], referral=r) for r in (0.5, 0.9))
    assert low.policy.person_cost == 1  # 0.6 is worth more than 0.5
    assert high.policy.person_cost == pytest.approx(0.1)
    assert high.objective == pytest.approx(0.9)


@pytest.mark.parametrize("referral", [0.0, 0.375])
def test_every_setting_of_a_grid_is_valid_and_distinct(referral):
    tried = variants(referral=referral)
    assert set(KINDS) <= set(tried)
    for name, (kind, keys) in tried.items():
        configs = grid_of(kind, keys)
        assert len({c.model_dump_json() for c in configs}) == len(configs)
        assert (configs[0] == KINDS[kind](alpha=0)) == (name == kind)
        assert all(type(c).model_validate(c.model_dump()) == c for c in configs)
        assert {variant_of(c) for c in configs} == {name}
    leaving = [n for n in tried if "refer_disagreement" in n or "person_cost" in n]
    assert len(leaving) == (3 if referral else 0)
    kind, keys = tried["consult"]
    whom = {c.colleagues for c in grid_of(kind, keys, ("x", "y"))}
    assert whom == {("specialist",), ("x",), ("y",), ("specialist", "x", "y")}


def test_a_certified_floor_holds_and_stricter_risk_answers_less(good_specialists):
    policy = CascadePolicy(alpha=0)
    tune, calibration = seen(good_specialists), seen(good_specialists, "calibration")
    loose = certify_floor(policy, tune, calibration, 0.3)
    strict = certify_floor(policy, tune, calibration, 0.2)
    assert strict.threshold >= loose.threshold
    assert strict.coverage[strict.best] <= loose.coverage[loose.best]
    assert strict.risk[strict.best] <= 0.2
    frame = calibration.frame
    answered = calibration.replayed([policy.model_copy(update={"floor": strict.threshold})])
    assert answered.answered[frame.scored, 0].mean() == pytest.approx(strict.coverage[strict.best])


def test_the_curve_is_the_floors_certified_one_by_one(good_specialists):
    policy, tune = TierPolicy(alpha=0), seen(good_specialists)
    calibration = seen(good_specialists, "calibration")
    points = certified_curve(policy, tune, calibration)
    assert [p.epsilon for p in points] == sorted(p.epsilon for p in points)
    assert points[-1].coverage > 0
    for p in points:
        if p.threshold is not None:
            found = certify_floor(policy, tune, calibration, p.epsilon)
            assert (found.threshold, found.coverage[found.best]) == (p.threshold, p.coverage)


def test_the_curve_is_printed_and_written(tmp_path: Path, monkeypatch, curbside_home):
    from curbside.cli import app
    from curbside.config import Config, save_config
    from curbside.evals import policy_session

    save_config(Config(), curbside_home / "curbside.yaml")
    points = (Point(0.1, None, 0.0, float("nan")), Point(0.2, 0.75, 0.6, 0.15))
    monkeypatch.setattr(policy_session, "risk_curve", lambda w, delta: points)
    result = CliRunner().invoke(app, ["policy", "risk", "--out", str(tmp_path / "risk.json")])
    assert result.exit_code == 0, result.output
    assert "  0.1      none     0.0 %  nothing can be certified" in result.output
    assert "▶ 0.2     0.750    60.0%    15.0%" in result.output
    assert "1 − δ = 0.9" in result.output
    body = json.loads((tmp_path / "risk.json").read_text())
    assert body["points"][0] == {"epsilon": 0.1, "threshold": None, "coverage": 0.0, "risk": None}


def test_a_floor_that_cannot_be_had_is_said(plant):
    world = plant(lambda a, m: 0.3, per=40)
    with pytest.raises(UserError, match="no floor keeps"):
        certify_floor(TierPolicy(alpha=0), seen(world), seen(world, "calibration"), 0.01)
    with pytest.raises(UserError, match="role 'calibration'"):
        certify_floor(TierPolicy(alpha=0), seen(world), seen(world), 0.1)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (ConsultPolicy(colleagues=("specialist", "lite2")), "colleagues specialist + lite2"),
        (TierPolicy(minimum_support=1_000_000), "hold_unproven yes, minimum_support 1000000"),
    ],
)
def test_every_kind_of_policy_can_be_printed(tmp_path, monkeypatch, curbside_home, policy, said):
    from curbside.cli import app
    from curbside.config import Config, save_config
    from curbside.evals import policy_session

    save_config(Config(), curbside_home / "curbside.yaml")
    monkeypatch.setattr(policy_session, "fit_built", lambda w, **given: (policy, PROVENANCE))
    out = tmp_path / "fitted.yaml"
    result = CliRunner().invoke(app, ["policy", "fit", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert said in result.output
    assert re.search(r"^probes    (\d+) of \1 hold$", result.output, re.M)
    assert load_policy(out) == policy
    refused = CliRunner().invoke(app, ["policy", "fit", "--out", str(out), "--role", "test"])
    assert refused.exit_code != 0 and isinstance(refused.exception, UserError)


def test_a_policy_that_fails_a_probe_is_named_at_once(tmp_path, monkeypatch, curbside_home):
    from curbside.cli import app
    from curbside.config import Config, save_config
    from curbside.evals import policy_session

    save_config(Config(), curbside_home / "curbside.yaml")
    gateless = TierPolicy(alpha=0)
    monkeypatch.setattr(policy_session, "fit_built", lambda w, **given: (gateless, PROVENANCE))
    out = tmp_path / "fitted.yaml"
    result = CliRunner().invoke(app, ["policy", "fit", "--out", str(out), "--alpha", "0"])
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^probes    \d+ of 18 hold; not .*novel-goes-to-a-person", result.output, re.M
    )


PROVENANCE = PolicyProvenance(
    role="tune",
    cases="tune-digest",
    n_cases=10,
    n_groups=9,
    fleet="f",
    index="i",
    objective="accuracy",
    grid={"refer_disagreement": [False, True], "weight": [0.1, 0.2]},
    fitted=0.8,
    cross_fitted=0.7,
    compared={"average": 0.7},
    floor_from="none",
    date="2026-11-24",
    code="0",
)


def test_a_policy_file_keeps_where_it_comes_from(tmp_path: Path):
    path = tmp_path / "policy.yaml"
    save_policy(AveragePolicy(weight=0.2), PROVENANCE, path)
    assert load_policy_file(path) == (AveragePolicy(weight=0.2), PROVENANCE)
    assert load_policy_file(path)[1].grid["refer_disagreement"][0] is False
    assert load_policy(path) == AveragePolicy(weight=0.2)
    path.write_text(path.read_text().replace("cross_fitted", "crossfitted"))
    with pytest.raises(ConfigError, match="crossfitted"):
        load_policy_file(path)


def test_reporting_on_what_a_policy_was_fitted_on_is_refused():
    built = SimpleNamespace(
        tune=SimpleNamespace(digest="tune-digest"),
        tune_features=SimpleNamespace(digests=("a", "b", "")),
    )
    refuse_seen(None, built, ["a"], "tune")
    refuse_seen(PROVENANCE, built, ["x", ""], "test")
    with pytest.raises(UserError, match="role 'tune'"):
        refuse_seen(PROVENANCE, built, ["x"], "tune")
    with pytest.raises(UserError, match="1 of the 2 evaluated images"):
        refuse_seen(PROVENANCE, built, ["x", "b"], "")
    other = PROVENANCE.model_copy(update={"cases": "elsewhere"})
    refuse_seen(other, built, ["x", "b"], "")
