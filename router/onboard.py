"""A modality that nobody has seen, and what a few labels of it change: the rural clinic's story.

The modality's cases are split by group, again for each draw: labelled ones are taken from one
half and everything is measured on the other.  With k labels a class the index is fitted and
calibrated and competence learned again, as ``curbside index add`` would (some groups join
``tune``, the others ``train``); the serving generalist, which has never seen the modality, reads
through the options' names, and a few-shot head on frozen features is what the same labels give
an agent.  An experiment: where the cases are of role ``test`` it reports
on them, and nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curbside.agents.fleet import Fleet
from curbside.agents.heads import Head
from curbside.assessments import Assessments
from curbside.cases import Case, Cases
from curbside.config import PolicyConfig
from curbside.errors import UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.assess_fit import without_note
from curbside.indexes.competence import Competence
from curbside.indexes.features import Features
from curbside.indexes.outcomes import Outcomes
from curbside.readings import Reading
from curbside.responses import ResponseStatus
from curbside.router.growth import role_of_group
from curbside.router.policies import make_policy
from curbside.router.policy import Responses, run
from curbside.router.workspace import Workspace

__all__ = ["SHOTS", "Onboarded", "onboard", "page", "summary"]

SHOTS = (0, 1, 4, 16)
_ALPHA = 0.05
#: Measure → its title and colour (Okabe & Ito 2008, told apart by the colour-blind).
_LINES = {
    "novel": ("called novel at α = 5 %", "#D55E00"),
    "recognised": ("taken for the modality", "#0072B2"),
    "generalist": ("generalist reads right", "#999999"),
    "head": ("few-shot head reads right", "#009E73"),
    "known_novel": ("known cases called novel", "#CC79A7"),
    "answered": ("answered by the policy", "#000000"),
    "unguarded": ("… if unproven readers answered", "#E69F00"),
}


@dataclass(frozen=True)
class Onboarded:
    """With ``shots`` labels a class, in one draw; shares in [0, 1], NaN where not measurable.

    Args:
        labelled, measured: cases added, and cases of the modality that were measured.
        novel: share of the modality's cases with p ≤ 5 %; p_value: their median.
        recognised: share taken for the modality.
        generalist, head: accuracy of the generalist (through names) and of the few-shot head.
        answered: share that the served policy answers by itself; ``answered_right`` of these.
        unguarded: the share that it would answer with ``hold_unproven`` off.
        known_novel, known_recognised: the same shares of ``tune`` cases, which should not move.
    """

    modality: str
    shots: int
    draw: int
    labelled: int
    measured: int
    novel: float
    p_value: float
    recognised: float
    generalist: float
    head: float
    answered: float
    answered_right: float
    unguarded: float
    known_novel: float
    known_recognised: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def onboard(
    workspace: Workspace,
    cases: Cases,
    modality: str,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = 5,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Onboarded]:
    """Measure before and after, for each number of labels and each draw.

    Args:
        cases: a manifest that has the modality's cases, in any role; those of what was built
            are not used.

    Raises:
        UserError: no such case, too few groups, or the modality is indexed already.
        NotBuilt, IndexCorrupt: see :class:`Workspace`.
    """
    known = workspace.built_cases()
    if modality in set(known.modalities[known.roles == "train"].tolist()):
        raise UserError(
            f"modality {modality!r} is indexed already, so it cannot be onboarded",
            hint="name one that no train case has",
        )
    mine = cases.take(cases.where(modality=modality))
    features = workspace.features(mine)
    usable = np.flatnonzero(features.usable)
    mine, features = mine.take(usable), features.take(usable)
    named = np.array([c.own_group for c in mine], np.str_)
    groups = np.unique(named)
    if len(groups) < 4:
        raise UserError(
            f"{len(mine)} usable cases in {len(groups)} groups of modality {modality!r} are too "
            f"few; modalities of the manifest: {', '.join(sorted(set(cases.modalities) - {''}))}",
            hint="name one of these, with cases of four groups or more",
        )
    told = _told(workspace, mine)
    found = []
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        pool = np.isin(named, rng.permutation(groups)[: len(groups) // 2])
        order = rng.permutation(np.flatnonzero(pool))
        measured = np.flatnonzero(~pool)
        for k in shots:
            labelled = _few(mine, order, k)
            found.append(
                _measure(workspace, known, mine, features, labelled, measured, told, k, draw)
            )
            advance(1)
    return found


def _few(cases: Cases, order: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """The first k of each class in the order given; cases without a label are one class."""
    picked: dict[tuple[str, str], list[int]] = {}
    for row in order.tolist():
        own = picked.setdefault((str(cases.tasks[row]), str(cases.labels[row])), [])
        if len(own) < k:
            own.append(row)
    return np.array(sorted(r for rows in picked.values() for r in rows), np.intp)


@dataclass(frozen=True)
class _Told:
    """What the serving generalist says of each case: read or not, right, how surely."""

    read: NDArray[np.bool_]
    right: NDArray[np.float64]
    confidence: NDArray[np.float32]

    def take(self, rows: NDArray[np.intp]) -> _Told:
        return _Told(self.read[rows], self.right[rows], self.confidence[rows])


def _told(workspace: Workspace, cases: Cases) -> _Told:
    """Right is 1, 0, or NaN where there is no truth or no question."""
    fleet, n = workspace.fleet(), len(cases)
    told = _Told(np.zeros(n, bool), np.full(n, np.nan), np.full(n, np.nan, np.float32))
    asked = [i for i, c in enumerate(cases) if c.label and c.label in c.options]
    said = fleet.agents[fleet.generalist].read_batch([cases[i].study() for i in asked])
    for i, response in zip(asked, said, strict=True):
        told.right[i] = isinstance(response, Reading) and response.answer == cases[i].label
        if isinstance(response, Reading):
            told.read[i], told.confidence[i] = True, response.confidence
    return told


def _competence(
    workspace: Workspace, assessor: Assessor, mine: Cases, features: Features, told: _Told
) -> Competence:
    """Of the tune cases that were built with, and of the generalist on these new ones."""
    rows = np.flatnonzero((mine.roles == "tune") & told.read)
    new = Outcomes(
        (workspace.fleet().generalist,),
        features.pooled[rows],
        mine.groups[rows],
        mine.tasks[rows],
        (told.right[rows] == 1)[:, None],
        np.ones((len(rows), 1), bool),
        told.confidence[rows, None],
    )
    return Competence.learn(assessor, workspace.tune_outcomes().joined(new))


def _answered(
    config: PolicyConfig, fleet: Fleet, facts: Assessments, told: _Told
) -> NDArray[np.bool_]:
    """bool (n,): the policy answers, where the generalist alone reads the modality."""
    policy = make_policy(
        config,
        agents=fleet.serving,
        generalist=fleet.generalist,
        costs={a: fleet.agents[a].card.cost for a in fleet.serving},
    )
    g = fleet.serving.index(fleet.generalist)

    def ask(rows: NDArray[np.intp], wanted: NDArray[np.bool_]) -> Responses:
        status = np.where(wanted, np.int8(ResponseStatus.ABSTAINED), np.int8(0))
        status[wanted[:, g] & told.read[rows], g] = ResponseStatus.READ
        read = status == ResponseStatus.READ
        sure = np.where(read, told.confidence[rows, None], np.float32(np.nan))
        return Responses(fleet.serving, status, sure, np.where(read, 0, -1).astype(np.int16))

    return run(policy, facts, fleet.serving, ask).answered


def _measure(
    workspace: Workspace,
    known: Cases,
    mine: Cases,
    features: Features,
    labelled: NDArray[np.intp],
    measured: NDArray[np.intp],
    told: _Told,
    shots: int,
    draw: int,
) -> Onboarded:
    named = [f"onboarded {r}" for r in labelled]
    new = [
        replace(mine[int(r)], role=role_of_group(name), group=name)
        for r, name in zip(labelled, named, strict=True)
    ]
    both = Cases([*known, *new], known.path)
    everything = workspace.features(both)
    views = workspace.views(both, everything)
    with without_note():
        assessor = Assessor.fit(both, everything, workspace.config, views)
    fleet, served = workspace.fleet(), workspace.config.policy
    learned = _competence(
        workspace, assessor, Cases(new, known.path), features.take(labelled), told.take(labelled)
    )
    modality, there = str(mine.modalities[0]), told.take(measured)
    bound = assessor.bind(fleet.serving, fleet.specialists, learned)
    facts = bound.assess(features.pooled[measured])
    answered = _answered(served, fleet, facts, there)
    free = served.model_copy(update={"hold_unproven": False})
    tune = np.flatnonzero((both.roles == "tune") & everything.usable)
    seen = assessor.assess(everything.pooled[tune])
    names = np.array(assessor.modalities, np.str_)
    return Onboarded(
        modality,
        shots,
        draw,
        len(labelled),
        len(measured),
        float((facts.p_value <= _ALPHA).mean()),
        float(np.median(facts.p_value)),
        float((names[facts.modality] == modality).mean()),
        _mean(there.right),
        _head_accuracy([mine[int(r)] for r in measured], mine, features, labelled, measured),
        float(answered.mean()),
        _mean(there.right[answered]),
        float(_answered(free, fleet, facts, there).mean()),
        float((seen.p_value <= _ALPHA).mean()),
        float((names[seen.modality] == both.modalities[tune]).mean()),
    )


def _head_accuracy(
    asked: Sequence[Case],
    mine: Cases,
    features: Features,
    labelled: NDArray[np.intp],
    measured: NDArray[np.intp],
) -> float:
    right = []
    for task in sorted({c.task for c in asked if c.task and c.label in c.options}):
        own = labelled[(mine.tasks[labelled] == task) & (mine.labels[labelled] != "")]
        if not len(own):
            return float("nan")
        head = Head.fit(features.pooled[own], mine.labels[own])
        for row, case in zip(measured.tolist(), asked, strict=True):
            if case.task == task and case.label in case.options:
                p = head.probabilities(features.pooled[row : row + 1], case.options)[0]
                right.append(case.options[int(p.argmax())] == case.label)
    return _mean(np.array(right, float))


def _mean(values: NDArray[np.float64]) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def summary(found: Sequence[Onboarded]) -> list[dict[str, Any]]:
    """Means over draws, one row a number of labels; ``draws`` says how many."""
    rows = []
    for k in sorted({f.shots for f in found}):
        mine = [f.to_json() for f in found if f.shots == k]
        numbers = {
            name: _mean(np.array([m[name] for m in mine], float))
            for name in mine[0]
            if name not in ("modality", "draw")
        }
        rows.append({"modality": mine[0]["modality"], "draws": len(mine)} | numbers)
    return rows


def page(found: Sequence[Onboarded]) -> str:
    """A self-contained HTML page: a line for each measure, a dot for each draw."""
    import plotly.graph_objects as go
    import plotly.io as pio

    rows = summary(found)
    modality, at = str(rows[0]["modality"]), [str(int(r["shots"])) for r in rows]
    figure = go.Figure()
    for name, (title, colour) in _LINES.items():
        drawn = [f for f in found if np.isfinite(getattr(f, name))]
        if not drawn:
            continue
        figure.add_scatter(
            x=at,
            y=[r[name] for r in rows],
            name=title,
            mode="lines+markers",
            line={"color": colour},
            connectgaps=True,
        )
        figure.add_scatter(
            x=[str(f.shots) for f in drawn],
            y=[getattr(f, name) for f in drawn],
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.4},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_layout(
        title=f"Onboarding {modality}: what a few labels change ({rows[0]['draws']} draws)",
        xaxis={"title": "labels a class", "type": "category"},
        yaxis={"title": "share of cases", "range": [-0.02, 1.02], "tickformat": ".0%"},
    )
    plot = pio.to_html(
        figure, full_html=False, include_plotlyjs=True, config={"displaylogo": False}
    )
    said = (
        "An experiment on held-out cases, split by group anew in each draw; nothing of it is kept. "
        "Research software, not a medical device."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Onboarding {modality}</title>'
        f"<body>{plot}<p>{said}</p></body></html>\n"
    )
