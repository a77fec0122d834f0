"""Subgroups of people: who gets a false "normal", who is flagged as rare, who waits.

Rates by fairlearn's MetricFrame; intervals by the evaluation's own bootstrap over groups.
A group of fewer than ``SMALLEST`` cases is suppressed: its rate would say little and could
point at a person.  Without attribute columns nothing is assessable, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curbside.evals.arms import Outcomes
from curbside.evals.frame import Frame
from curbside.evals.metrics import ratio
from curbside.evals.statistics import interval

__all__ = ["ATTRIBUTES", "NORMAL", "SMALLEST", "CaseFacts", "GroupRate", "subgroup_rates"]

Float = NDArray[np.float32]
Flags = NDArray[np.bool_]

#: Columns of a manifest that subgroups of people are made of.
ATTRIBUTES = ("sex", "age", "age_group", "ethnicity", "race", "skin_type", "site_group")
#: Labels that read as "nothing found".
NORMAL = frozenset({"normal", "no_finding", "no finding", "healthy", "negative", "non_fractured"})
#: Fewest cases of a group, and of the denominator of a rate, for it to be shown.
SMALLEST = 20


@dataclass(frozen=True)
class CaseFacts:
    """What the manifest says of n asked cases beside the truth; seen by metrics alone.

    Args:
        normal: int16 (n,), index of the option that reads as "normal", -1 where none does.
        must_not_miss: bool (n,), the manifest declares the case's label one not to be missed.
        attributes: column → value of each case, ``""`` where empty.
    """

    normal: NDArray[np.int16]
    must_not_miss: Flags
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupRate:
    """One rate of one group: (estimate, low, high) and over how many cases; None: suppressed."""

    attribute: str
    group: str
    metric: str
    n: int
    value: tuple[float, float, float] | None


def subgroup_rates(
    frame: Frame,
    facts: CaseFacts,
    outcomes: Outcomes,
    referred: Flags,
    flagged: Flags,
    truth: NDArray[np.int16],
    counts: Float,
) -> list[GroupRate]:
    """Accuracy, false-normal, rarity-flag and referral rate and milliseconds of each group.

    ``difference`` rows hold the largest minus the smallest rate among groups that are shown.

    Args:
        outcomes: of the arm that answers everything; its probabilities give what it said.
        referred: bool (n,), the served policy left the case to a person: it waits.
        flagged: bool (n,), rare by its p-value.
        counts: float32 (r, g).
    """
    from fairlearn.metrics import MetricFrame, false_negative_rate, mean_prediction, selection_rate

    top = (
        outcomes.probabilities.argmax(axis=1)
        if outcomes.probabilities is not None and outcomes.probabilities.shape[1]
        else np.full(len(frame), -1)
    )
    abnormal = frame.scored & (facts.normal >= 0) & (truth != facts.normal)
    reads_abnormal = (outcomes.answered < 0.5) | (top != facts.normal)
    known = frame.scored
    # metric → cases it is about, value of each case
    rates: dict[str, tuple[Flags, Float]] = {
        "accuracy": (known, outcomes.right),
        "false_normal": (abnormal, (~reads_abnormal).astype(np.float32)),
        "flagged": (known, flagged.astype(np.float32)),
        "referred": (known, referred.astype(np.float32)),
        "latency_ms": (known, outcomes.latency_ms),
    }
    functions = {
        "accuracy": selection_rate,
        "false_normal": false_negative_rate,
        "flagged": selection_rate,
        "referred": selection_rate,
        "latency_ms": mean_prediction,
    }
    out = []
    for attribute, values in facts.attributes.items():
        for metric, (about, each) in rates.items():
            rows = np.flatnonzero(about & (values != ""))
            names = sorted(set(values[rows].tolist()))
            if not names:
                continue
            said = 1 - each[rows] if metric == "false_normal" else each[rows]
            by = MetricFrame(
                metrics=functions[metric],
                y_true=np.ones(len(rows), int),
                y_pred=said if metric == "latency_ms" else said.round().astype(int),
                sensitive_features=values[rows],
            ).by_group
            shown: dict[str, Float] = {}
            for name in names:
                at = rows[values[rows] == name]
                if len(at) < SMALLEST:
                    out.append(GroupRate(attribute, name, metric, len(at), None))
                    continue
                weight = counts[:, frame.group[at]]
                draws = ratio(weight @ each[at], weight.sum(axis=1))
                shown[name] = draws
                _, low, high = interval(draws)
                value = (float(by[name]), low, high)
                out.append(GroupRate(attribute, name, metric, len(at), value))
            if len(shown) > 1:
                stack = np.stack(list(shown.values()))
                # the two groups that differ most in the sample, then that pair in every replicate
                most, least = int(stack[:, 0].argmax()), int(stack[:, 0].argmin())
                gap = interval(np.asarray(stack[most] - stack[least], np.float32))
                pair = f"{list(shown)[most]} − {list(shown)[least]}"
                out.append(GroupRate(attribute, pair, f"difference in {metric}", len(rows), gap))
    return out
