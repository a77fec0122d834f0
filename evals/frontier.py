"""Cost and quality together: hull, AIQ and what a router adds above the zero router.

RouterBench (Hu et al. 2024, section 3): a *router* is a set of (cost, quality) points; what
can be had between two of them by chance is the line between them, so a set is worth its
non-decreasing convex hull.  AIQ is the mean height of the hull over the range of costs.  The
*zero router* is the hull of what needs no router (each model alone, and their average).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["above_zero", "aiq", "height", "hull"]

Points = NDArray[np.float64]


def hull(points: Points) -> Points:
    """The non-decreasing upper convex hull of (cost, quality), float64 (k, 2), by cost."""
    cost, quality = points[:, 0], points[:, 1]
    order = np.lexsort((-quality, cost))
    kept: list[tuple[float, float]] = []
    for c, q in zip(cost[order].tolist(), quality[order].tolist(), strict=True):
        if kept and q <= kept[-1][1]:
            continue  # dearer and no better
        if kept and c == kept[-1][0]:
            continue
        while len(kept) > 1 and _turns_left(kept[-2], kept[-1], (c, q)):
            kept.pop()
        kept.append((c, q))
    return np.array(kept, np.float64).reshape(-1, 2)


def height(points: Points, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quality of the hull at some costs; beyond its dearest point it stays level.

    Below its cheapest point there is nothing to be had: that point's quality is taken.
    """
    h = hull(points)
    return np.asarray(np.interp(at, h[:, 0], h[:, 1]), np.float64)


def aiq(points: Points, low: float, high: float, steps: int = 101) -> float:
    """Mean height of the hull between two costs."""
    if high <= low:
        return float(height(points, np.array([low]))[0])
    at = np.linspace(low, high, steps)
    return float(np.trapezoid(height(points, at), at) / (high - low))


def above_zero(router: Points, zero: Points, low: float, high: float) -> float:
    """AIQ of the router's points minus that of the zero router, over the same costs."""
    return aiq(router, low, high) - aiq(zero, low, high)


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
