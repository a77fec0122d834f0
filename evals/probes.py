"""Policy probes: small named cases whose route is known, run on every change of a policy.

A probe is a case's facts and what the agents would say, in a world of two modalities (``a`` and
``b``) with a specialist each, and one generalist.  Symbols stand for the policy's own numbers
(``alpha``, ``floor``), so that one file judges every configuration; the colleagues of ``consult``
are played by the specialist.  Decisions come from the very ``next()`` that serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from curbside.assessments import Assessments
from curbside.config import ConsultPolicy, PolicyConfig, load_model
from curbside.responses import ResponseMatrix, ResponseStatus

__all__ = ["PROBES", "Probe", "ProbeResult", "load_probes", "run_probes"]

#: The probes that ship.
PROBES = Path(__file__).parent / "probes.yaml"
AGENTS = ("specialist-a", "specialist-b", "generalist")
_STATUS = {
    "read": ResponseStatus.READ,
    "abstained": ResponseStatus.ABSTAINED,
    "failed": ResponseStatus.FAILED,
}
#: Floor of support that any policy counts as plenty.
_PLENTY = 1_000_000
PolicyKind = Literal["tier", "competence", "cascade", "average", "consult"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Facts(_Strict):
    """What the assessment says of the case."""

    modality: Literal["a", "b", "c"] = "a"
    """``c`` has no specialist."""
    p_value: float | Literal["alpha"] = 1.0
    """Conformal p-value; ``alpha``: exactly the policy's own."""
    support: int = Field(default=_PLENTY, ge=0)
    """Labelled training cases of the modality."""
    competence: dict[str, float] = Field(default_factory=dict)
    """Agent → estimated P(correct); unknown where not given."""


class Said(_Strict):
    """What an agent would say if it were asked."""

    status: Literal["read", "abstained", "failed"] = "read"
    answer: int = Field(default=0, ge=0, le=2)
    """Which of three options."""
    confidence: float | Literal["floor"] = 1.0
    """``floor``: exactly the policy's own."""


class Expected(_Strict):
    """Where the case must end; what is not given may be anything."""

    outcome: Literal["answered", "referred"]
    reader: str | None = None
    """Whose reading answers or is provisional, or is part of the mean that does."""
    asked: list[str] | None = None
    """Exactly these agents, in any order."""
    never_asked: list[str] = Field(default_factory=list)
    reason: str | None = None


class Probe(_Strict):
    """One named case."""

    name: str = Field(pattern="^[a-z0-9-]+$")
    sort: Literal["negative", "collision", "fallback", "stress"]
    about: str
    policies: list[PolicyKind] = ["tier", "competence", "cascade", "average", "consult"]
    """Kinds of policy that it holds for."""
    where: dict[str, bool] = Field(default_factory=dict)
    """Switches of the policy, as they must stand for it to hold."""
    within: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Thresholds of the policy between which it holds, the upper one excluded; others do not
    pose its question."""
    facts: Facts = Facts()
    readings: dict[str, Said] = Field(default_factory=dict)
    """By agent; an agent that is not named reads with certainty."""
    expect: Expected


class Probes(_Strict):
    """A file of probes."""

    version: Literal[1] = 1
    probes: list[Probe] = Field(min_length=1)


@dataclass(frozen=True)
class ProbeResult:
    """A probe under a policy; ``wrong`` says what differs, empty where it passed."""

    probe: Probe
    wrong: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Every expectation holds."""
        return not self.wrong


def load_probes(path: Path = PROBES) -> list[Probe]:
    """Read and check a file of probes.  Raises ConfigError."""
    return load_model(Probes, path, hint=f"edit {path.name}, then: curbside eval probes").probes


