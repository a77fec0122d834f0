"""Which arms there are, and everything that is chosen on ``tune`` before a test case counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import (
    CascadePolicy,
    CompetencePolicy,
    Config,
    ConsultPolicy,
    PolicyConfig,
    TierPolicy,
)
from curbside.evals import arms as arm_
from curbside.evals.arms import Arm, Outcomes, Roster
from curbside.evals.frame import Frame
from curbside.evals.metrics import Scorer
from curbside.evals.peers import PEERS, cross_fitted
from curbside.evals.statistics import draw_groups, interval
from curbside.evals.tags import tags_arm
from curbside.responses import ResponseMatrix

__all__ = [
    "CONSULT",
    "DISPATCHERS",
    "G16",
    "GFULL",
    "HYBRIDS",
    "OPPONENTS",
    "TWIN",
    "Part",
    "Scored",
    "Trained",
    "best",
    "consulted_of",
    "is_gated",
    "plain_arms",
    "policy_configs",
    "roster_of",
    "score_arms",
    "single_names",
    "test_arms",
    "tune_accuracy",
    "with_peers",
]

G16, GFULL, TWIN = "generalist-16", "generalist-full", "generalist-full-b"
LINEAR = ("linear-full", "linear-16")
_HARM_REPLICATES = 500
#: What the hybrid must beat, each of them, for the verdict.
OPPONENTS = ("S", "G16", "Gfull", "E")
#: Hybrids over {S, Gfull}, whose choices have a case oracle of their own.
DISPATCHERS = ("H-tier", "H-competence", "H-cascade")
#: Candidates for the hybrid put forward; the last asks colleagues too.
CONSULT = "H-consult"
HYBRIDS = (*DISPATCHERS, CONSULT)


@dataclass(frozen=True)
class Part:
    """Cases that agents were asked about: a frame, what was known, what was said (n rows each).

    ``assessments.agents`` are those whose competence is known; on tune it is cross-fitted, as
    are ``peers``: router of another group → float32 (n, 2), its scores of S and Gfull.
    """

    frame: Frame
    assessments: Assessments
    matrix: ResponseMatrix
    peers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """One trained draw (one few-shot draw and seed of every arm).

    ``colleagues`` are generalists that are neither Gfull nor G16, for second opinions.
    """

    seed: int
    specialists: Mapping[str, str]
    serving: str
    test: Part
    tune: Part
    colleagues: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """An arm on one draw."""

    arm: Arm
    outcomes: Outcomes


def policy_configs(config: Config) -> dict[str, PolicyConfig]:
    """The three policies, as configured where the configuration holds one of their kind."""
    support = getattr(config.policy, "minimum_support", config.fleet.specialist_minimum)
    default: dict[str, PolicyConfig] = {
        "tier": TierPolicy(minimum_support=support),
        "competence": CompetencePolicy(),
        "cascade": CascadePolicy(minimum_support=support),
    }
    return default | {config.policy.kind: config.policy}


def consulted_of(trained: Sequence[Trained]) -> tuple[str, ...]:
    """Colleagues but for those whose mean with Gfull is worse on tune than Gfull alone.

    Tune has few cases: a colleague is left out where harm is shown, not where luck fails.  One
    choice for all draws, on their mean, so that every draw has the same arms.
    """
    first = trained[0].tune
    f = first.frame
    if not f.scored.any() or any(GFULL not in t.tune.matrix.agents for t in trained):
        return ()
    scorer = Scorer(f, draw_groups(f.n_groups, _HARM_REPLICATES, 0, f.strata))

    def gain(colleague: str, t: Trained) -> NDArray[np.float32]:
        m = t.tune.matrix
        full = arm_.single(m, GFULL, "Gfull")
        mean = arm_.blend(colleague, full, arm_.single(m, colleague, colleague))
        with_it, alone = (
            scorer.metric("accuracy", scorer.sums(arm_.outcomes(m, a))) for a in (mean, full)
        )
        return np.asarray(with_it - alone, np.float32)

    here = [c for c in trained[0].colleagues if all(c in t.tune.matrix.agents for t in trained)]
    return tuple(
        c for c in here if interval(np.mean([gain(c, t) for t in trained], axis=0))[2] >= 0
    )


def plain_arms(
    part: Part, roster: Roster, config: Config, consulted: Sequence[str] = ()
) -> dict[str, Arm]:
    """Arms that need nothing but what a router has; the same on tune and on test.

    Args:
        consulted: colleagues whose opinion ``H-consult`` and ``E-consult`` ask for.
    """
    m, a = part.matrix, part.assessments
    policies = policy_configs(config)
    team = arm_.team(m, a, roster)
    out = {"S": team}
    if GFULL in m.agents:
        full = arm_.single(m, GFULL, "Gfull")
        out |= {"Gfull": full, "E": arm_.blend("E", team, full)}
        for kind in ("tier", "competence", "cascade"):
            name = f"H-{kind}"
            out[name] = arm_.hybrid(name, policies[kind], m, a, roster, GFULL)
        if consulted:
            who = tuple(consulted)
            rule = policies.get("consult") or ConsultPolicy(colleagues=who)
            out["H-consult"] = arm_.hybrid("H-consult", rule, m, a, roster, GFULL, colleagues=who)
            each = [arm_.single(m, c, c) for c in who]
            out["E-consult"] = arm_.blend("E-consult", full, *each)
        for peer, scores in part.peers.items():
            name = f"R-{peer}"
            out[name] = arm_.hybrid(
                name, CompetencePolicy(), m, a, roster, GFULL, scores=scores, kind="baseline"
            )
    if G16 in m.agents:
        out["G16"] = arm_.single(m, G16, "G16")
        out["H-tier16"] = arm_.hybrid("H-tier16", policies["tier"], m, a, roster, G16)
    for agent in sorted(set(roster.specialists.values())):
        out[agent] = arm_.single(m, agent, agent)
    for agent in LINEAR:
        if agent in m.agents:
            out[agent] = arm_.single(m, agent, agent, "linear")
    for agent in _others(m, roster.specialists):
        out[agent] = arm_.single(m, agent, agent, "colleague")
    return out


def _others(matrix: ResponseMatrix, specialists: Mapping[str, str]) -> list[str]:
    """Agents that no rule names: each is an arm alone."""
    named = {GFULL, G16, TWIN, *LINEAR, *specialists.values()}
    return [a for a in matrix.agents if a not in named]


def test_arms(
    t: Trained,
    roster: Roster,
    frame: Frame,
    config: Config,
    dispatcher: str,
    consulted: Sequence[str] = (),
) -> dict[str, Arm]:
    """All arms on the evaluated cases, baselines and oracles too.

    Args:
        dispatcher: the hybrid whose rates ``random`` keeps.
        consulted: see :func:`consulted_of`.
    """
    m, a = t.test.matrix, t.test.assessments
    out = plain_arms(t.test, roster, config, consulted)
    if GFULL in m.agents:
        sides = (out["S"], out["Gfull"])
        tune = plain_arms(t.tune, roster, config)
        right = [arm_.outcomes(t.tune.matrix, tune[n]).right for n in ("S", "Gfull")]
        out["random"] = arm_.random_like("random", out[dispatcher], a, sides)
        out["tags"] = tags_arm(frame.modality, m, t.specialists, GFULL)
        out["task-oracle"] = arm_.task_oracle(
            frame.task, t.tune.frame.task, (right[0], right[1]), sides
        )
        out["case-oracle"] = arm_.case_oracle("case-oracle", m, sides)
        if consulted:
            two = (out["Gfull"], out[consulted[0]])
            out["pair-oracle"] = arm_.case_oracle("pair-oracle", m, two)
        if TWIN in m.agents:
            twins = (out["Gfull"], arm_.single(m, TWIN, "Gfull-b"))
            out["twin-oracle"] = arm_.case_oracle("twin-oracle", m, twins)
    serving = (*sorted(set(t.specialists.values())), t.serving, *t.colleagues)
    out["served"] = arm_.served(config.policy, m, a, serving, t.serving)
    return out


def roster_of(t: Trained) -> Roster:
    """Who the team falls back on: the specialist best on the tune cases it would serve."""
    f, m = t.tune.frame, t.tune.matrix
    foreign = f.scored & ~np.isin(f.predicted, list(t.specialists))
    rows = foreign if foreign.any() else f.scored

    def score(agent: str) -> float:
        right = m.correct[rows, m.column(agent)]
        by = [right[f.modality[rows] == x].mean() for x in sorted(set(f.modality[rows].tolist()))]
        return float(np.mean(by)) if by else 0.0

    return Roster(t.specialists, arm_.best_fallback(score, t.specialists))


def with_peers(
    t: Trained, tune_vectors: NDArray[np.float32], test_vectors: NDArray[np.float32]
) -> Trained:
    """The same draw with the scores of other groups' routers, learned on its tune cases.

    Args:
        tune_vectors, test_vectors: float32 (n, d), embeddings of the cases of both parts.
    """
    if GFULL not in t.tune.matrix.agents or not t.tune.frame.scored.any():
        return t
    arms = plain_arms(t.tune, roster_of(t), Config())
    right = np.stack([arm_.outcomes(t.tune.matrix, arms[a]).right for a in ("S", "Gfull")], axis=1)
    group = t.tune.frame.group
    return replace(
        t,
        tune=replace(
            t.tune,
            peers={n: cross_fitted(f, tune_vectors, right, group) for n, f in PEERS.items()},
        ),
        test=replace(
            t.test, peers={n: f(tune_vectors, right, test_vectors) for n, f in PEERS.items()}
        ),
    )


def tune_accuracy(
    trained: Sequence[Trained],
    rosters: Sequence[Roster],
    config: Config,
    consulted: Sequence[str] = (),
) -> dict[str, float]:
    """Arm → macro accuracy on tune, mean over the trained draws; ``consulted`` as there."""
    totals: dict[str, list[float]] = {}
    for t, roster in zip(trained, rosters, strict=True):
        scorer = Scorer(t.tune.frame, np.ones((1, t.tune.frame.n_groups), np.float32))
        for name, arm in plain_arms(t.tune, roster, config, consulted).items():
            sums = scorer.sums(arm_.outcomes(t.tune.matrix, arm))
            totals.setdefault(name, []).append(float(scorer.metric("accuracy", sums)[0]))
    return {name: float(np.mean(v)) for name, v in totals.items()}


def best(scores: Mapping[str, float], among: Sequence[str]) -> str:
    """The highest score; ties to the first listed, which is the simpler one."""
    return max((a for a in among if a in scores), key=lambda a: scores[a])


def single_names(trained: Sequence[Trained]) -> set[str]:
    """Agents that are arms alone: every specialist, and agents that no rule names."""
    t = trained[0]
    return {*t.specialists.values(), *_others(t.test.matrix, t.specialists)}


def is_gated(arm: Arm) -> bool:
    """Arms that the gates are crossed with: not oracles, nor single specialists, nor served."""
    if arm.kind in ("oracle", "served"):
        return False
    return arm.kind != "alone" or arm.name in OPPONENTS


def score_arms(arms: Mapping[str, Arm], t: Trained) -> dict[str, Scored]:
    return {n: Scored(arm, arm_.outcomes(t.test.matrix, arm)) for n, arm in arms.items()}
