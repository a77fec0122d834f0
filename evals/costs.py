"""What each arm costs and brings: labels, parameters, seconds, memory, milliseconds, money.

Prices are stated, not found: a label is what an expert's reading of one training case costs,
an hour is one of the machine that trains and reads.  Change them and read the table again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curbside.agents.trunk import trunk_parameters
from curbside.evals.detail_schema import CostRow
from curbside.evals.schema import ArmSummary, Cost

__all__ = ["PRICES", "Prices", "cost_rows"]


@dataclass(frozen=True)
class Prices:
    """In one currency, whichever; per label, and per hour of the machine."""

    label: float = 1.0
    hour: float = 0.1


PRICES = Prices()


def cost_rows(
    arms: Mapping[str, ArmSummary], built: Mapping[str, Cost], prices: Prices = PRICES
) -> tuple[CostRow, ...]:
    """One row an arm whose making is known, cheapest to build first."""
    whole = trunk_parameters()
    rows = []
    for name, cost in built.items():
        if name not in arms:
            continue
        a = arms[name]
        ms = a.latency_ms.value
        rows.append(
            CostRow(
                arm=name,
                labels=cost.labels,
                trainable_parameters=cost.trainable_parameters,
                trainable_share=cost.trainable_parameters / (whole + cost.trainable_parameters),
                train_seconds=cost.train_seconds,
                peak_mib=cost.peak_mib,
                calls=a.cost.value,
                ms_per_case=ms,
                accuracy=a.accuracy.value,
                money_to_build=cost.labels * prices.label + cost.train_seconds / 3600 * prices.hour,
                money_per_1000=None if ms is None else ms / 3600 * prices.hour,
            )
        )
    return tuple(sorted(rows, key=lambda r: (r.money_to_build or 0, r.arm)))
