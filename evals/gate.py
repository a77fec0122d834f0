"""May this run replace that one?  Checks with a number, a limit and passed or not.

Quality by the lower bound of the paired difference, never by a point estimate; what cannot be
assessed has not passed.  It is judged twice: of the hybrids put forward with gates off (did
agents, index or choosing get worse?) and of the policy as it would serve, gates on, which need
not be that hybrid.  The exit code of ``curbside eval gate`` is made from the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from curbside.config import PolicyConfig, load_model
from curbside.evals.arms import Outcomes
from curbside.evals.compare import compare
from curbside.evals.outcome_file import RunOutcomes
from curbside.evals.probes import Probe, run_probes
from curbside.evals.schema import Summary
from curbside.evals.statistics import draw_groups, interval

__all__ = ["RULES", "Check", "GateRules", "judge", "lines", "load_rules", "sensitivity"]

RULES = Path(__file__).parent / "gate.yaml"


class GateRules(BaseModel):
    """What a run must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: int = Field(default=1, ge=1, le=1)
    margin: float = Field(default=0.02, ge=0, le=1)
    """Accuracy that may be lost against the baseline (lower bound), gates off and as served."""
    must_not_miss: list[str] = []
    """Labels whose sensitivity must not fall."""
    must_not_miss_margin: float = Field(default=0.05, ge=0, le=1)
    """Sensitivity on them that may be lost (lower bound); as served, share not missed."""
    novel_answered_margin: float = Field(default=0.02, ge=0, le=1)
    """By how much more novel cases may be answered than by the baseline."""
    explained: float = Field(default=1.0, ge=0, le=1)
    """Share of decisions that must be explained."""
    flip_rate: float = Field(default=0.03, ge=0, le=1)
    """Share of routes that may move under a small change of the image."""


