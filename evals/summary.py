"""An evaluation's result as :class:`~curbside.evals.schema.Summary`, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curbside.agents.cost import BuildCost
from curbside.evals.costs import PRICES, cost_rows
from curbside.evals.evaluation import ArmResult, Interval, Result
from curbside.evals.gates import BUDGETS
from curbside.evals.metrics import METRICS, NOVEL_PREVALENCE, Utility
from curbside.evals.novelty import FALSE_DEFERRAL
from curbside.evals.protocol import G16, GFULL
from curbside.evals.schema import (
    ArmSummary,
    CasesSummary,
    ContrastSummary,
    Control,
    Cost,
    Decision,
    Estimate,
    GateNumbers,
    Gates,
    Metric,
    Modality,
    Novelty,
    NoveltyOf,
    Protocol,
    Summary,
    json_schema,
)
from curbside.evals.statistics import Contrast, intervals
from curbside.evals.sweeps import CURVE_BUDGETS
from curbside.storage import write_text

__all__ = ["arm_costs", "json_schema", "summarise", "write_summary"]

#: The hybrid must not be below the best arm alone by more than this (P1, whole interval).
MARGIN = 0.02

_ABOUT = {
    "S": "specialist of the recognised modality, else the one best on tune",
    "G16": "LoRA generalist, at most 16 training cases a label",
    "Gfull": "LoRA generalist, all training cases",
    "E": "probability average of S and Gfull, two calls",
    "H-tier": "the owner's rule over {S, Gfull}: common to its specialist, else the generalist",
    "H-tier16": "the owner's rule over {S, G16}",
    "H-competence": "the higher estimated P(correct) of {S, Gfull}",
    "H-cascade": "S, then Gfull where unsure; the surer answer",
    "H-consult": "Gfull; where unsure its colleagues too, and the mean of all answers",
    "E-consult": "probability average of Gfull and its colleagues, whoever may be asked",
    "pair-oracle": "Gfull or its first colleague, whichever is right",
    "linear-lite2": "logistic regression on EfficientNet-Lite2 and hand-made descriptors",
    "random": "S or Gfull by chance, at a hybrid's rates within each recognised modality",
    "tags": "routing by a coarse DICOM code, body part wrong in 15 % of cases",
    "R-similarity": "RouteLLM's similarity-weighted ranking over {S, Gfull}, learned on tune",
    "R-mlp": "RouterBench's MLP router over {S, Gfull}, learned on tune",
    "task-oracle": "S or Gfull, whichever did better on the case's task on tune",
    "case-oracle": "S or Gfull, whichever is right: no router can do better",
    "twin-oracle": "Gfull of two seeds, whichever is right: what luck alone gains",
    "linear-full": "logistic regression on pooled features, all training cases",
    "linear-16": "logistic regression on pooled features, at most 16 cases a label",
    "served": "the policy as configured, its gates on",
}


def summarise(
    result: Result,
    *,
    manifest: str,
    digest: str,
    build_cost: Mapping[str, BuildCost],
    specialists: Mapping[str, str],
    versions: Mapping[str, str],
    notes: list[str],
    phantoms: bool,
    attributes: bool,
    generated_at: str,
    machine: str,
    about: Mapping[str, str] | None = None,
    controls: Sequence[Control] = (),
) -> Summary:
    """The summary of an evaluation.

    Args:
        build_cost: by agent; arms of several agents are summed here.
        attributes: the manifest has columns of attributes that subgroups could be made of.
        controls: what was measured beside the arms.
        about: arm → what it is, where that differs from the usual.
    """
    f = result.frame
    arms = {name: _arm(a, result, about or {}) for name, a in result.arms.items()}
    made = arm_costs(build_cost, specialists, result.consulted)
    return Summary(
        phantoms=phantoms,
        generated_at=generated_at,
        machine=machine,
        n_cases=len(f),
        cases=CasesSummary(
            manifest=manifest,
            digest=digest,
            n_groups=f.n_groups,
            n_scored=int(f.scored.sum()),
            n_novel=int(f.novel.sum()),
            n_routing_only=int((~f.asked).sum()),
            n_failed=int((~f.usable).sum()),
            per_modality={
                str(m): int((f.modality == m).sum()) for m in sorted(set(f.modality.tolist())) if m
            },
        ),
        protocol=Protocol(
            replicates=result.replicates,
            bootstrap_seed=result.seed,
            training_seeds=list(result.draws),
            budgets=list(BUDGETS),
            novel_prevalence=NOVEL_PREVALENCE,
            worth={k: float(v) for k, v in vars(Utility()).items()},
            fallback_specialist=list(result.fallbacks),
        ),
        arms=arms,
        contrasts=[_contrast(c) for c in result.contrasts],
        modality=_modality(result),
        novelty=_novelty(result),
        build_cost=made,
        costs=cost_rows(arms, made),
        prices={k: float(v) for k, v in vars(PRICES).items()},
        verdict=result.verdict.text,
        decision=_decision(result),
        deferral_curves={a: dict(by) for a, by in result.curves.items()},
        curve_budgets=list(CURVE_BUDGETS),
        sweep=result.sweep,
        subgroups="see details.subgroups"
        if attributes
        else "not assessable: the manifest has no demographic columns",
        details=result.details,
        versions=dict(versions),
        notes=notes,
        controls=list(controls),
    )


def write_summary(summary: Summary, path: Path) -> None:
    """Write ``summary.json`` atomically.  Raises StorageError."""
    body = summary.model_dump(mode="json")
    write_text(path, json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def arm_costs(
    by: Mapping[str, BuildCost], specialists: Mapping[str, str], consulted: Sequence[str] = ()
) -> dict[str, Cost]:
    """What each arm took: its agents' sums.

    Args:
        consulted: colleagues that ``H-consult`` and ``E-consult`` ask.

    Labels are distinct training cases, so a team's are at most those of the generalist that
    saw all of them; peak memory is that of the largest, as they are trained one by one.
    """
    everything = by[GFULL].labels if GFULL in by else None

    def together(names: list[str]) -> Cost | None:
        known = [by[n] for n in names if n in by]
        if not known or len(known) < len(names):
            return None
        labels = sum(c.labels for c in known)
        return Cost(
            labels=labels if everything is None or len(names) == 1 else min(labels, everything),
            trainable_parameters=sum(c.trainable_parameters for c in known),
            train_seconds=round(sum(c.train_seconds for c in known), 3),
            peak_mib=round(max(c.peak_mib for c in known), 1),
        )

    team = sorted(set(specialists.values()))
    parts = {
        "S": team,
        "G16": [G16],
        "Gfull": [GFULL],
        **{
            a: [*team, GFULL]
            for a in ("E", "H-tier", "H-competence", "H-cascade", "R-similarity", "R-mlp")
        },
        "H-tier16": [*team, G16],
        **({a: [GFULL, *consulted] for a in ("H-consult", "E-consult")} if consulted else {}),
        **{name: [name] for name in by if name not in (G16, GFULL)},
    }
    found = {arm: together(names) for arm, names in parts.items()}
    return {arm: cost for arm, cost in found.items() if cost is not None}


def _estimate(triple: Interval) -> Estimate:
    return Estimate(value=triple[0], ci_low=triple[1], ci_high=triple[2])


def _arm(a: ArmResult, result: Result, about: Mapping[str, str]) -> ArmSummary:
    def metric(name: str) -> Metric:
        value, low, high = a.overall[name]
        return Metric(
            value=value,
            ci_low=low,
            ci_high=high,
            per_tier={k: _estimate(v) for k, v in a.per_tier[name].items()},
            per_modality={k: _estimate(v) for k, v in a.per_modality[name].items()},
        )

    gates = None
    if a.gates:
        rows = {
            gate: [
                GateNumbers(deferral=b, **{k: _estimate(v) for k, v in numbers.items()})
                for b, numbers in by.items()
            ]
            for gate, by in a.gates.items()
        }
        gates = Gates(
            novelty=rows["novelty"],
            confidence=rows["confidence"],
            p2=_estimate(a.p2),
            better=a.better_gate,
            novel_answered={k: _estimate(v) for k, v in a.novel_answered.items()},
        )
    return ArmSummary(
        kind=a.kind,
        about=about.get(a.name) or _ABOUT.get(a.name, f"{a.name} answers everything"),
        **{m: metric(m) for m in METRICS},
        auroc=_estimate(a.overall["auroc"]),
        accuracy_unconfounded=_estimate(a.overall["accuracy_unconfounded"]),
        gates=gates,
        tune_accuracy=result.tune_accuracy.get(a.name),
    )


def _contrast(c: Contrast) -> ContrastSummary:
    return ContrastSummary(
        id=f"{c.family}:{c.metric}:{c.a}-vs-{c.b}",
        a=c.a,
        b=c.b,
        metric=c.metric,
        delta=c.delta,
        ci_low=c.low,
        ci_high=c.high,
        p=c.p,
        p_holm=c.p_holm,
        holm_low=c.holm_low,
        minimum_detectable=c.minimum_detectable,
        verdict=c.verdict,
    )


def _row(values: Any) -> Estimate:
    return _estimate(tuple(intervals(values[None])[0]))


def _modality(result: Result) -> Modality:
    v = result.novelty
    named = {"accuracy_common": _row(v.accuracy_common), "accuracy_rare": _row(v.accuracy_rare)}
    return Modality(
        accuracy_common=named["accuracy_common"].value,
        accuracy_rare=named["accuracy_rare"].value,
        per_modality={m: _row(x) for m, x in v.modality_accuracy.items()},
        intervals=named,
    )


def _novelty(result: Result) -> Novelty:
    v, f = result.novelty, result.frame
    named = {
        k: _row(getattr(v, k))
        for k in (
            "auroc_vs_common",
            "auroc_vs_known",
            "fpr95",
            "false_deferral",
            "novel_answered",
        )
    }
    of = {}
    for m in sorted({*v.false_deferral_of, *v.novel_answered_of}):
        rows = (f.modality == m) & f.usable
        of[m] = NoveltyOf(
            tier=str(f.tier[rows][0]),
            n=int(rows.sum()),
            novel_answered=_row(v.novel_answered_of[m]) if m in v.novel_answered_of else None,
            false_deferral=_row(v.false_deferral_of[m]) if m in v.false_deferral_of else None,
        )
    return Novelty(
        **{k: e.value for k, e in named.items()},
        alpha=result.alpha,
        at_false_deferral=FALSE_DEFERRAL,
        per_modality=of,
        intervals=named,
    )


def _decision(result: Result) -> Decision:
    v = result.verdict
    versus = next(
        (
            c
            for c in result.contrasts
            if (c.a, c.b, c.metric) == (result.hybrid, result.best_single, "accuracy")
        ),
        None,
    )
    nothing = (float("nan"),) * 3
    low = float("nan") if versus is None else versus.low
    return Decision(
        hybrid=result.hybrid,
        best_single=result.best_single,
        opponents=list(dict.fromkeys(c.b for c in result.contrasts if c.family != "beside")),
        won=list(v.won),
        not_beaten={k: list(b) for k, b in v.not_beaten.items()},
        dearer_than_ensemble=v.dearer,
        versus_best_single=_estimate(
            nothing if versus is None else (versus.delta, versus.low, versus.high)
        ),
        margin=MARGIN,
        not_below_margin=None if math.isnan(low) else low > -MARGIN,
    )
