"""What every part of ``summary.json`` is made of: strict models, numbers that may be unknown."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Estimate", "Number", "Strict"]


def _no_nan(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        # seven digits: what float32 arithmetic can vouch for
        return round(float(value), 7) if math.isfinite(value) else None
    return value


Number = Annotated[float | None, BeforeValidator(_no_nan)]


class Strict(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Estimate(Strict):
    """A number with its 95 % percentile bootstrap interval; null where not assessable."""

    value: Number
    ci_low: Number
    ci_high: Number