class Check(BaseModel):
    """One thing that was judged; ``passed`` is False where it could not be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    found: str
    limit: str


def load_rules(path: Path = RULES) -> GateRules:
    """Read and check a file of rules.  Raises ConfigError."""
    return load_model(GateRules, path, hint=f"edit {path.name} (docs/evaluation.md), run again")


def judge(
    run: tuple[Summary, RunOutcomes],
    baseline: tuple[Summary, RunOutcomes],
    rules: GateRules,
    probes: Sequence[Probe],
    policy: PolicyConfig,
    *,
    replicates: int = 2000,
) -> list[Check]:
    """Every check of a run against its baseline.

    Args:
        policy: the run's, for the probes.

    Raises:
        UserError: the two runs share no case that can be compared.
    """
    (now, new), (before, old) = run, baseline
    names = (now.decision.hybrid, before.decision.hybrid)
    found = compare(new, old, names, margin=max(rules.margin, 1e-6), replicates=replicates)
    quality = found.overall[0]
    low = quality.ci_low
    as_served = ("served", "served")
    by = {d.metric: d for d in compare(new, old, as_served, replicates=replicates).overall}
    right, answered, utility = by["selective_accuracy"], by["coverage"], by["net_benefit"]
    same = _unchanged(new, old, as_served)
    return [
        Check(
            name="quality",
            passed=_unchanged(new, old, names) or (low is not None and low > -rules.margin),
            found=f"{names[0]} − {names[1]} = {_points(quality.delta)} points, "
            f"lower bound {_points(low)} ({found.verdict})",
            limit=f"above {-100 * rules.margin:+.1f}",
        ),
        Check(
            name="quality as served",
            passed=same or (right.ci_low is not None and right.ci_low > -rules.margin),
            found=f"right among the answered {_points(right.delta)} points, lower bound "
            f"{_points(right.ci_low)}; answered {_percent(answered.a)} against "
            f"{_percent(answered.b)}",
            limit=f"above {-100 * rules.margin:+.1f}",
        ),
        Check(
            name="utility as served",
            passed=same or (utility.ci_low is not None and utility.ci_low > -2 * rules.margin),
            found="-"
            if utility.delta is None
            else f"net benefit {utility.delta:+.3f}, lower bound {utility.ci_low:+.3f}",
            # a right answer that turns wrong costs two units of net benefit
            limit=f"above {-2 * rules.margin:+.3f}",
        ),
        _must_not_miss(new, old, names, rules, replicates),
        _must_not_miss(new, old, as_served, rules, replicates, as_served=True),
        _novel(
            "novel answered",
            (now.novelty.novel_answered, before.novelty.novel_answered),
            rules,
        ),
        _novel("novel as served", (_novel_served(now), _novel_served(before)), rules),
        _probes(probes, policy),
        _control(now, "explained", rules.explained, at_least=True),
        _control(now, "route_flips", rules.flip_rate, at_least=False),
    ]


def lines(checks: Sequence[Check]) -> list[str]:
    """The table that is printed."""
    wide = max(len(c.name) for c in checks)
    return [
        f"{'passed' if c.passed else 'FAILED'}  {c.name:<{wide}}  {c.found}  (limit: {c.limit})"
        for c in checks
    ]


def _must_not_miss(
    new: RunOutcomes,
    old: RunOutcomes,
    names: tuple[str, str],
    rules: GateRules,
    replicates: int,
    *,
    as_served: bool = False,
) -> Check:
    """Sensitivity on the labels that must not be missed, paired over the cases of both runs.

    As served a case that a person reads is not missed: only a wrong answer misses it.
    """
    at = {c: i for i, c in enumerate(old.frame.ids.tolist())}
    f = new.frame
    wanted = np.isin(f.label, rules.must_not_miss) & f.scored
    rows = np.array([i for i in np.flatnonzero(wanted) if str(f.ids[i]) in at], np.intp)
    other = np.array([at[str(i)] for i in f.ids[rows].tolist()], np.intp)
    one, two = new.arm(names[0]), old.arm(names[1])
    if not as_served:
        a, b = one.right[rows], two.right[other]
        return sensitivity(f.label[rows], a, b, f.group[rows], rules, replicates)
    a, b = _not_missed(one)[rows], _not_missed(two)[other]
    check = sensitivity(f.label[rows], a, b, f.group[rows], rules, replicates)
    told = check.found.replace("sensitivity", "right or left to a person")
    return check.model_copy(update={"name": "must not miss as served", "found": told})


def _not_missed(o: Outcomes) -> NDArray[np.float32]:
    return np.asarray(1 - (o.answered - o.right), np.float32)


def sensitivity(
    labels: NDArray[np.str_],
    new: NDArray[Any],
    old: NDArray[Any],
    groups: NDArray[Any],
    rules: GateRules,
    replicates: int,
) -> Check:
    """The share read right of cases whose true label must not be missed, paired.

    Args:
        labels: true labels (n,), all of them among ``rules.must_not_miss``.
        new, old: right or not, (n,); ``groups``: what is resampled together, (n,).
    """
    limit = f"above {-100 * rules.must_not_miss_margin:+.1f}"
    if not len(labels):
        return Check(
            name="must not miss",
            # nothing was asked for: there is nothing to hold
            passed=not rules.must_not_miss,
            found="no case of these runs has such a label",
            limit=limit,
        )
    a, b = new.astype(np.float32), old.astype(np.float32)
    group = np.unique(groups, return_inverse=True)[1]
    counts = draw_groups(int(group.max()) + 1, replicates, 0)[:, group]
    _, low, _ = interval(
        np.asarray(counts @ (a - b) / np.maximum(counts.sum(axis=1), 1), np.float32)
    )
    named = sorted(set(labels.tolist()))
    shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
    return Check(
        name="must not miss",
        passed=low > -rules.must_not_miss_margin,
        found=f"sensitivity {100 * a.mean():.1f} % against {100 * b.mean():.1f} % on {len(labels)} "
        f"cases ({shown}), lower bound {_points(low)}",
        limit=limit,
    )


def _novel(name: str, shares: tuple[float | None, float | None], rules: GateRules) -> Check:
    """Novel cases answered now and before: by the novelty score alone, or by the policy."""
    a, b = shares
    limit = f"at most {100 * rules.novel_answered_margin:.1f} points more"
    if a is None or b is None:
        # without a novel case on either side there is nothing to hold
        return Check(name=name, passed=b is None, found="not assessable", limit=limit)
    return Check(
        name=name,
        passed=a <= b + rules.novel_answered_margin,
        found=f"{100 * a:.1f} % against {100 * b:.1f} %",
        limit=limit,
    )


def _novel_served(summary: Summary) -> float | None:
    """Share of novel cases that the policy as configured answers, macro over modalities."""
    found = summary.arms["served"].coverage.per_tier.get("novel")
    return None if found is None else found.value


def _probes(probes: Sequence[Probe], policy: PolicyConfig) -> Check:
    results = run_probes(probes, policy)
    failed = [r for r in results if not r.passed]
    found = f"{len(results) - len(failed)} of {len(results)} hold for policy {policy.kind}"
    if failed:
        found += "; " + "; ".join(f"{r.probe.name}: {', '.join(r.wrong)}" for r in failed[:3])
    return Check(name="probes", passed=bool(results) and not failed, found=found, limit="all")


def _control(summary: Summary, name: str, limit: float, *, at_least: bool) -> Check:
    title = {"explained": "explanations", "route_flips": "route flips"}[name]
    shown = f"{'at least' if at_least else 'at most'} {100 * limit:g} %"
    control = next((c for c in summary.controls if c.name == name), None)
    if control is None or control.value is None:
        return Check(name=title, passed=False, found="not assessed in this run", limit=shown)
    passed = control.value >= limit if at_least else control.value <= limit
    found = f"{100 * control.value:.1f} % of {control.n}"
    return Check(name=title, passed=passed, found=found, limit=shown)


def _unchanged(new: RunOutcomes, old: RunOutcomes, names: tuple[str, str]) -> bool:
    """Not one case of the baseline ends differently: then there is nothing to lose."""
    if new.frame.ids.tolist() != old.frame.ids.tolist():
        return False
    a, b = new.arm(names[0]), old.arm(names[1])
    return np.array_equal(a.right, b.right) and np.array_equal(a.answered, b.answered)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
