"""What every shipped policy must keep, whatever the assessments and whatever agents do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.assessments import Assessments
from curbside.config import (
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    TierPolicy,
)
from curbside.errors import ConfigError, InternalError
from curbside.responses import ResponseStatus
from curbside.router.policies import make_policy
from curbside.router.policy import Decisions, Policy, Responses, codes, run
from curbside.router.policy_steps import REASONS
from curbside.router.unproven import unproven

AGENTS = ("a", "b", "g")
KINDS = (TierPolicy, CompetencePolicy, CascadePolicy, AveragePolicy, ConsultPolicy)


def world(seed: int, n: int) -> tuple[Assessments, Responses]:
    rng = np.random.default_rng(seed)
    a = len(AGENTS)
    competence = rng.random((n, a)).astype(np.float32)
    competence[rng.random((n, a)) < 0.3] = np.nan
    facts = Assessments(
        modalities=("x", "y", "z"),
        agents=AGENTS,
        strata=("all",),
        posterior=rng.dirichlet(np.ones(3), n).astype(np.float32),
        novelty=rng.random(n),
        p_value=rng.random(n),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 50, np.int32),
        support=rng.integers(0, 200, n).astype(np.int32),
        specialist=rng.integers(-1, 2, n).astype(np.int16),
        neighbours=np.zeros((n, 2), np.int64),
        similarity=np.ones((n, 2), np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=competence,
        competence_low=competence,
        competence_high=competence,
        competence_support=np.ones((n, a), np.float32),
    )
    status = rng.choice([1, 1, 1, 2, 3], (n, a)).astype(np.int8)
    read = status == ResponseStatus.READ
    confidence = np.where(read, rng.random((n, a)), np.nan).astype(np.float32)
    choice = np.where(read, rng.integers(0, 2, (n, a)), -1).astype(np.int16)
    return facts, Responses(AGENTS, status, confidence, choice)


def decide(policy: Policy, facts: Assessments, truth: Responses) -> Decisions:
    """Run the loop; every agent says what ``truth`` has, and nobody is asked twice."""
    seen = np.zeros(truth.status.shape, bool)

    def ask(rows: np.ndarray, wanted: np.ndarray) -> Responses:
        assert not (seen[rows] & wanted).any()
        seen[rows] |= wanted
        picked = truth.take(rows)
        return Responses(
            AGENTS,
            np.where(wanted, picked.status, 0).astype(np.int8),
            np.where(wanted, picked.confidence, np.nan).astype(np.float32),
            np.where(wanted, picked.choice, -1).astype(np.int16),
        )

    return run(policy, facts, AGENTS, ask)


def policy_of(kind: type, **values: Any) -> Policy:
    return make_policy(kind(**values), agents=AGENTS, generalist="g", costs={"g": 2.0})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0.01, 0.9), floor=st.floats(0, 1))
def test_novel_cases_are_never_answered(kind: type, seed: int, alpha: float, floor: float) -> None:
    facts, truth = world(seed, 40)
    done = decide(policy_of(kind, alpha=alpha, floor=floor), facts, truth)
    assert not done.answered[facts.p_value <= alpha].any()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_without_gate_and_floor_all_are_answered_that_anyone_asked_could_read(
    kind: type, seed: int
) -> None:
    facts, truth = world(seed, 40)
    done = decide(policy_of(kind, alpha=0, floor=0), facts, truth)
    could = (done.asked & (truth.status == ResponseStatus.READ)).any(axis=1)
    assert (done.answered == could).all()
    assert (done.weights.sum(axis=1) == could).all()
    # whoever has no specialist has the generalist alone; the others both before giving up
    gave_up = ~done.answered
    both = done.asked[:, 2] & ((facts.specialist < 0) | done.asked.sum(axis=1).astype(bool))
    assert both[gave_up].all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_case_ends_the_same_alone_in_a_batch_and_in_any_order(kind: type, seed: int) -> None:
    facts, truth = world(seed, 12)
    policy = policy_of(kind, alpha=0.2, floor=0.3)
    together = decide(policy, facts, truth)
    order = np.random.default_rng(seed).permutation(12)
    shuffled = decide(policy, facts.take(order), truth.take(order))
    for name in ("answered", "weights", "asked", "reason"):
        assert (getattr(together, name)[order] == getattr(shuffled, name)).all()
    for i in range(12):
        one = np.array([i])
        alone = decide(policy, facts.take(one), truth.take(one))
        for name in ("answered", "weights", "asked", "reason"):
            assert (getattr(alone, name)[0] == getattr(together, name)[i]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_comes_from_an_agent_that_read(kind: type) -> None:
    facts, truth = world(3, 500)
    done = decide(policy_of(kind, alpha=0.1, floor=0.2), facts, truth)
    used = done.weights > 0
    assert (truth.status[used] == ResponseStatus.READ).all()
    assert (done.asked[used]).all()
    assert used.sum(axis=1).max() == (2 if kind in (AveragePolicy, ConsultPolicy) else 1)


def tier_world() -> tuple[Assessments, Responses]:
    facts, _ = world(0, 4)
    facts = replace(
        facts,
        p_value=np.array([0.5, 0.5, 0.01, 0.5]),
        support=np.array([150, 10, 150, 150], np.int32),
        specialist=np.array([0, 1, 0, -1], np.int16),
        # nothing was learned of anybody, so nobody is unproven
        competence=np.full((4, 3), 0.8, np.float32),
        competence_support=np.zeros((4, 3), np.float32),
    )
    status = np.ones((4, 3), np.int8)
    confidence = np.full((4, 3), 0.6, np.float32)
    confidence[:, 2] = 0.9
    choice = np.zeros((4, 3), np.int16)
    return facts, Responses(AGENTS, status, confidence, choice)


def test_tier_sends_common_to_its_specialist_rare_to_the_generalist_novel_to_a_person() -> None:
    facts, truth = tier_world()
    done = decide(policy_of(TierPolicy), facts, truth)
    assert done.answered.tolist() == [True, True, False, True]
    assert done.weights.argmax(axis=1).tolist() == [0, 2, 2, 2]
    codes = [REASONS[i] for i in done.reason]
    assert codes == ["specialist", "rare", "novel", "no_specialist"]


def test_a_failed_specialist_is_replaced_and_a_low_reading_is_held() -> None:
    facts, truth = tier_world()
    truth.status[0, 0] = ResponseStatus.FAILED
    done = decide(policy_of(TierPolicy), facts, truth)
    assert done.weights[0].tolist() == [0, 0, 1]
    assert REASONS[done.reason[0]] == "fallback"
    held = decide(policy_of(TierPolicy, floor=0.95), facts, truth)
    assert not held.answered.any()
    assert REASONS[held.reason[1]] == "below_floor"
    assert held.weights[1, 2] == 1  # provisional


def test_nobody_reads_and_a_person_is_asked_without_a_provisional_reading() -> None:
    facts, truth = tier_world()
    truth.status[:] = ResponseStatus.ABSTAINED
    done = decide(policy_of(TierPolicy), facts, truth)
    assert not done.answered.any() and not done.weights.any()
    assert REASONS[done.reason[0]] == "no_reading"


def test_cascade_asks_the_second_only_when_unsure_and_takes_the_surer() -> None:
    facts, truth = tier_world()
    sure = decide(policy_of(CascadePolicy, escalate_below=0.5), facts, truth)
    assert sure.asked[0].tolist() == [True, False, False]
    assert REASONS[sure.reason[0]] == "sure_enough"
    unsure = decide(policy_of(CascadePolicy, escalate_below=0.7), facts, truth)
    assert unsure.asked[0].tolist() == [True, False, True]
    assert unsure.weights[0].tolist() == [0, 0, 1]
    assert REASONS[unsure.reason[0]] == "escalated"
    truth.choice[0, 2] = 1
    done = decide(policy_of(CascadePolicy), facts, truth)
    assert REASONS[done.reason[0]] == "disagreement" and done.answered[0]
    held = decide(policy_of(CascadePolicy, refer_disagreement=True), facts, truth)
    assert REASONS[held.reason[0]] == "disagreement" and not held.answered[0]
    assert held.weights[0].tolist() == [0, 0, 1]  # provisional


def test_cascade_asks_the_second_where_the_case_is_unfamiliar_however_sure_the_first() -> None:
    facts, truth = tier_world()
    p = float(facts.p_value[0])
    assert p > 0.05
    for level, second in ((0.0, False), (p - 0.01, False), (p, True)):
        policy = policy_of(CascadePolicy, escalate_below=0.0, escalate_unfamiliar=level)
        asked = decide(policy, facts, truth).asked[0].tolist()
        assert asked == [True, False, second], level


def test_competence_takes_who_is_likelier_right_and_counts_cost() -> None:
    facts, truth = tier_world()
    known = np.full((4, 3), 0.5, np.float32)
    known[:, 2] = 0.6
    facts = replace(facts, competence=known)
    free = decide(policy_of(CompetencePolicy), facts, truth)
    assert free.weights[0].argmax() == 2
    dear = decide(policy_of(CompetencePolicy, cost_weight=0.2), facts, truth)
    assert dear.weights[0].argmax() == 0
    held = decide(policy_of(CompetencePolicy, floor=0.7), facts, truth)
    assert not held.answered.any()
    assert REASONS[held.reason[0]] == "below_floor"
    nothing = replace(facts, competence=np.full((4, 3), np.nan, np.float32))
    by_tier = decide(policy_of(CompetencePolicy), nothing, truth)
    assert REASONS[by_tier.reason[0]] == "competence_unknown"
    assert by_tier.weights.argmax(axis=1).tolist() == [0, 2, 2, 2]


def test_a_generalist_that_is_no_agent_is_a_bug() -> None:
    with pytest.raises(InternalError, match="none of"):
        make_policy(TierPolicy(), agents=AGENTS, generalist="nobody")


def test_a_person_reads_where_a_referral_is_worth_more() -> None:
    facts, truth = tier_world()
    known = np.full((4, 3), 0.6, np.float32)
    facts = replace(facts, competence=known, p_value=np.ones(4))
    never = decide(policy_of(CompetencePolicy), facts, truth)
    assert never.answered.all()
    # a person is right in 95 % of cases and costs .3: better than .6
    cheap = decide(policy_of(CompetencePolicy, person_accuracy=0.95, person_cost=0.3), facts, truth)
    assert not cheap.answered.any()
    assert REASONS[cheap.reason[0]] == "below_floor"
    dear = decide(policy_of(CompetencePolicy, person_accuracy=0.95, person_cost=0.4), facts, truth)
    assert dear.answered.all()


def test_average_mixes_both_readings_by_weight() -> None:
    facts, truth = tier_world()
    done = decide(policy_of(AveragePolicy, weight=0.25), facts, truth)
    assert done.asked.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]
    np.testing.assert_allclose(done.weights[0], [0.25, 0, 0.75])
    np.testing.assert_allclose(done.weights[3], [0, 0, 1])
    codes = [REASONS[i] for i in done.reason]
    assert codes == ["averaged", "averaged", "novel", "no_specialist"]
    thin = decide(policy_of(AveragePolicy, minimum_support=100), facts, truth)
    assert thin.asked[1].tolist() == [False, False, True]
    assert REASONS[thin.reason[1]] == "rare"


def test_average_is_held_by_what_its_top_option_has_at_least() -> None:
    facts, truth = tier_world()  # .6 and .9 on the same option: .75 together
    assert decide(policy_of(AveragePolicy, floor=0.74), facts, truth).answered[0]
    assert not decide(policy_of(AveragePolicy, floor=0.76), facts, truth).answered[0]
    truth.choice[0, 2] = 1  # they differ: at least .45
    assert decide(policy_of(AveragePolicy, floor=0.44), facts, truth).answered[0]
    held = decide(policy_of(AveragePolicy, floor=0.46), facts, truth)
    assert not held.answered[0] and REASONS[held.reason[0]] == "below_floor"


def test_average_goes_on_with_whoever_reads() -> None:
    facts, truth = tier_world()
    truth.status[0, 0] = ResponseStatus.FAILED
    truth.status[1, 2] = ResponseStatus.ABSTAINED
    done = decide(policy_of(AveragePolicy, minimum_support=100), facts, truth)
    assert done.weights[0].tolist() == [0, 0, 1] and REASONS[done.reason[0]] == "fallback"
    # a thinly supported specialist is asked when the generalist gives nothing
    assert done.weights[1].tolist() == [0, 1, 0] and REASONS[done.reason[1]] == "fallback"


def test_consult_asks_colleagues_only_where_the_generalist_is_unsure() -> None:
    facts, truth = tier_world()
    truth.confidence[:, 2] = 0.6
    sure = decide(policy_of(ConsultPolicy, escalate_below=0.6), facts, truth)
    assert sure.asked.tolist() == [[0, 0, 1]] * 4
    codes = [REASONS[i] for i in sure.reason]
    assert codes == ["sure_enough", "rare", "novel", "sure_enough"]
    thin = decide(policy_of(ConsultPolicy, escalate_below=0.61), facts, truth)
    assert thin.asked[1].tolist() == [False, False, True]
    unsure = decide(policy_of(ConsultPolicy, escalate_below=0.61, minimum_support=0), facts, truth)
    # the novel case is held whatever colleagues say, and the last has no specialist
    assert unsure.asked.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert unsure.weights[0].tolist() == [0.5, 0, 0.5]
    assert REASONS[unsure.reason[0]] == "averaged"
    both = decide(
        policy_of(ConsultPolicy, escalate_below=1, minimum_support=0, colleagues=("a", "b")),
        facts,
        truth,
    )
    np.testing.assert_allclose(both.weights[3], [1 / 3, 1 / 3, 1 / 3])


def test_consult_is_held_by_what_its_top_option_has_at_least() -> None:
    facts, truth = tier_world()
    truth.confidence[0] = [0.9, np.nan, 0.6]
    truth.choice[0, [0, 2]] = 0  # they agree: .75
    for floor, answered in ((0.74, True), (0.76, False)):
        held = decide(policy_of(ConsultPolicy, floor=floor), facts, truth)
        assert bool(held.answered[0]) == answered
    truth.choice[0, 2] = 1  # they differ: at least .45
    assert decide(policy_of(ConsultPolicy, floor=0.44), facts, truth).answered[0]
    assert not decide(policy_of(ConsultPolicy, floor=0.46), facts, truth).answered[0]


def test_consult_goes_on_with_whoever_reads() -> None:
    facts, truth = tier_world()
    truth.status[0, 2] = ResponseStatus.FAILED
    truth.status[1, 1] = ResponseStatus.ABSTAINED
    done = decide(policy_of(ConsultPolicy, escalate_below=1), facts, truth)
    assert done.weights[0].tolist() == [1, 0, 0] and REASONS[done.reason[0]] == "fallback"
    assert done.weights[1].tolist() == [0, 0, 1] and done.answered[1]


def test_a_colleague_that_does_not_serve_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nobody'.*valid: specialist, a, b"):
        policy_of(ConsultPolicy, colleagues=("nobody",))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 0.5), floor=st.floats(0, 1))
def test_where_tags_and_pixels_disagree_no_policy_answers(
    kind: type, seed: int, alpha: float, floor: float
) -> None:
    facts, truth = world(seed, 40)
    policy = policy_of(kind, alpha=alpha, floor=floor)
    before = decide(policy, facts, truth)
    wrong = np.random.default_rng(seed).random(40) < 0.3
    after = decide(policy, replace(facts, tag_disagreement=wrong), truth)
    assert not after.answered[wrong].any()
    assert (after.answered == (before.answered & ~wrong)).all()
    # the same agents are asked and what they say is kept, as provisional
    assert (after.asked == before.asked).all()
    assert (after.weights == before.weights).all()
    named = np.array(codes(policy))
    assert (named[after.reason[wrong & before.answered]] == "tag_disagreement").all()
    assert (after.reason[~wrong] == before.reason[~wrong]).all()


def test_who_is_unproven() -> None:
    facts, _ = world(0, 4)
    nan = np.nan
    facts = replace(
        facts,
        competence=np.array([[0.9, nan, 0.2], [nan] * 3, [nan] * 3, [0.6] * 3], np.float32),
        competence_support=np.array([[9, 2, 9], [0, 0, 3], [0] * 3, [9] * 3], np.float32),
    )
    assert unproven(facts).tolist() == [
        [False, True, True],  # known, known elsewhere only, mostly wrong
        [True, True, True],  # one of them was judged elsewhere, none here
        [False, False, False],  # nothing was learned of anybody
        [False, False, False],
    ]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_an_unproven_reader_never_answers_and_the_rest_stays(kind: type, seed: int) -> None:
    facts, truth = world(seed, 40)
    held = decide(policy_of(kind, alpha=0.05), facts, truth)
    free = decide(policy_of(kind, alpha=0.05, hold_unproven=False), facts, truth)
    rests = ((free.weights > 0) & unproven(facts)).any(axis=1)
    assert (held.answered == (free.answered & ~rests)).all()
    assert (held.weights == free.weights).all()  # what is held has its provisional reading
    assert (held.asked == free.asked).all()
    codes = np.array(REASONS)[held.reason]
    assert (codes[free.answered & rests] == "unproven").all()
    off = decide(policy_of(kind, alpha=0.0), facts, truth)
    assert not (np.array(REASONS)[off.reason] == "unproven").any()
