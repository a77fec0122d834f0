"""How sure must a reader be before it answers alone?  Error among answered cases, bounded.

Learn-then-Test (Angelopoulos, Bates, Candès, Jordan & Lei 2021): each confidence threshold
λ is a hypothesis "the error rate among cases with score ≥ λ exceeds ε", tested with an
exact binomial p-value on ``calibration`` cases; testing many of them keeps the family-wise
error at δ.  So, with probability 1 − δ over the calibration set, every threshold that is
certified has an error rate of at most ε.  Knows scores and truths; no agent, no policy.

What must hold: groups (patients) are exchangeable with those to come, and the thresholds
were fixed without looking at calibration truths (:func:`thresholds_of` on ``tune``).  Cases
of one group are not independent, so one case a group is drawn for the test and the
statement is about a case of a new group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from curbside.errors import InternalError

__all__ = ["DELTA", "EPSILON", "Certified", "Point", "curve", "learn_then_test", "thresholds_of"]

EPSILON, DELTA = 0.2, 0.1
#: Stated error rates that a curve is drawn for.
_EPSILONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)

Method = Literal["fixed-sequence", "bonferroni"]


@dataclass(frozen=True)
class Certified:
    """What was tested and what holds, for t thresholds, strictest (highest) first.

    Args:
        epsilon, delta: error rate among answered cases, and the chance of being wrong.
        thresholds: float64 (t,); a case is answered when its score is at or above.
        answered: int64 (t,), independent cases answered, of ``n``.
        errors: int64 (t,), wrong ones among them.
        p_value: float64 (t,), exact binomial, of "the error rate exceeds epsilon".
        holds: bool (t,), certified.
        coverage, risk: float64 (t,), over *all* cases: share answered, share wrong of those
            (NaN where none is answered); described, not certified.
    """

    epsilon: float
    delta: float
    n: int
    thresholds: NDArray[np.float64]
    answered: NDArray[np.int64]
    errors: NDArray[np.int64]
    p_value: NDArray[np.float64]
    holds: NDArray[np.bool_]
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]

    @property
    def best(self) -> int | None:
        """Position of the certified threshold that answers most; None where none is."""
        where = np.flatnonzero(self.holds)
        return int(where[-1]) if len(where) else None

    @property
    def threshold(self) -> float | None:
        """The lowest certified threshold; None: nothing may be answered at this ε and δ."""
        return None if self.best is None else float(self.thresholds[self.best])


@dataclass(frozen=True)
class Point:
    """One stated error rate and what it allows.

    Args:
        threshold: None where no threshold can be certified; then nothing is answered.
        coverage: share of all cases answered.
        risk: observed error rate among them, NaN where none is answered.
    """

    epsilon: float
    threshold: float | None
    coverage: float
    risk: float


def thresholds_of(scores: NDArray[np.floating], steps: int = 50) -> NDArray[np.float64]:
    """Thresholds to test, float64 (≤ steps,), descending: quantiles of ``tune`` scores.

    Each step answers about the same number of cases more; scores that are not finite
    (cases that may never be answered) are left out.

    Raises:
        InternalError: no finite score.
    """
    known = np.asarray(scores, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        raise InternalError("thresholds need finite scores")
    levels = np.linspace(1, 0, steps + 1)[1:]
    return np.unique(np.quantile(known, levels, method="higher"))[::-1]


def learn_then_test(
    scores: NDArray[np.floating],
    correct: NDArray[np.bool_],
    groups: NDArray[np.str_],
    thresholds: NDArray[np.floating],
    *,
    epsilon: float = EPSILON,
    delta: float = DELTA,
    method: Method = "fixed-sequence",
    starts: int = 3,
    seed: int = 0,
) -> Certified:
    """Which thresholds keep the error rate among answered cases at ε, with confidence 1 − δ?

    Args:
        scores: (n,) confidence of ``calibration`` cases, higher is surer; ``-inf`` where a
            case may never be answered.
        correct: (n,), whether the answer would be right.
        groups: (n,), what belongs together (patients); ``""`` stands for itself.
        thresholds: (t,), fixed beforehand.
        method: ``fixed-sequence``: from strict to permissive until one fails, begun at
            ``starts`` places with δ / starts each; ``bonferroni``: each at δ / t.
        seed: of the draw of one case a group.

    Raises:
        InternalError: shapes differ, no case, a score that is NaN, or ε, δ outside (0, 1).
    """
    score = np.asarray(scores, np.float64)
    if not (len(score) == len(correct) == len(groups)) or not len(score) or not len(thresholds):
        raise InternalError(
            f"risk control needs as many scores ({len(score)}) as truths ({len(correct)}) and "
            f"groups ({len(groups)}), and thresholds ({len(thresholds)})"
        )
    if np.isnan(score).any():
        raise InternalError("a score is NaN; a case that may never be answered has -inf")
    if not (0 < epsilon < 1 and 0 < delta < 1 and starts >= 1):
        raise InternalError(f"ε = {epsilon} and δ = {delta} must lie in (0, 1)")
    order = np.sort(np.asarray(thresholds, np.float64))[::-1]
    one = _one_a_group(groups, seed)
    answered, errors = _count(score[one], correct[one], order)
    p = np.where(answered > 0, stats.binom.cdf(errors, answered, epsilon), 1.0)
    alone = p <= delta / len(order)
    holds = alone if method == "bonferroni" else _fixed_sequence(p, delta, starts)
    every, wrong = _count(score, correct, order)
    with np.errstate(invalid="ignore"):
        risk = np.where(every > 0, wrong / np.maximum(every, 1), np.nan)
    return Certified(
        epsilon, delta, len(one), order, answered, errors, p, holds, every / len(score), risk
    )


def curve(
    scores: NDArray[np.floating],
    correct: NDArray[np.bool_],
    groups: NDArray[np.str_],
    thresholds: NDArray[np.floating],
    *,
    epsilons: Sequence[float] = _EPSILONS,
    delta: float = DELTA,
    method: Method = "fixed-sequence",
) -> tuple[Point, ...]:
    """Coverage for each ε, ascending; each point holds with 1 − δ by itself, not all at once.

    Choose ε before looking at the curve: arguments are those of :func:`learn_then_test`.
    """
    points = []
    for epsilon in sorted(epsilons):
        found = learn_then_test(
            scores, correct, groups, thresholds, epsilon=epsilon, delta=delta, method=method
        )
        if found.best is None:
            points.append(Point(epsilon, None, 0.0, float("nan")))
        else:
            at = found.best
            points.append(
                Point(epsilon, found.threshold, float(found.coverage[at]), float(found.risk[at]))
            )
    return tuple(points)


def _one_a_group(groups: NDArray[np.str_], seed: int) -> NDArray[np.intp]:
    """Rows, one drawn at random of each group; a case without a group is its own."""
    mixed = np.random.default_rng(seed).permutation(len(groups))
    named = groups[mixed] != ""
    _, first = np.unique(groups[mixed][named], return_index=True)
    drawn = np.concatenate([mixed[named][first], mixed[~named]])
    return np.sort(drawn).astype(np.intp)


def _count(
    score: NDArray[np.float64], correct: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cases at or above each threshold, and wrong ones among them."""
    ascending = np.argsort(score, kind="stable")
    below = np.searchsorted(score[ascending], thresholds, side="left")
    wrong_below = np.concatenate([[0], np.cumsum(~correct[ascending])])
    answered = len(score) - below
    return answered.astype(np.int64), (wrong_below[-1] - wrong_below[below]).astype(np.int64)


def _fixed_sequence(p: NDArray[np.float64], delta: float, starts: int) -> NDArray[np.bool_]:
    """Algorithm 1 of the paper: from each start on until the first that is not rejected."""
    holds = np.zeros(len(p), bool)
    level = delta / starts
    for start in np.linspace(0, len(p), starts, endpoint=False).astype(int):
        fails = np.flatnonzero(p[start:] > level)
        holds[start : start + (int(fails[0]) if len(fails) else len(p) - start)] = True
    return holds
