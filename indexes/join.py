"""P(correct) once an agent has read: competence joined with the agent's own confidence.

    logit p = b₀ + b₁·logit(competence) + b₂·logit(confidence)

Platt's scaling (Platt 1999) with two inputs, an agent at a time, each agent's weights drawn
towards those of all agents together, which are drawn towards (0, 1, 0): competence alone.
Fitted on competence that has not seen the case's group.  Knows no case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["Join", "brier", "folds_of", "log_loss"]

_START = np.array([0.0, 1.0, 0.0])
#: Strength of the pull: in units of readings at p = ½, a quarter of it each.
_PULL_ALL, _PULL_ONE = 1.0, 10.0
_EDGE = 1e-3

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Join:
    """Calibrated P(correct) from competence and confidence; pure.

    Args:
        weights: float64 (a, 3): b₀, b₁, b₂ of each agent.
    """

    weights: NDArray[np.float64]

    def __call__(self, competence: Float, confidence: Float) -> Float:
        """P(correct), float32 (n, a).

        Args:
            competence: float32 (n, a), before reading; NaN (unknown) stays NaN.
            confidence: float32 (n, a), the agent's own; where NaN (no reading yet) the
                result is competence as it is.
        """
        b = self.weights
        p = special.expit(
            b[:, 0] + b[:, 1] * _logit(competence) + b[:, 2] * _logit(confidence)
        ).astype(np.float32)
        return np.where(np.isnan(confidence), competence, p)

    @classmethod
    def fit(
        cls,
        competence: Float,
        confidence: Float,
        correct: NDArray[np.bool_],
        read: NDArray[np.bool_],
    ) -> Join:
        """Learn the weights from n cases × a agents.

        Args:
            competence: learned without the case's group.
            correct, read: bool (n, a).
        """
        usable = read & np.isfinite(competence) & np.isfinite(confidence)
        x = np.stack([np.ones(competence.shape), _logit(competence), _logit(confidence)], axis=-1)
        pooled = _fit(x[usable], correct[usable], _START, _PULL_ALL)
        weights = [
            _fit(x[:, j][usable[:, j]], correct[:, j][usable[:, j]], pooled, _PULL_ONE)
            for j in range(competence.shape[1])
        ]
        return cls(np.stack(weights) if weights else np.zeros((0, 3)))

    def select(self, columns: list[int | None]) -> Join:
        """The weights of some agents; competence alone for None."""
        rows = [_START if c is None else self.weights[c] for c in columns]
        return Join(np.stack(rows) if rows else np.zeros((0, 3)))


def _fit(
    x: NDArray[np.float64], y: NDArray[np.bool_], towards: NDArray[np.float64], pull: float
) -> NDArray[np.float64]:
    if not len(x):
        return towards
    # a tenth of a second that only learning needs
    from scipy import optimize

    def loss(b: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ b
        off = b - towards
        value = np.logaddexp(0, z).sum() - z[y].sum() + pull / 2 * off @ off
        return float(value), x.T @ (special.expit(z) - y) + pull * off

    found = optimize.minimize(loss, towards, jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


def folds_of(groups: NDArray[np.str_], k: int, *, seed: int = 0) -> NDArray[np.intp]:
    """A fold in [0, k) for each case; a group stays together, a case without one is its own."""
    named = np.where(groups == "", np.char.add("row ", np.arange(len(groups)).astype(str)), groups)
    _, of = np.unique(named, return_inverse=True)
    turn = np.random.default_rng(seed).permutation(of.max(initial=-1) + 1)
    return np.asarray(turn[of] % k, np.intp)


def log_loss(p: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Mean −log of the probability given to what happened (nats), p in [0, 1], over all given."""
    q = np.clip(p.astype(np.float64), _EDGE, 1 - _EDGE)
    return float(-np.log(np.where(right, q, 1 - q)).mean())


def brier(p: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Mean squared error of a probability (Brier 1950)."""
    return float(((p.astype(np.float64) - right) ** 2).mean())


def _logit(p: Float) -> NDArray[np.float64]:
    return np.asarray(special.logit(np.clip(p.astype(np.float64), _EDGE, 1 - _EDGE)))
