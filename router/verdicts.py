"""How the policy ends cases, and what single change would have ended them elsewhere; columnar.

Counterfactuals are found by running the very policy again on the changed facts, so they
are true by construction.  A change of the configuration that differs from case to case is a
column in its place: policies compare thresholds elementwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.assessments import Assessments
from curbside.config import PolicyConfig, TierPolicy
from curbside.readings import Abstention, Counterfactual, Failure, Reading, Tier
from curbside.responses import ResponseStatus
from curbside.router.policies import make_policy
from curbside.router.policy import Action, Policy, Responses, Step, codes, next_step
from curbside.router.policy_steps import is_novel

__all__ = [
    "AnyResponse",
    "Serving",
    "Verdict",
    "columns_of",
    "counterfactuals",
    "reading_of",
    "settle",
    "tiers_of",
]

AnyResponse = Reading | Abstention | Failure
Said = Sequence[Mapping[str, AnyResponse]]


@dataclass(frozen=True)
class Serving:
    """What decisions are made with: the policy, its agents, and their costs.

    ``suspended`` names calibration strata whose guarantee does not hold for now (drift),
    ``"*"`` all of them; it changes what is said of a decision and not the decision.
    """

    config: PolicyConfig
    agents: tuple[str, ...]
    generalist: str
    costs: Mapping[str, float]
    suspended: frozenset[str] = frozenset()

    def facts(self) -> str:
        """Agents, generalist and costs as JSON; with a policy, all of it: :meth:`of_facts`."""
        costs = dict(self.costs)
        return json.dumps({"agents": self.agents, "generalist": self.generalist, "costs": costs})

    @classmethod
    def of_facts(cls, facts: str, config: PolicyConfig) -> Serving:
        """The reverse of :meth:`facts`."""
        body = json.loads(facts)
        return cls(config, tuple(body["agents"]), body["generalist"], body["costs"])

    def policy(self, config: PolicyConfig | None = None) -> Policy:
        """The policy, or one of another configuration over the same agents."""
        return make_policy(
            config or self.config, agents=self.agents, generalist=self.generalist, costs=self.costs
        )


@dataclass(frozen=True)
class Verdict:
    """How the policy ended a case, or (``asks``) whom it would ask and has not.

    ``reader`` has the most weight; ``mixture`` holds every reader's where there are several.
    """

    answered: bool
    reader: str | None
    reason: str
    asks: tuple[str, ...] = ()
    mixture: Mapping[str, float] = field(default_factory=dict)


def columns_of(agents: Sequence[str], said: Said) -> Responses:
    """What was said of n cases (agent → response each) as the columns that a policy sees."""
    n, a = len(said), len(agents)
    status = np.zeros((n, a), np.int8)
    confidence = np.full((n, a), np.nan, np.float32)
    choice = np.full((n, a), -1, np.int16)
    column = {name: j for j, name in enumerate(agents)}
    for i, responses in enumerate(said):
        for name, r in responses.items():
            j = column.get(name)
            if j is None:
                continue
            if isinstance(r, Reading):
                status[i, j] = ResponseStatus.READ
                confidence[i, j] = r.confidence
                if r.probabilities:
                    choice[i, j] = int(np.argmax(r.probabilities))
            elif isinstance(r, Abstention):
                status[i, j] = ResponseStatus.ABSTAINED
            else:
                status[i, j] = ResponseStatus.FAILED
    return Responses(tuple(agents), status, confidence, choice)


def settle(
    policy: Policy, assessments: Assessments, agents: Sequence[str], said: Said
) -> list[Verdict]:
    """One step of the policy on n cases with what has been said so far."""
    step = next_step(policy, assessments, columns_of(agents, said))
    return _verdicts(policy, agents, step)


def tiers_of(assessments: Assessments, config: PolicyConfig) -> list[Tier]:
    """Derived for people: novel by p-value, rare without support or specialist, else common."""
    minimum = getattr(config, "minimum_support", TierPolicy().minimum_support)
    thin = (assessments.specialist < 0) | (assessments.support < minimum)
    novel = is_novel(assessments, config.alpha)
    codes = np.where(novel, 2, thin.astype(int))
    return [(Tier.COMMON, Tier.RARE, Tier.NOVEL)[c] for c in codes.tolist()]


def reading_of(verdict: Verdict, responses: Mapping[str, AnyResponse]) -> Reading | None:
    """The reading that answers: one agent's, or the weighted mean of several."""
    own = responses.get(verdict.reader) if verdict.reader else None
    if not isinstance(own, Reading) or not verdict.mixture:
        return own if isinstance(own, Reading) else None
    mean = np.zeros(len(own.probabilities))
    for name, weight in verdict.mixture.items():
        part = responses[name]
        assert isinstance(part, Reading)
        mean += weight * np.asarray(part.probabilities)
    return own.model_copy(
        update={
            "agent": " + ".join(verdict.mixture),
            "probabilities": tuple(mean.tolist()),
            "confidence": float(mean.max()),
        }
    )


def counterfactuals(
    assessments: Assessments, said: Said, verdicts: Sequence[Verdict], serving: Serving
) -> list[tuple[Counterfactual, ...]]:
    """Single changes that end each of n cases elsewhere, each checked by running the policy."""
    responses = columns_of(serving.agents, said)
    before = next_step(serving.policy(), assessments, responses)
    found: list[list[Counterfactual]] = [[] for _ in verdicts]
    for change in _changes(assessments, said, verdicts, serving):
        rows = np.array([i for i, text in enumerate(change.texts) if text], np.intp)
        if not len(rows):
            continue
        policy = serving.policy(change.config)
        after = next_step(policy, change.facts, responses)
        rows = rows[_differs(before, after)[rows]]
        then = _verdicts(policy, serving.agents, after, rows)
        for i, verdict in zip(rows.tolist(), then, strict=True):
            found[i].append(Counterfactual(change=change.texts[i], then=_then(verdict)))
    return [tuple(some) for some in found]


