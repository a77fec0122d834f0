"""A ledger as a matrix: what is kept, what a person's answer becomes, and policies on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from curbside.config import CascadePolicy, ConsultPolicy, TierPolicy
from curbside.errors import ConfigError, UserError
from curbside.evals.assessment_file import load_assessments
from curbside.evals.ledger_matrix import from_ledger, save_logged, try_policy
from curbside.evals.matrix import load_responses
from curbside.readings import Status
from curbside.responses import ResponseStatus
from curbside.router.ledger import open_ledger
from curbside.router.review import Kind
from curbside.router.synthetic import fill


@pytest.fixture
def ledger(tmp_path):
    found = open_ledger(tmp_path, "ledger.sqlite")
    fill(found, 120)
    yield found
    found.close()


def team(ledger):
    specialists = {r.modality: r.specialist for _, r in ledger.all() if r.specialist}
    readers = {x.agent for _, r in ledger.all() for x in r.responses}
    (generalist,) = [a for a in readers if not a.startswith("specialist")] or ["generalist"]
    return specialists, generalist


def test_every_assessed_study_is_a_row(ledger, tmp_path):
    records = [r for _, r in ledger.all() if r.familiarity is not None and r.options]
    logged = from_ledger(ledger, *team(ledger))
    assert logged.matrix.cases == tuple(r.case for r in records)
    for i, r in enumerate(records):
        for x in r.responses:
            column = logged.matrix.column(x.agent)
            assert logged.matrix.status[i, column] != ResponseStatus.NOT_ASKED
        assert logged.known.assessments.p_value[i] == r.familiarity.p_value
        assert logged.answered[i] == (r.outcome.status is Status.ANSWERED)
    asked = logged.matrix.status != ResponseStatus.NOT_ASKED
    assert asked.sum() == sum(len(r.responses) for r in records)
    save_logged(logged, tmp_path / "out")
    again = load_responses(tmp_path / "out" / "responses.parquet")
    np.testing.assert_array_equal(again.status, logged.matrix.status)
    assert load_assessments(tmp_path / "out").generalist == logged.known.generalist


def test_a_persons_answer_is_the_truth_and_no_answer_of_the_models(ledger):
    both = [(e, r) for e, r in ledger.all() if r.options and r.familiarity]
    waiting = next(e for e, _ in both if e.status is Status.NEEDS_REVIEW)
    wrong = next((e, r) for e, r in both if e.status is Status.ANSWERED)
    before = from_ledger(ledger, *team(ledger))
    held, said = (before.matrix.cases.index(s) for s in (waiting.study, wrong[0].study))
    assert before.matrix.truth[held] == -1
    options = wrong[1].options
    other = next(o for o in options if o != wrong[0].answer)
    ledger.review(waiting.study, "dr-1", answer=ledger.record(waiting.study).options[0])
    ledger.review(wrong[0].study, "dr-1", kind=Kind.OVERRIDE, answer=other, code="wrong_finding")
    after = from_ledger(ledger, *team(ledger))
    assert after.matrix.truth[held] == 0
    assert not after.answered[held] and after.answer[held] == -1
    # what was answered before the override is still what happened
    assert after.answered[said] and options[after.answer[said]] == wrong[0].answer
    assert options[after.matrix.truth[said]] == other
    tested = try_policy(after, TierPolicy())
    assert tested.with_truth == 2 and tested.then_right == 0


def test_a_policy_is_tested_against_what_happened(ledger):
    logged = from_ledger(ledger, *team(ledger))
    strict = try_policy(logged, TierPolicy(alpha=0.999))
    assert strict.answered < 0.05
    assert strict.n == len(logged.matrix) and strict.with_truth == 0
    assert np.isnan(strict.right)
    two = try_policy(logged, CascadePolicy(alpha=0.0, escalate_below=1.0))
    # most studies were read by one agent then: the second cannot be replayed, and that is said
    assert two.unseen > 0 and two.calls > strict.calls


def test_right_is_counted_where_a_person_answered(ledger):
    """Six answered studies, every other one confirmed: half of what was answered was right."""
    answered = [
        (e, r)
        for e, r in ledger.all()
        if r.options and r.familiarity and e.status is Status.ANSWERED and len(r.options) > 1
    ][:6]
    assert len(answered) == 6
    for i, (e, r) in enumerate(answered):
        other = next(o for o in r.options if o != e.answer)
        ledger.review(e.study, "dr-1", answer=e.answer if i % 2 else other)
    tested = try_policy(from_ledger(ledger, *team(ledger)), TierPolicy(alpha=0.0))
    assert tested.with_truth == 6
    assert tested.then_right == pytest.approx(0.5)


def test_a_colleague_that_was_never_asked_can_be_named(ledger):
    policy = ConsultPolicy(alpha=0.0, colleagues=("lite2",), escalate_below=1.0)
    with pytest.raises(ConfigError, match="lite2"):
        try_policy(from_ledger(ledger, *team(ledger)), policy)
    logged = from_ledger(ledger, *team(ledger), colleagues=["lite2"])
    assert "lite2" in logged.matrix.agents
    tested = try_policy(logged, policy)
    assert 0 < tested.unseen <= tested.n and tested.answered > 0


def test_only_the_time_that_is_asked_for(ledger):
    now = datetime.now(UTC)
    recent = from_ledger(ledger, *team(ledger), since=now - timedelta(days=2))
    everything = from_ledger(ledger, *team(ledger))
    assert 0 < len(recent.matrix) < len(everything.matrix)
    with pytest.raises(UserError, match="no study of that time"):
        from_ledger(ledger, *team(ledger), until=now - timedelta(days=400))
