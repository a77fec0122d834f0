"""How likely is each agent right on this case?  From outcomes on ``tune`` cases near it.

For agent a, with kernel weights w_i = min(1, exp((cos_i − c) / τ)) over the tune cases that
a read, where c is the cosine of the nearest tune case, or the farthest that nearest ones
usually are if that is higher (so that one far from all outcomes borrows little from them):

    overall   r = (Σ correct + ½) / (N + 1)
    modality  q = (correct in predicted modality + κ₁·r) / (n + κ₁)
    here      p = (Σ w·correct + κ₂·q) / (Σ w + κ₂)

that is, a beta-binomial mean shrunk twice towards the coarser rate (Gelman et al. 2013,
section 5.3).  κ₁ has the highest beta-binomial likelihood over modalities; τ and κ₂ the
lowest log-loss when a case's whole group is left out.  The interval is the central 95 % of
a beta distribution with the effective number of outcomes behind p.  An outcome is a reading
with a known truth: abstentions and failures count neither way.  Knows no policy.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from curbside.assessments import Embeddings
from curbside.errors import IndexCorrupt, IndexMismatch, InternalError, UserError
from curbside.indexes.features import Features
from curbside.indexes.store import content_digest, read_store, tensor_bytes, write_store
from curbside.responses import ResponseMatrix
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.assess import Assessor

__all__ = ["KIND", "Competence", "Estimate"]

KIND = "competence"
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
#: Share of tune cases that are farther from the next group than what counts as usual.
_USUAL = 0.05
_TWO_SIDED = 0.05
#: Outcomes, near ones and those of the coarser rates, below which nothing is claimed.
_MINIMUM_SUPPORT = 5.0

#: estimate, low, high, support: each float32 (n, a)
Estimate = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class Competence:
    """Estimates of P(correct) for each agent; made by :meth:`fit` or :meth:`load`.

    Args:
        fingerprint: of the embeddings that ``vectors`` are.
        agents: columns.
        modalities: names that ``column`` refers to.
        vectors: float32 (n, d), tune cases with outcomes.
        column: intp (n,), predicted modality of each.
        correct, read: bool (n, a).
        temperature, within, between, usual: τ, κ₂, κ₁ and the least c.
    """

    def __init__(
        self,
        fingerprint: str,
        agents: tuple[str, ...],
        modalities: tuple[str, ...],
        vectors: NDArray[np.float32],
        column: NDArray[np.intp],
        correct: NDArray[np.bool_],
        read: NDArray[np.bool_],
        *,
        temperature: float,
        within: float,
        between: float,
        usual: float,
    ) -> None:
        self.fingerprint, self.agents, self.modalities = fingerprint, agents, modalities
        self._vectors, self._column, self._correct, self._read = vectors, column, correct, read
        self.temperature, self.within, self.between = temperature, within, between
        self.usual = usual
        total, by = _counts(column, correct, read, len(modalities))
        self._rate, self._rate_support = _pooled(total, by, between)

    @classmethod
    def fit(
        cls, assessor: Assessor, cases: Cases, features: Features, responses: ResponseMatrix
    ) -> Competence:
        """Learn from what agents answered on ``tune`` cases.

        Args:
            cases: of role ``tune`` only.
            features: one row a case; images that failed are left out.
            responses: of some or all of the cases, named by id.

        Raises:
            UserError: cases of another role (their outcomes would be in-sample, or would
                spend calibration or test cases), or no outcome at all.
        """
        others = sorted({str(r) or "none" for r in cases.roles[cases.roles != "tune"]})
        if others:
            raise UserError(
                f"competence is learned from role 'tune' only, but {(cases.roles != 'tune').sum()} "
                f"of {len(cases)} cases have another role: {', '.join(others)}",
                hint="pass the cases of role 'tune'",
            )
        row = {str(name): i for i, name in enumerate(cases.ids)}
        unknown = [c for c in responses.cases if c not in row]
        if unknown or len(features) != len(cases):
            raise InternalError(
                f"{len(unknown)} responses are of no case given; "
                f"{len(features)} features for {len(cases)} cases"
            )
        at = np.array([row[c] for c in responses.cases], np.intp)
        read = responses.read & (responses.truth >= 0)[:, None]
        keep = np.flatnonzero(features.usable[at] & read.any(axis=1))
        if not len(keep):
            raise UserError(
                "no agent has read a tune case whose truth is known, so nothing is known of "
                "their competence",
                hint="give some cases of role 'tune' a task, a label and options",
            )
        at, read = at[keep], read[keep]
        correct = responses.correct[keep] & read
        pooled = features.pooled[at]
        vectors, column = assessor.embed(pooled).vectors, assessor.modality_of(pooled)
        m = len(assessor.modalities)
        between = _between(*_counts(column, correct, read, m))
        temperature, within, usual = _choose(
            vectors, column, correct, read, cases.groups[at], m, between
        )
        return cls(
            assessor.fingerprint,
            responses.agents,
            assessor.modalities,
            vectors,
            column,
            correct,
            read,
            temperature=temperature,
            within=within,
            between=between,
            usual=usual,
        )

    def estimate(self, embeddings: Embeddings, modality: NDArray[np.intp]) -> Estimate:
        """P(correct) of each agent on n cases.

        Args:
            embeddings: n cases, of the same fingerprint.
            modality: intp (n,), column of the predicted modality.

        Returns:
            estimate, low, high and effective support, each float32 (n, a); low ≤ estimate
            ≤ high.  NaN where fewer than 5 outcomes, near and coarser, stand behind it.

        Raises:
            IndexMismatch: embeddings of another encoder or projection.
        """
        if embeddings.fingerprint != self.fingerprint:
            raise IndexMismatch(
                f"competence belongs to embeddings {self.fingerprint[:12]}, "
                f"not {embeddings.fingerprint[:12]}",
                hint="curbside build",
            )
        cosine = embeddings.vectors @ self._vectors.T
        weight = _kernel(cosine, self.temperature, self.usual)
        near = weight @ self._read
        prior = self._rate[modality]
        p = (weight @ self._correct + self.within * prior) / (near + self.within)
        p = np.clip(p, 0.0, 1.0)  # rounding
        behind = self._rate_support[modality]
        support = near + np.minimum(self.within, behind)
        # half a success and half a failure (Jeffreys): a rate of 1 has an interval too
        low = special.betaincinv(p * support + 0.5, (1 - p) * support + 0.5, _TWO_SIDED / 2)
        high = special.betaincinv(p * support + 0.5, (1 - p) * support + 0.5, 1 - _TWO_SIDED / 2)
        known = near + behind >= _MINIMUM_SUPPORT
        columns = (p, np.minimum(low, p), np.maximum(high, p))
        estimate, low, high = (np.where(known, v, np.nan).astype(np.float32) for v in columns)
        return estimate, low, high, support.astype(np.float32)

    def select(self, agents: tuple[str, ...]) -> Competence:
        """The same for some agents, in the order given; NaN for those that are not known."""
        new = copy.copy(self)
        place = {a: i for i, a in enumerate(self.agents)}

        def pick(values: NDArray[Any], absent: float) -> NDArray[Any]:
            columns = [
                values[:, place[a]] if a in place else np.full(len(values), absent, values.dtype)
                for a in agents
            ]
            return np.stack(columns, axis=1) if columns else values[:, :0]

        new.agents = agents
        new._read, new._correct = pick(self._read, 0), pick(self._correct, 0)
        new._rate, new._rate_support = pick(self._rate, 0.5), pick(self._rate_support, 0.0)
        return new

    # -- keeping ------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 of all that an estimate depends on."""
        return content_hash(content_digest(KIND, self._facts(), {}), tensor_bytes(self._arrays()))

    def _facts(self) -> dict[str, object]:
        return {
            "fingerprint": self.fingerprint,
            "agents": list(self.agents),
            "modalities": list(self.modalities),
            "cases": len(self._vectors),
            "temperature": self.temperature,
            "within": self.within,
            "between": self.between,
            "usual": self.usual,
        }

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "vectors": self._vectors,
            "column": self._column.astype(np.int64),
            "correct": self._correct.astype(np.uint8),
            "read": self._read.astype(np.uint8),
        }

    def save(self, folder: Path) -> None:
        """Write as one folder, whole or not at all.  Raises StorageError."""
        files = {"outcomes.safetensors": tensor_bytes(self._arrays())}
        write_store(folder, KIND, files, self._facts())

    @classmethod
    def load(cls, folder: Path) -> Competence:
        """Read and verify.  Raises NotBuilt, IndexMismatch, IndexCorrupt."""
        stored = read_store(folder, KIND)
        facts, arrays = stored.facts, stored.tensors("outcomes.safetensors")
        try:
            return cls(
                facts["fingerprint"],
                tuple(facts["agents"]),
                tuple(facts["modalities"]),
                arrays["vectors"],
                arrays["column"].astype(np.intp),
                arrays["correct"].astype(bool),
                arrays["read"].astype(bool),
                temperature=float(facts["temperature"]),
                within=float(facts["within"]),
                between=float(facts["between"]),
                usual=float(facts["usual"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise IndexCorrupt(
                f"the competence at {folder} is whole, but not what this version writes",
                hint="curbside build",
            ) from e


def _kernel(cosine: NDArray[np.float32], temperature: float, usual: float) -> NDArray[np.float32]:
    """Weights in [0, 1] of m outcomes for n cases, float32 (n, m), from their cosines."""
    nearest = np.maximum(cosine.max(axis=1, keepdims=True), np.float32(usual))
    return np.asarray(np.exp((cosine - nearest) / np.float32(temperature)), np.float32)


def _counts(
    column: NDArray[np.intp], correct: NDArray[np.bool_], read: NDArray[np.bool_], m: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overall (2, a) and by modality (2, m, a): correct readings, readings."""
    by = np.zeros((2, m, read.shape[1]))
    np.add.at(by[0], column, correct)
    np.add.at(by[1], column, read)
    return by.sum(axis=1), by


def _pooled(
    total: NDArray[np.float64], by: NDArray[np.float64], between: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rate of each agent in each modality, shrunk, and the outcomes behind it, (m, a)."""
    overall = (total[0] + 0.5) / (total[1] + 1)
    rate = (by[0] + between * overall) / (by[1] + between)
    return rate, by[1] + np.minimum(between, total[1])


def _between(total: NDArray[np.float64], by: NDArray[np.float64]) -> float:
    """κ₁: the strength under which the counts by modality are most likely."""
    overall = (total[0] + 0.5) / (total[1] + 1)
    right, wrong = by[0], by[1] - by[0]

    def likelihood(strength: float) -> float:
        a, b = strength * overall, strength * (1 - overall)
        return float((special.betaln(right + a, wrong + b) - special.betaln(a, b)).sum())

    return max(_STRENGTHS, key=likelihood)


def _choose(
    vectors: NDArray[np.float32],
    column: NDArray[np.intp],
    correct: NDArray[np.bool_],
    read: NDArray[np.bool_],
    groups: NDArray[np.str_],
    m: int,
    between: float,
) -> tuple[float, float, float]:
    """τ and κ₂ with the lowest log-loss when a case's own group is left out; and ``usual``."""
    # a case without a group is its own
    named = np.where(groups == "", np.char.add("row ", np.arange(len(groups)).astype(str)), groups)
    _, of = np.unique(named, return_inverse=True)
    same = of[:, None] == of[None, :]
    c, r = correct.astype(np.float64), read.astype(np.float64)
    in_modality = (column[:, None] == column[None, :]) & ~same
    overall = (c.sum(0) - same @ c + 0.5) / (r.sum(0) - same @ r + 1)
    prior = (in_modality @ c + between * overall) / (in_modality @ r + between)
    cosine = np.where(same, np.float32(-np.inf), vectors @ vectors.T)
    nearest = cosine.max(axis=1)
    others = np.isfinite(nearest)  # a single group has no other to be near to
    usual = float(np.quantile(nearest[others], _USUAL)) if others.any() else 1.0
    best, lowest = (_TEMPERATURES[0], _STRENGTHS[-1]), np.inf
    for temperature in _TEMPERATURES:
        weight = _kernel(cosine, temperature, usual).astype(np.float64)
        near, right = weight @ r, weight @ c
        for strength in _STRENGTHS:
            p = np.clip((right + strength * prior) / (near + strength), 1e-6, 1 - 1e-6)
            loss = -(np.log(p) * c + np.log1p(-p) * (r - c)).sum()
            if loss < lowest - 1e-9:
                best, lowest = (temperature, strength), float(loss)
    return (*best, usual)