@dataclass(frozen=True)
class _Change:
    """One kind of change, for the cases with a text."""

    texts: Sequence[str]
    facts: Assessments
    config: PolicyConfig


def _changes(
    facts: Assessments, said: Said, verdicts: Sequence[Verdict], serving: Serving
) -> list[_Change]:
    config, n = serving.config, len(facts)
    novel, p = is_novel(facts, config.alpha), facts.p_value
    familiar = replace(facts, p_value=np.where(novel, 1.0, p))
    text = f"had the p-value been above α = {config.alpha:g}"
    changes = [_Change([text if now else "" for now in novel.tolist()], familiar, config)]
    disagree = facts.tag_disagreement
    agreed = replace(facts, tag_disagreement=np.zeros_like(disagree))
    text = "had the tags named what the pixels show"
    changes.append(_Change([text if now else "" for now in disagree.tolist()], agreed, config))
    # rounded up, so that the α that is printed does hold the case back
    alpha = np.ceil(p * 1e4) / 1e4
    texts = [
        f"with α of {a:g} or more" if a < 1 and not now else ""
        for a, now in zip(alpha.tolist(), novel.tolist(), strict=True)
    ]
    changes.append(_Change(texts, facts, _with(config, alpha=alpha)))
    minimum = getattr(config, "minimum_support", None)
    if minimum is not None:
        changes += _of_support(facts, minimum, config)
    answers = [
        reading_of(v, r) if v.answered else None for v, r in zip(verdicts, said, strict=True)
    ]
    if config.kind != "competence" and any(a is not None for a in answers):
        sure = np.array([np.inf if a is None else a.confidence for a in answers])
        floor = np.floor(sure * 100 + 1) / 100
        texts = [f"with a confidence floor of {f:g}" if f <= 1 else "" for f in floor.tolist()]
        changes.append(_Change(texts, facts, _with(config, floor=floor)))
    low = ["without a floor" if v.reason == "below_floor" else "" for v in verdicts]
    assert len(low) == n
    changes.append(_Change(low, facts, _with(config, floor=0.0)))
    text = "if a reader might answer that nothing shows to read such cases well"
    held = [text if v.reason == "unproven" else "" for v in verdicts]
    changes.append(_Change(held, facts, _with(config, hold_unproven=False)))
    return changes


def _of_support(facts: Assessments, minimum: int, config: PolicyConfig) -> list[_Change]:
    own, thin = facts.specialist >= 0, facts.support < minimum
    support = facts.support.tolist()
    more = replace(facts, support=np.maximum(facts.support, minimum).astype(np.int32))
    raised, lowered = (own & thin).tolist(), (own & ~thin).tolist()
    return [
        _Change(
            [
                f"with {minimum} labelled cases instead of {s}" if now else ""
                for s, now in zip(support, raised, strict=True)
            ],
            more,
            config,
        ),
        _Change(
            [
                f"with a minimum support above {s}" if now else ""
                for s, now in zip(support, lowered, strict=True)
            ],
            facts,
            _with(config, minimum_support=facts.support + 1),
        ),
    ]


def _with(config: PolicyConfig, **columns: Any) -> PolicyConfig:
    # not validated on purpose: a column stands where the model has a number
    return config.model_copy(update=columns)


def _differs(one: Step, other: Step) -> NDArray[np.bool_]:
    """bool (n,): another end, another reader, or others to ask."""
    ends: NDArray[np.bool_] = one.action != other.action
    readers: NDArray[np.bool_] = _reader(one) != _reader(other)
    asks: NDArray[np.bool_] = (_asked(one) != _asked(other)).any(axis=1)
    return ends | readers | asks


def _reader(step: Step) -> NDArray[np.intp]:
    """intp (n,): the column with the most weight, -1 where nobody has any or one is asked."""
    nobody = ~step.weights.any(axis=1) | (step.action == Action.ASK)
    return np.where(nobody, -1, step.weights.argmax(axis=1))


def _asked(step: Step) -> NDArray[np.bool_]:
    asked: NDArray[np.bool_] = step.ask & (step.action == Action.ASK)[:, None]
    return asked


def _verdicts(
    policy: Policy, agents: Sequence[str], step: Step, rows: NDArray[np.intp] | None = None
) -> list[Verdict]:
    picked = range(len(step.action)) if rows is None else rows.tolist()
    reader = _reader(step)
    out = []
    for i in picked:
        reason = codes(policy)[int(step.reason[i])]
        if step.action[i] == Action.ASK:
            asks = tuple(agents[j] for j in np.flatnonzero(step.ask[i]).tolist())
            out.append(Verdict(False, None, reason, asks))
            continue
        column = int(reader[i])
        weights = step.weights[i]
        mixed: dict[str, float] = {}
        if np.count_nonzero(weights) > 1:
            mixed = {agents[j]: float(weights[j]) for j in np.flatnonzero(weights).tolist()}
        name = agents[column] if column >= 0 else None
        out.append(Verdict(bool(step.action[i] == Action.ANSWER), name, reason, mixture=mixed))
    return out


def _then(verdict: Verdict) -> str:
    if verdict.asks:
        return f"{' and '.join(verdict.asks)} would be asked"
    if verdict.answered:
        return f"it would be answered by {verdict.reader}"
    return "it would be held for a person"