def run_probes(probes: Sequence[Probe], config: PolicyConfig) -> list[ProbeResult]:
    """Every probe that holds for the policy's kind, decided in one batch."""
    from curbside.evals.replay import Recording
    from curbside.router.policies import make_policy
    from curbside.router.policy import codes

    mine = [p for p in probes if config.kind in p.policies and _as_wanted(p, config)]
    if not mine:
        return []
    if isinstance(config, ConsultPolicy):
        # whoever is asked in earnest, here the modality's specialist is the colleague
        config = config.model_copy(update={"colleagues": ("specialist",)})
    policy = make_policy(config, agents=AGENTS, generalist="generalist")
    recording = Recording.of(_matrix(mine, config), _assessments(mine, config))
    decided = recording.decide(policy)
    out = []
    for i, probe in enumerate(mine):
        weights = decided.weights[i]
        got = {
            "outcome": "answered" if decided.answered[i] else "referred",
            "reader": [a for a, w in zip(AGENTS, weights.tolist(), strict=True) if w > 0],
            "asked": sorted(a for a, asked in zip(AGENTS, decided.asked[i], strict=True) if asked),
            "reason": codes(policy)[int(decided.reason[i])],
        }
        out.append(ProbeResult(probe, _wrong(probe.expect, got)))
    return out


def _as_wanted(probe: Probe, config: PolicyConfig) -> bool:
    switches = all(getattr(config, k, None) == value for k, value in probe.where.items())
    return switches and all(
        low <= getattr(config, k, float("nan")) < high for k, (low, high) in probe.within.items()
    )


def _wrong(expect: Expected, got: Mapping[str, Any]) -> tuple[str, ...]:
    wrong = []
    if expect.outcome != got["outcome"]:
        wrong.append(f"outcome {got['outcome']}, not {expect.outcome}")
    if expect.reader is not None and expect.reader not in got["reader"]:
        wrong.append(f"reader {' + '.join(got['reader']) or 'nobody'}, not {expect.reader}")
    if expect.reason is not None and expect.reason != got["reason"]:
        wrong.append(f"reason {got['reason']}, not {expect.reason}")
    if expect.asked is not None and sorted(expect.asked) != got["asked"]:
        wrong.append(f"asked {', '.join(got['asked']) or 'nobody'}, not {', '.join(expect.asked)}")
    wrong += [f"asked {a}" for a in expect.never_asked if a in got["asked"]]
    return tuple(wrong)


def _assessments(probes: Sequence[Probe], config: PolicyConfig) -> Assessments:
    n, a, names = len(probes), len(AGENTS), ("a", "b", "c")
    column = np.array([names.index(p.facts.modality) for p in probes])
    known = np.full((n, a), np.nan, np.float32)
    for i, p in enumerate(probes):
        for agent, value in p.facts.competence.items():
            known[i, AGENTS.index(agent)] = value
    return Assessments(
        modalities=names,
        agents=AGENTS,
        strata=("all",),
        posterior=np.eye(3, dtype=np.float32)[column],
        novelty=np.zeros(n),
        p_value=np.array([_number(p.facts.p_value, config) for p in probes], np.float64),
        stratum=np.zeros(n, np.int16),
        stratum_n=np.full(n, 1000, np.int32),
        support=np.array([p.facts.support for p in probes], np.int32),
        specialist=np.where(column < 2, column, -1).astype(np.int16),
        neighbours=np.zeros((n, 1), np.int64),
        similarity=np.ones((n, 1), np.float32),
        tag_disagreement=np.zeros(n, bool),
        competence=known,
        competence_low=known,
        competence_high=known,
        competence_support=np.where(np.isnan(known), np.float32(0), np.float32(100)),
    )


def _matrix(probes: Sequence[Probe], config: PolicyConfig) -> ResponseMatrix:
    n, a, k = len(probes), len(AGENTS), 3
    status = np.full((n, a), ResponseStatus.READ, np.int8)
    confidence = np.ones((n, a), np.float32)
    probabilities = np.zeros((n, a, k), np.float32)
    for i, p in enumerate(probes):
        for j, agent in enumerate(AGENTS):
            said = p.readings.get(agent, Said())
            status[i, j] = _STATUS[said.status]
            confidence[i, j] = _number(said.confidence, config)
            top = max(float(confidence[i, j]), 0.34)
            probabilities[i, j] = (1 - top) / 2
            probabilities[i, j, said.answer] = top
    return ResponseMatrix(
        cases=tuple(p.name for p in probes),
        agents=AGENTS,
        status=status,
        probabilities=probabilities,
        n_options=np.full(n, k, np.int16),
        truth=np.zeros(n, np.int16),
        confidence=confidence,
        latency_ms=np.zeros((n, a), np.float32),
        cost=np.ones((n, a), np.float32),
    )


def _number(value: float | str, config: PolicyConfig) -> float:
    return float(getattr(config, value)) if isinstance(value, str) else value
