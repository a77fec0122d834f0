"""``summary.json`` as strict models with a stable schema.

The JSON Schema in ``docs/summary.schema.json`` is generated from here.  A number that cannot
be assessed (no such case, an arm without probabilities) is ``null``, never 0 and never NaN.
"""

from __future__ import annotations

import json
from typing import Literal

from curbside import RESEARCH_USE
from curbside.evals.detail_schema import CostRow, Details
from curbside.evals.schema_base import Estimate, Number, Strict

__all__ = [
    "ArmSummary",
    "CasesSummary",
    "ContrastSummary",
    "Control",
    "Cost",
    "Decision",
    "Estimate",
    "GateNumbers",
    "Gates",
    "Metric",
    "Modality",
    "Novelty",
    "NoveltyOf",
    "Protocol",
    "Summary",
    "json_schema",
]


class Metric(Estimate):
    """One metric of one arm, macro over modalities."""

    per_tier: dict[str, Estimate]
    """``common``, ``rare``, ``novel`` and the stratum ``rare_finding``."""
    per_modality: dict[str, Estimate]


class GateNumbers(Strict):
    """An arm when one share of the weighted cases is referred."""

    deferral: float
    net_benefit: Estimate
    coverage: Estimate
    selective_accuracy: Estimate


class Gates(Strict):
    """An arm under both gates, at the budgets of P2."""

    novelty: list[GateNumbers]
    confidence: list[GateNumbers]
    p2: Estimate
    """Mean net benefit over the budgets under the better gate."""
    better: Literal["novelty", "confidence"]
    novel_answered: dict[str, Estimate]
    """Gate → share of novel cases answered when 5 % of the common cases are referred."""


class ArmSummary(Strict):
    """One arm, gate off (``served``: gates as configured)."""

    kind: Literal[
        "alone", "colleague", "ensemble", "hybrid", "baseline", "oracle", "linear", "served"
    ]
    about: str
    accuracy: Metric
    balanced_accuracy: Metric
    coverage: Metric
    selective_accuracy: Metric
    net_benefit: Metric
    cost: Metric
    latency_ms: Metric
    auroc: Estimate
    accuracy_unconfounded: Estimate
    """Accuracy without the tasks whose classes come from different sources."""
    gates: Gates | None
    tune_accuracy: Number
    """Macro accuracy on ``tune``: what choices were made on."""


class ContrastSummary(Strict):
    """a − b, paired."""

    id: str
    a: str
    b: str
    metric: str
    delta: Number
    ci_low: Number
    ci_high: Number
    p: Number
    p_holm: Number
    """Null for contrasts beside the registered ones."""
    holm_low: Number
    """Lower bound at the level that Holm leaves; above 0 it beats b."""
    minimum_detectable: Number
    """Difference that 80 % of such samples would show: about 2.8 standard errors."""
    verdict: Literal["a better", "b better", "no difference shown", "not assessable"]


class Modality(Strict):
    """Recognising the modality, from pixels alone."""

    accuracy_common: Number
    accuracy_rare: Number
    per_modality: dict[str, Estimate]
    intervals: dict[str, Estimate]
    """The same numbers with intervals."""


class NoveltyOf(Strict):
    """Novelty on one modality."""

    tier: str
    n: int
    novel_answered: Estimate | None
    false_deferral: Estimate | None


class Novelty(Strict):
    """Telling novel cases from known ones, from pixels alone."""

    auroc_vs_common: Number
    auroc_vs_known: Number
    fpr95: Number
    """Known cases above the score that 95 % of the novel ones reach."""
    false_deferral: Number
    """Common cases called novel at ``alpha``."""
    alpha: float
    novel_answered: Number
    """Macro over novel modalities, when 5 % of the common cases are referred."""
    at_false_deferral: float
    per_modality: dict[str, NoveltyOf]
    intervals: dict[str, Estimate]
    """The same numbers with intervals."""


class Cost(Strict):
    """What it took to make an arm."""

    labels: int
    trainable_parameters: int
    train_seconds: float
    peak_mib: float


class Decision(Strict):
    """What the verdict rests on."""

    hybrid: str
    """The hybrid put forward, chosen on tune."""
    best_single: str
    """The best arm alone, chosen on tune."""
    opponents: list[str]
    won: list[str]
    """Comparisons on which the hybrid beat every opponent."""
    not_beaten: dict[str, list[str]]
    dearer_than_ensemble: bool
    versus_best_single: Estimate
    """P1: hybrid minus best arm alone."""
    margin: float
    not_below_margin: bool | None
    """The whole interval of ``versus_best_single`` lies above −margin."""


class CasesSummary(Strict):
    """What was evaluated."""

    manifest: str
    digest: str
    n_groups: int
    n_scored: int
    n_novel: int
    n_routing_only: int
    n_failed: int
    """Images that could not be read: never right, in no novelty number."""
    per_modality: dict[str, int]


class Protocol(Strict):
    """How it was evaluated."""

    replicates: int
    bootstrap_seed: int
    training_seeds: list[int]
    budgets: list[float]
    novel_prevalence: float
    worth: dict[str, float]
    fallback_specialist: list[str]


class Control(Strict):
    """Something that should not work, or should not matter."""

    name: str
    about: str
    n: int
    value: Number
    ci_low: Number
    ci_high: Number
    held_against: Number
    """The level that ``value`` is held against; null where it is only reported."""
    finding: Literal["found", "not found", "reported", "not assessable"]
    """``found``: something is wrong with the data or the agents; look before you trust."""
    agent: str = ""
    """The agent that it is about; empty: the served ones together, or none."""


class Summary(Strict):
    """One evaluation.  ``schema_version`` changes when a key changes its meaning or goes."""

    schema_version: Literal[1] = 1
    research_use: str = RESEARCH_USE
    phantoms: bool
    """The cases are generated pictures, not images of anyone."""
    generated_at: str
    machine: str
    n_cases: int
    cases: CasesSummary
    protocol: Protocol
    arms: dict[str, ArmSummary]
    contrasts: list[ContrastSummary]
    modality: Modality
    novelty: Novelty
    build_cost: dict[str, Cost]
    verdict: str
    decision: Decision
    deferral_curves: dict[str, dict[str, list[Number]]]
    """Arm → gate → net benefit at ``curve_budgets``."""
    curve_budgets: list[float]
    sweep: list[dict[str, float | str]]
    """P2 of the hybrid and its opponents when one worth is changed at a time."""
    subgroups: str
    details: Details | None = None
    """What is looked at beside the verdict."""
    costs: tuple[CostRow, ...] = ()
    """What each arm takes and brings, cheapest to build first."""
    prices: dict[str, float] | None = None
    """Stated prices of a label and of an hour of the machine."""
    versions: dict[str, str]
    notes: list[str]
    controls: tuple[Control, ...] = ()
    """Empty in summaries of earlier versions."""


def json_schema() -> str:
    """The JSON Schema of ``summary.json``, as kept in ``docs/summary.schema.json``."""
    return json.dumps(Summary.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
