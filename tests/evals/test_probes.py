"""The probes that ship hold for every policy that ships; a broken policy fails them."""

from __future__ import annotations

import pytest

from curbside.config import (
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    PolicyConfig,
    TierPolicy,
)
from curbside.errors import ConfigError
from curbside.evals.fit import grid_of, variants
from curbside.evals.probes import load_probes, run_probes

SHIPPED = [
    TierPolicy(),
    TierPolicy(floor=0.6, alpha=0.01),
    CompetencePolicy(),
    CompetencePolicy(floor=0.5),
    CascadePolicy(),
    CascadePolicy(floor=0.3, alpha=0.2),
    AveragePolicy(),
    AveragePolicy(weight=0.7),
    CascadePolicy(refer_disagreement=True, escalate_unfamiliar=0.1),
    ConsultPolicy(),
    ConsultPolicy(colleagues=("linear-lite2",), floor=0.2),
]


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda p: p.kind)
def test_every_probe_holds(policy: PolicyConfig) -> None:
    results = run_probes(load_probes(), policy)
    assert not [(r.probe.name, r.wrong) for r in results if not r.passed]
    assert {r.probe.sort for r in results} == {"negative", "collision", "fallback", "stress"}


def test_no_setting_that_fit_may_choose_fails_a_probe() -> None:
    """Floors are certified or set by hand, so any may come with any setting."""
    probes, failed, posed = load_probes(), set(), set()
    tried = variants(alpha=0.05, referral=0.375)
    for name, (kind, keys) in tried.items():
        # of a fine grid the ends and some in between
        few = {k: tuple(dict.fromkeys((*v[::4], v[-1]))) for k, v in keys.items()}
        for config in grid_of(kind, few):
            for floor in (0.0, 0.45, 0.9):
                policy = config.model_copy(update={"alpha": 0.05, "floor": floor})
                results = run_probes(probes, policy)
                posed |= {(name, r.probe.name) for r in results}
                failed |= {(name, r.probe.name, *r.wrong) for r in results if not r.passed}
    assert not failed
    kinds = {p.name: {k for n, (k, _) in tried.items() if (n, p.name) in posed} for p in probes}
    assert all(kinds[p.name] == set(p.policies) for p in probes)


def test_a_threshold_that_does_not_pose_the_question_is_left_out() -> None:
    name = "unsure-specialist-against-sure-generalist-cascade"
    for level, asked in ((0.4, False), (0.41, True), (1.0, True)):
        found = {
            r.probe.name for r in run_probes(load_probes(), CascadePolicy(escalate_below=level))
        }
        assert (name in found) == asked
    probe = next(p for p in load_probes() if p.name == name)
    assert run_probes([probe], TierPolicy()) == []


def test_disagreement_ends_as_the_switch_says() -> None:
    by = {
        on: {
            r.probe.name
            for r in run_probes(load_probes(), CascadePolicy(refer_disagreement=on))
            if r.passed
        }
        for on in (False, True)
    }
    surer = "unsure-specialist-against-sure-generalist-cascade"
    assert by[False] - by[True] == {surer}
    assert by[True] - by[False] == {"cascade-leaves-disagreement-to-a-person"}


def test_a_policy_without_its_gate_fails_the_negatives() -> None:
    failed = {r.probe.name for r in run_probes(load_probes(), TierPolicy(alpha=0)) if not r.passed}
    assert {"novel-goes-to-a-person", "p-exactly-alpha-is-novel"} <= failed
    assert "everyone-abstains" not in failed


def test_what_is_wrong_is_said() -> None:
    probe = next(p for p in load_probes() if p.name == "no-specialist")
    other = probe.model_copy(
        update={
            "expect": probe.expect.model_copy(
                update={"asked": ["specialist-a"], "never_asked": ["generalist"], "reason": "rare"}
            )
        }
    )
    (result,) = run_probes([other], TierPolicy())
    assert result.wrong == (
        "reason no_specialist, not rare",
        "asked generalist, not specialist-a",
        "asked generalist",
    )


def test_a_probe_decides_alone_as_in_the_batch() -> None:
    probes = load_probes()
    together = {r.probe.name: r.wrong for r in run_probes(probes, CascadePolicy())}
    alone = {r.probe.name: r.wrong for p in probes for r in run_probes([p], CascadePolicy())}
    assert alone == together


def test_names_are_given_once() -> None:
    names = [p.name for p in load_probes()]
    assert len(set(names)) == len(names)


def test_a_bad_file_is_the_users_to_mend(tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("probes:\n- {name: x, sort: odd, about: y, expect: {outcome: answered}}\n")
    with pytest.raises(ConfigError, match="sort"):
        load_probes(path)
    assert run_probes([], TierPolicy()) == []
