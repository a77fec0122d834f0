"""The learned projection: raw encoder features to unit vectors in which the like lie close.

Linear discriminant analysis with a shrunk within-class covariance (Fisher 1936; Hastie,
Tibshirani & Friedman 2009, section 4.3.3; shrinkage as in Friedman 1989).  Classes are
modality × label, and in the between-class scatter every *modality* weighs the same, so that
the axes are not spent on the modality with the most cases.  Knows features, modality and
label of the ``train`` cases; no question, no options, no role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from curbside.config import ProjectionConfig
from curbside.errors import InternalError, UserError
from curbside.study import content_hash

__all__ = ["Projection", "class_names"]

#: Raise when the same arrays would give other vectors.
_VERSION = "1"
#: Fewest cases of a modality × label for a class of its own.
_CLASS_MINIMUM = 4


def class_names(
    modalities: NDArray[np.str_], labels: NDArray[np.str_], *, minimum: int = _CLASS_MINIMUM
) -> NDArray[np.str_]:
    """The class of each training case: modality × label, or the modality where that is thin.

    Cases without a label, and labels with fewer than ``minimum`` cases, share the class of
    the rest of their modality: a mean of three cases is mostly those three cases.

    Returns:
        (n,) of str; a class never spans two modalities.
    """
    fine = np.array(
        [f"{m}|{label}" if label else m for m, label in zip(modalities, labels, strict=True)],
        dtype=np.str_,
    ).reshape(len(modalities))
    names, inverse, counts = np.unique(fine, return_inverse=True, return_counts=True)
    thin = counts < minimum
    return np.where(thin[inverse], modalities, names[inverse]) if len(names) else fine


@dataclass(frozen=True)
class Projection:
    """Raw features (n, d) to unit vectors (n, k).

    Args:
        kind: ``lda`` or ``none`` (unit length, nothing else).
        mean: float32 (d,), taken off after the square root; empty for ``none``.
        axes: float32 (d, k); empty for ``none``.
    """

    kind: str
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        pooled: NDArray[np.float32],
        modalities: NDArray[np.str_],
        labels: NDArray[np.str_],
        config: ProjectionConfig,
        copies: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    ) -> Projection:
        """Fit on ``train`` cases.

        Args:
            pooled: float32 (n, d), raw.
            modalities: (n,), ``""`` nowhere.
            labels: (n,), ``""`` where there is none.
            copies: raw features of v images and of a perturbed copy of each, float32 (v, d)
                both; weighted by ``config.invariance``.

        Raises:
            UserError: fewer than two modalities, or no more cases than classes.
        """
        if config.kind == "none":
            empty = np.zeros(0, np.float32)
            return cls("none", empty, empty.reshape(0, 0))
        x = _spread(pooled).astype(np.float64)
        coarse = np.unique(modalities)
        if len(coarse) < 2:
            raise UserError(
                f"the projection needs train cases of two modalities or more, not {len(coarse)}",
                hint="add cases to the manifest, or set encoder.projection.kind: none",
            )
        nuisance = np.zeros((x.shape[1], x.shape[1]))
        if copies is not None and len(copies[0]) and config.invariance:
            change = (_spread(copies[1]) - _spread(copies[0])).astype(np.float64)
            nuisance = config.invariance * (change.T @ change) / len(change)
        mean, axes = _discriminants(
            x, modalities, class_names(modalities, labels), config, nuisance
        )
        return cls("lda", mean.astype(np.float32), np.ascontiguousarray(axes.astype(np.float32)))

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides a vector."""
        return content_hash(
            f"projection {_VERSION} {self.kind} {self.axes.shape}",
            self.mean.tobytes(),
            self.axes.tobytes(),
        )

    def apply(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Unit vectors, float32 (n, k), of raw features, float32 (n, d).

        Raises:
            InternalError: features of another width, or not finite.
        """
        if self.kind == "lda" and (pooled.ndim != 2 or pooled.shape[1] != len(self.mean)):
            raise InternalError(f"features must be (n, {len(self.mean)}), not {pooled.shape}")
        if not np.isfinite(pooled).all():
            raise InternalError("features must be finite")
        if self.kind == "none":
            return _unit(pooled.astype(np.float32))
        z = np.asarray((_spread(pooled) - self.mean) @ self.axes, np.float32)
        return _unit(z)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What :meth:`from_arrays` needs, for storage."""
        return {
            "kind": np.frombuffer(self.kind.encode(), np.uint8),
            "mean": self.mean,
            "axes": self.axes,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Projection:
        """The projection that gave these :meth:`arrays`."""
        return cls(arrays["kind"].tobytes().decode(), arrays["mean"], arrays["axes"])


def _discriminants(
    x: NDArray[np.float64],
    modalities: NDArray[np.str_],
    classes: NDArray[np.str_],
    config: ProjectionConfig,
    nuisance: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weighted mean (d,) and discriminant axes (d, k): whiten, then the axes of the means."""
    _, first, inverse, counts = np.unique(
        classes, return_index=True, return_inverse=True, return_counts=True
    )
    n, c = len(x), len(counts)
    if n <= c:
        raise UserError(
            f"the projection needs more train cases than classes, not {n} for {c}",
            hint="add cases to the manifest, or set encoder.projection.kind: none",
        )
    means = np.zeros((c, x.shape[1]))
    np.add.at(means, inverse, x)
    means /= counts[:, None]
    residual = x - means[inverse]
    within = residual.T @ residual / (n - c) + nuisance
    d = len(within)
    scale = max(float(np.trace(within)) / d, 1e-12)
    # the tiny ridge keeps the factor positive where shrinkage is 0 and d > n
    within = (1 - config.shrinkage) * within + (config.shrinkage + 1e-6) * scale * np.eye(d)
    root = linalg.cholesky(within, lower=True)

    # a class weighs its share of its modality; modalities weigh the same
    names, of = np.unique(modalities[first], return_inverse=True)
    weight = counts / np.bincount(of, weights=counts)[of] / len(names)
    mean = weight @ means
    between = linalg.solve_triangular(root, (means - mean).T, lower=True).T
    _, _, axes = np.linalg.svd(between * np.sqrt(weight)[:, None], full_matrices=False)
    axes = axes[: min(config.dimensions, c - 1)]
    # the sign of a singular vector is arbitrary: fix it, so that equal data give equal bytes
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    return mean, np.asarray(linalg.solve_triangular(root, axes.T, lower=True, trans="T"))


def _spread(pooled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signed square root: pooled activations are skewed, and a few would carry the distance."""
    return np.asarray(np.sign(pooled) * np.sqrt(np.abs(pooled)), np.float32)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    out = x / np.where(norm > 0, norm, 1)
    if (norm == 0).any():
        # a direction must be given; which one is of no account, but it must not vary
        out[(norm == 0)[:, 0], 0] = 1
    return np.asarray(out, np.float32)
