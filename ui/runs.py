"""Evaluation runs for the policy lab: found, loaded, replayed under other settings.

A run is a folder with ``summary.json``; with ``responses.parquet``, ``assessments.safetensors``
and ``outcomes.parquet`` beside it, any policy can be replayed over its cases in milliseconds,
by the very ``next()`` that serves.  No model is called and no image is opened here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curbside.config import (
    AnyPolicy,
    AveragePolicy,
    CascadePolicy,
    CompetencePolicy,
    ConsultPolicy,
    PolicyConfig,
    TierPolicy,
)
from curbside.errors import CurbsideError
from curbside.evals.assessment_file import Known, load_assessments
from curbside.evals.frame import Frame
from curbside.evals.gates import case_weights
from curbside.evals.metrics import Utility
from curbside.evals.outcome_file import RunOutcomes, load_outcomes
from curbside.evals.replay import Recording, right_of
from curbside.evals.runs import SUMMARY_FILE, load_summary
from curbside.evals.schema import Summary
from curbside.response_file import load_responses
from curbside.router.policies import make_policy
from curbside.router.policy import codes

__all__ = [
    "EFFECTS",
    "POLICIES",
    "Move",
    "Replay",
    "Run",
    "Setting",
    "Tally",
    "find_runs",
    "load_run",
    "missed",
    "moves",
    "replay",
    "tally",
]


def find_runs(home: Path) -> dict[str, Path]:
    """Name → folder of every run below a home, newest first (two levels deep)."""
    found = [*home.glob(f"*/{SUMMARY_FILE}"), *home.glob(f"*/*/{SUMMARY_FILE}")]
    found.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    return {p.parent.relative_to(home).as_posix(): p.parent for p in found}


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Args:
        outcomes: what every arm made of the asked cases; known, recording: what a replay needs,
            row by row.  None where the run does not keep them.
        why_not: why it cannot be replayed, with the next command; ``""`` where it can.
    """

    folder: Path
    summary: Summary
    outcomes: RunOutcomes | None = None
    known: Known | None = None
    recording: Recording | None = None
    why_not: str = ""
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def colleagues(self) -> tuple[str, ...]:
        """Agents that the policy ``consult`` may ask beside the specialist."""
        if self.recording is None or self.known is None:
            return ()
        return tuple(a for a in self.recording.agents if a not in self.known.serving)

    @property
    def prices(self) -> tuple[float, ...]:
        """What one call costs, agent by agent, in the fleet's unit."""
        assert self.recording is not None
        return tuple(self.recording.matrix.cost.max(axis=0, initial=0).tolist())

    @property
    def frame(self) -> Frame:
        """The asked cases of a run that can be replayed."""
        assert self.outcomes is not None
        return self.outcomes.frame


def load_run(folder: Path) -> Run:
    """Read a run; what is needed for replay is optional.

    Raises:
        NotBuilt: no summary there.
        StorageError: the summary is of another version, or damaged.
    """
    summary = load_summary(folder)
    try:
        outcomes = load_outcomes(folder)
        matrix = load_responses(folder / "responses.parquet")
        known = load_assessments(folder)
    except CurbsideError as e:
        return Run(folder, summary, why_not=str(e).replace(str(folder), folder.name))
    frame = outcomes.frame
    if not len(frame) == len(matrix) == len(known.assessments):
        return Run(folder, summary, why_not="the files of this run are of different evaluations")
    weights = case_weights(frame, np.ones((1, frame.n_groups), np.float32))[0]
    # colleagues are columns too: a policy may ask them
    others = [a for a in matrix.agents if _is_colleague(summary, a)]
    agents = tuple(dict.fromkeys([*known.serving, *others]))
    recording = Recording.of(matrix, known.assessments, agents)
    return Run(folder, summary, outcomes, known, recording, "", weights)


def _is_colleague(summary: Summary, agent: str) -> bool:
    return agent in summary.arms and summary.arms[agent].kind == "colleague"


#: Every policy that ships, by kind; all of them can be replayed.
POLICIES: Mapping[str, type[AnyPolicy]] = {
    "tier": TierPolicy,
    "competence": CompetencePolicy,
    "cascade": CascadePolicy,
    "average": AveragePolicy,
    "consult": ConsultPolicy,
}


