"""The key ``details`` of ``summary.json``: everything that is looked at beside the verdict."""

from __future__ import annotations

from typing import Literal

from curbside.evals.schema_base import Estimate, Number, Strict

__all__ = [
    "ArmDetail",
    "Conclusion",
    "CostRow",
    "Details",
    "Frontier",
    "Gain",
    "PersonRow",
    "PoolRow",
    "Regret",
    "ReliabilityBin",
    "Route",
    "SubgroupRow",
]


class ReliabilityBin(Strict):
    """Cases of similar confidence."""

    confidence: Number
    accuracy: Number
    n: int
    ci_low: Number = None
    ci_high: Number = None
    """Of the accuracy, groups resampled."""


class ArmDetail(Strict):
    """One arm, over known cases with a task, macro over modalities unless it says micro."""

    accuracy_micro: Estimate
    """Over cases, whatever their modality."""
    must_not_miss: Estimate
    """Recall over cases whose label the manifest declares must not be missed."""
    aurc: Estimate
    """Area under the risk–coverage curve of its own confidence; lower is better."""
    augrc: Estimate
    """Area under the generalised risk–coverage curve; lower is better."""
    risk_at: dict[str, Estimate]
    """Coverage → share wrong among the surest cases."""
    brier: Estimate
    ece: Estimate
    """Adaptive expected calibration error; its interval leans upwards, as resampling adds noise."""
    deferral_area: Estimate
    """Mean net benefit over 0 to 50 % referred, better gate."""


class Gain(Strict):
    """What a way of choosing gains of what could be gained."""

    over_random: Estimate
    """Accuracy minus that of choosing by chance, at the rates within each recognised modality of
    the best hybrid over S and Gfull; ``H-consult``: of asking by chance at its own rates."""
    normalised: Estimate
    """The same as a share of (case oracle − random); 0 is chance, 1 the oracle.  ``H-consult``:
    of the oracle over Gfull and its first colleague."""


class Regret(Strict):
    """What a hybrid loses, and whose fault each wrong answer is; shares of known cases, macro."""

    between: tuple[str, str] = ("S", "Gfull")
    """The two that the oracles choose between; for ``H-consult`` the first colleague and Gfull."""
    to_task_oracle: Estimate
    """Null for ``H-consult``: that oracle is over S and Gfull."""
    to_case_oracle: Estimate
    twin_gain: Estimate
    """Case oracle of two seeds of one model minus one of them: what luck alone gains."""
    parts: dict[str, Estimate]
    """``wrong_modality``, ``to_generalist``, ``to_specialist``, ``both_wrong``; for ``H-consult``
    ``to_generalist``, ``to_colleague``, ``both_wrong``.  They sum to the errors, and
    ``both_wrong`` is no router's fault."""
    novel_to_specialist: Estimate
    """Share of novel cases that a specialist (``H-consult``: a colleague) reads, gates off."""


class Frontier(Strict):
    """Cost and accuracy together; cost in calls."""

    points: list[tuple[str, Number, Number]]
    """Arm, cost, accuracy."""
    zero: list[tuple[Number, Number]]
    """Hull of what needs no router."""
    routers: dict[str, list[tuple[Number, Number]]]
    """Policy → its operating points."""
    low: Number
    high: Number
    aiq: dict[str, Estimate]
    """Mean accuracy of a policy's hull over the range of costs."""
    above_zero: dict[str, Estimate]
    """The same minus that of the zero router."""


class Route(Strict):
    """Cases that went one way under the hybrid put forward, gates off."""

    route: str
    n: int
    share: Number
    accuracy: Number
    """Micro, over known cases."""
    ci_low: Number = None
    ci_high: Number = None
    """Of the accuracy, groups resampled."""
    calls: Number
    latency_ms: Number


class Conclusion(Strict):
    """a against b on accuracy, at the pre-registered margin, with a cross-check."""

    a: str
    b: str
    delta: Number
    ci_low: Number
    ci_high: Number
    margin: float
    conclusion: Literal["better", "worse", "equivalent", "inconclusive", "not assessable"]
    """``equivalent``: the whole interval lies within the margin."""
    non_inferior: bool | None
    """The whole interval lies above −margin."""
    minimum_detectable: Number
    mcnemar_p: Number
    """Exact, over cases (micro), groups ignored."""
    a_only: int
    b_only: int
    """Cases that only the one, or only the other, got right."""


class PersonRow(Strict):
    """Best share to refer when a person is right with ``accuracy`` and costs ``cost`` a case."""

    accuracy: float
    cost: float
    best: dict[str, tuple[float, Number]]
    """Arm → share referred and the net benefit there."""
    ci_low: Number = None
    ci_high: Number = None
    """Of the hybrid's net benefit at that share, groups resampled."""


class PoolRow(Strict):
    """All readers as one weighted mean, or all but one."""

    without: str
    """Who is left out; empty: nobody."""
    weights: dict[str, Number]
    """Fitted on tune."""
    tune_accuracy: Number
    """Cross-fitted by group."""
    accuracy: Estimate
    gain: Estimate
    """What the pool gains by the one left out; above 0 it earns its place. For the whole pool:
    its gain over the best arm alone."""


class CostRow(Strict):
    """What an arm takes to make and to run, and what it brings; prices are in ``prices``."""

    arm: str
    labels: int
    trainable_parameters: int
    trainable_share: Number
    """Of all its numbers, the frozen trunk's included."""
    train_seconds: Number
    peak_mib: Number
    calls: Number
    ms_per_case: Number
    accuracy: Number
    money_to_build: Number
    money_per_1000: Number
    """Machine time of a thousand readings."""


class SubgroupRow(Strict):
    """A rate of one group of people, or the largest difference between two."""

    attribute: str
    group: str
    metric: str
    n: int
    suppressed: bool
    """Too few cases to be shown."""
    rate: Estimate


class Details(Strict):
    """Everything beside the registered comparisons; nothing here decides the verdict."""

    arms: dict[str, ArmDetail]
    gain: dict[str, Gain]
    regret: dict[str, Regret]
    frontier: Frontier | None
    routes: list[Route]
    conclusions: list[Conclusion]
    pool: list[PoolRow]
    persons: list[PersonRow]
    reliability: dict[str, dict[str, list[ReliabilityBin]]]
    """Arm → modality → bins."""
    subgroups: list[SubgroupRow]
    must_not_miss_declared: int
    """Cases with a label that the manifest declares must not be missed."""