@dataclass(frozen=True)
class Setting:
    """What the lab's sliders say; a policy takes what it has of it."""

    kind: str = "tier"
    alpha: float = 0.05
    floor: float = 0.0
    cost_weight: float = 0.0
    minimum_support: int = 100
    escalate_below: float = 0.7
    escalate_unfamiliar: float = 0.0
    refer_disagreement: bool = False
    weight: float = 0.5
    colleagues: tuple[str, ...] = ("specialist",)
    hold_unproven: bool = True
    person_accuracy: float = 1.0
    person_cost: float = 1.0

    @classmethod
    def of(cls, config: PolicyConfig) -> Setting:
        """The setting that a configured policy is."""
        names = {f.name for f in fields(cls)}
        return cls(**{n: v for n, v in config if n in names})

    @classmethod
    def has(cls, kind: str, name: str) -> bool:
        """Whether a kind of policy knows a setting."""
        return name in POLICIES[kind].model_fields

    def config(self) -> PolicyConfig:
        """The policy that the setting is."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return POLICIES[self.kind].model_validate(
            {n: v for n, v in given.items() if self.has(self.kind, n)}
        )


@dataclass(frozen=True)
class Replay:
    """How every case of a run ends under a setting.

    Args:
        answered, right, held_novel: bool (n,).
        weights: float32 (n, a), of the readings that the answer (or the provisional one) is the
            mean of; all 0 where there is none.
        calls: float32 (n,), agents asked; cost: float32 (n,), in the fleet's unit.
        reason: code for each case.
    """

    answered: NDArray[np.bool_]
    right: NDArray[np.bool_]
    weights: NDArray[np.float32]
    calls: NDArray[np.float32]
    cost: NDArray[np.float32]
    reason: tuple[str, ...]

    @property
    def reader(self) -> NDArray[np.intp]:
        """Agent column that weighs most, -1 where none reads."""
        return np.where(self.weights.any(axis=1), self.weights.argmax(axis=1), -1)


def replay(run: Run, setting: Setting) -> Replay:
    """Replay a setting over a run that can be replayed."""
    assert run.recording is not None and run.known is not None
    recording = run.recording
    price = np.asarray(run.prices, np.float32)
    policy = make_policy(
        setting.config(),
        agents=recording.agents,
        generalist=run.known.generalist,
        costs=dict(zip(recording.agents, run.prices, strict=True)),
    )
    d = recording.decide(policy)
    right = right_of(recording.matrix, d.weights) > 0.5
    return Replay(
        answered=d.answered,
        right=right & d.answered,
        weights=d.weights,
        calls=d.asked.sum(axis=1).astype(np.float32),
        cost=np.asarray((d.asked * price).sum(axis=1), np.float32),
        reason=tuple(codes(policy)[i] for i in d.reason.tolist()),
    )


@dataclass(frozen=True)
class Tally:
    """A setting in a few numbers; NaN where there is no such case.

    Args:
        answered: share of known cases answered; accuracy: right among those.
        wrong: known cases answered wrongly; novel_answered, novel: counts of novel cases.
        net_benefit: weighted as in the evaluation (novel cases weigh 10 %).
    """

    known: int
    answered: float
    accuracy: float
    wrong: int
    held: int
    novel: int
    novel_answered: int
    calls: float
    net_benefit: float


def tally(run: Run, r: Replay) -> Tally:
    """Count a replay."""
    known, novel = run.frame.scored, run.frame.novel
    answered = r.answered & known
    worth = Utility().of(r.right.astype(np.float32), r.answered.astype(np.float32), run.frame.novel)
    nan = float("nan")
    return Tally(
        known=int(known.sum()),
        answered=float(answered.sum() / known.sum()) if known.any() else nan,
        accuracy=float(r.right[answered].mean()) if answered.any() else nan,
        wrong=int((answered & ~r.right).sum()),
        held=int((~r.answered).sum()),
        novel=int(novel.sum()),
        novel_answered=int((r.answered & novel).sum()),
        calls=float(r.calls.mean()) if len(r.calls) else nan,
        net_benefit=float((worth * run.weights).sum()),
    )


@dataclass(frozen=True)
class Move:
    """A case that ends elsewhere than before.  ``effect`` says what that means for it."""

    case: str
    modality: str
    tier: str
    truth: str
    before: str
    after: str
    effect: str


#: Effects in the order in which they are listed: harm first.
EFFECTS: Mapping[str, str] = {
    "newly missed": "answered wrongly now, and was not before",
    "novel let through": "novel, held for a person before, answered now",
    "no longer right": "answered rightly before, held now",
    "error held": "answered wrongly before, held for a person now",
    "novel held": "novel, answered before, held for a person now",
    "newly right": "answered rightly now, and was not before",
    "other reader": "other agents read it, with the same result",
}


def moves(run: Run, before: Replay, after: Replay) -> list[Move]:
    """Every case that ends elsewhere, harm first; ids keep the run's order within an effect."""
    assert run.recording is not None
    f, agents = run.frame, run.recording.agents
    changed = (
        (before.answered != after.answered)
        | (before.weights != after.weights).any(axis=1)
        | (before.right != after.right)
    )
    out = [
        Move(
            case=str(f.ids[i]),
            modality=str(f.modality[i]),
            tier=str(f.tier[i]),
            truth=str(f.label[i]) or "–",
            before=_ended(before, agents, i),
            after=_ended(after, agents, i),
            effect=_effect(before, after, bool(f.novel[i]), i),
        )
        for i in np.flatnonzero(changed).tolist()
    ]
    order = list(EFFECTS)
    return sorted(out, key=lambda m: order.index(m.effect))


def missed(run: Run, r: Replay) -> list[Move]:
    """What a setting answers wrongly: known cases with a wrong answer, novel ones with any."""
    assert run.recording is not None
    f, agents = run.frame, run.recording.agents
    bad = r.answered & ((f.scored & ~r.right) | f.novel)
    return [
        Move(
            case=str(f.ids[i]),
            modality=str(f.modality[i]),
            tier=str(f.tier[i]),
            truth=str(f.label[i]) or "–",
            before="",
            after=_ended(r, agents, i),
            effect="novel, answered" if f.novel[i] else "answered wrongly",
        )
        for i in np.flatnonzero(bad).tolist()
    ]


def _ended(r: Replay, agents: tuple[str, ...], i: int) -> str:
    who = " + ".join(agents[j] for j in np.flatnonzero(r.weights[i]).tolist()) or "nobody"
    return who if r.answered[i] else f"held: {r.reason[i].replace('_', ' ')}"


def _effect(before: Replay, after: Replay, novel: bool, i: int) -> str:
    was, now = bool(before.answered[i]), bool(after.answered[i])
    if novel:
        return (
            "novel let through"
            if now and not was
            else "novel held"
            if was and not now
            else ("other reader")
        )
    if now and not after.right[i] and not (was and not before.right[i]):
        return "newly missed"
    if was and not now:
        return "no longer right" if before.right[i] else "error held"
    if now and after.right[i] and not before.right[i]:
        return "newly right"
    return "other reader"
