"""How likely is each agent right on this case?  From outcomes on cases near it.

For agent a, with kernel weights w_i = min(1, exp((cos_i − c) / τ)) over the outcomes that a
has, where c is the cosine of the nearest one, or the farthest that nearest ones usually are
if that is higher (so that one far from all outcomes borrows little from them):

    overall   r = (Σ correct + ½) / (N + 1)
    modality  q = ρ·(correct in predicted modality + κ₁·r) / (n + κ₁)
                  + (1 − ρ)·(correct in predicted modality + 1) / (n + 2)
    task      t = Σ π_t (correct in t + κ₂·q) / (n_t + κ₂) + (1 − Σ π_t)·q
    here      p = (Σ w·correct + κ₃·t) / (Σ w + κ₃)

that is, a beta-binomial mean shrunk three times towards the coarser rate (Gelman et al.
2013, section 5.3).  ρ, from 0.9 before any outcome, is the posterior probability that the
agent reads the modality as it reads others and not at any rate at all (a robust mixture prior,
Schmidli et al. 2014): a modality that an agent never learned is not vouched for by those that it
did.  The task is not told but recognised: π_t = W_t / (W + 1), with W_t the
weight of near outcomes of task t.  κ₁ has the highest beta-binomial likelihood over
modalities; τ, κ₂ and κ₃ the lowest log-loss when a case's whole group is left out (κ₂ = ∞ is
among the choices: no use of tasks).  The interval is the central 95 % of a beta distribution
with the effective number of outcomes behind p.  An outcome is a reading with a known truth:
abstentions and failures count neither way.  Knows no policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from curbside.assessments import Embeddings
from curbside.errors import IndexCorrupt, IndexMismatch
from curbside.indexes.features import Features
from curbside.indexes.join import Join
from curbside.indexes.outcomes import Outcomes
from curbside.indexes.store import content_digest, read_store, tensor_bytes, write_store
from curbside.responses import ResponseMatrix
from curbside.study import content_hash

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.indexes.assess import Assessor

__all__ = ["KIND", "Competence", "Estimate"]

KIND = "competence"
_TEMPERATURES = (0.02, 0.05, 0.1, 0.2)
_TASK_STRENGTHS = (4.0, 16.0, 64.0, float("inf"))
_STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
#: Share of tune cases that are farther from the next group than what counts as usual.
_USUAL = 0.05
_TWO_SIDED = 0.05
#: Outcomes, in the modality or near, each counted once, below which nothing is claimed.
_MINIMUM_SUPPORT = 5.0
#: Prior probability that an agent reads a modality unlike others: at any rate, all as likely.
_UNLIKE = 0.1
#: Outcomes, drawn at random, on which τ, κ₂ and κ₃ are chosen.
_CHOOSE_FROM = 3000

#: estimate, low, high, support: each float32 (n, a)
Estimate = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class Competence:
    """Estimates of P(correct) for each agent; made by :meth:`fit` or :meth:`load`.

    Args:
        fingerprint: of the embeddings that ``vectors`` are.
        agents: columns.
        modalities: names that ``column`` refers to.
        vectors: float32 (n, d), cases with outcomes.
        column: intp (n,), predicted modality of each.
        correct, read: bool (n, a).
        temperature, within, between, usual: τ, κ₃, κ₁ and the least c.
        task: intp (n,), task of each, counted from 0; all one task where left out.
        by_task: κ₂; infinite: tasks are not used.
        join: P(correct) once an agent has read, if it was fitted.
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
        task: NDArray[np.intp] | None = None,
        by_task: float = math.inf,
        join: Join | None = None,
    ) -> None:
        self.fingerprint, self.agents, self.modalities = fingerprint, agents, modalities
        self._vectors, self._column, self._correct, self._read = vectors, column, correct, read
        self.temperature, self.within, self.between = temperature, within, between
        self.usual, self.by_task, self.join = usual, by_task, join
        self._task = np.zeros(len(vectors), np.intp) if task is None else task
        self._member = np.eye(self._task.max(initial=0) + 1, dtype=np.float32)[self._task]
        total, by = _counts(column, correct, read, len(modalities))
        self._rate, self._rate_support = _pooled(total, by, between)
        self._own = by[1]

    @classmethod
    def fit(
        cls,
        assessor: Assessor,
        cases: Cases,
        features: Features,
        responses: ResponseMatrix,
        *,
        fold: Mapping[str, int] | None = None,
        also: Outcomes | None = None,
    ) -> Competence:
        """Learn from what agents answered on ``tune`` cases; see :meth:`Outcomes.of`.

        Args:
            also: other outcomes to learn from, e.g. of reviewed production cases.

        Raises:
            UserError: cases of another role (their outcomes would be in-sample, or would
                spend calibration or test cases), or no outcome at all.
        """
        outcomes = Outcomes.of(cases, features, responses, fold=fold)
        return cls.learn(assessor, outcomes if also is None else outcomes.joined(also))

    @classmethod
    def learn(cls, assessor: Assessor, outcomes: Outcomes) -> Competence:
        """Learn from outcomes of whatever source."""
        vectors = assessor.embed(outcomes.pooled).vectors
        column = assessor.modality_of(outcomes.pooled)
        _, task = np.unique(outcomes.tasks, return_inverse=True)
        correct, read = outcomes.correct, outcomes.read
        m = len(assessor.modalities)
        between = _between(*_counts(column, correct, read, m))
        some = np.arange(len(outcomes))
        if len(some) > _CHOOSE_FROM:  # every pair is compared
            some = np.sort(np.random.default_rng(0).choice(some, _CHOOSE_FROM, replace=False))
        chosen, without = _choose(
            vectors[some],
            column[some],
            task[some],
            correct[some],
            read[some],
            outcomes.groups[some],
            between,
        )
        join = Join.fit(without, outcomes.confidence[some], correct[some], read[some])
        return cls(
            assessor.fingerprint,
            outcomes.agents,
            assessor.modalities,
            vectors,
            column,
            correct,
            read,
            between=between,
            task=task.astype(np.intp),
            join=join,
            **chosen,
        )

    def estimate(self, embeddings: Embeddings, modality: NDArray[np.intp]) -> Estimate:
        """P(correct) of each agent on n cases.

        Args:
            embeddings: n cases, of the same fingerprint.
            modality: intp (n,), column of the predicted modality.

        Returns:
            estimate, low, high and effective support, each float32 (n, a); low ≤ estimate
            ≤ high.  NaN where fewer than 5 outcomes, near or in the modality, stand behind
            it: what an agent does elsewhere is no evidence that it reads this.

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
        prior, behind = self._by_task(weight, self._rate[modality], self._rate_support[modality])
        p = (weight @ self._correct + self.within * prior) / (near + self.within)
        p = np.clip(p, 0.0, 1.0)  # rounding
        support = near + np.minimum(self.within, behind)
        # half a success and half a failure (Jeffreys): a rate of 1 has an interval too
        low = special.betaincinv(p * support + 0.5, (1 - p) * support + 0.5, _TWO_SIDED / 2)
        high = special.betaincinv(p * support + 0.5, (1 - p) * support + 0.5, 1 - _TWO_SIDED / 2)
        # one that is near and of the modality is one outcome, not two
        elsewhere = np.where(self._column == modality[:, None], np.float32(0), weight)
        known = self._own[modality] + elsewhere @ self._read >= _MINIMUM_SUPPORT
        columns = (p, np.minimum(low, p), np.maximum(high, p))
        estimate, low, high = (np.where(known, v, np.nan).astype(np.float32) for v in columns)
        return estimate, low, high, support.astype(np.float32)

    def _by_task(
        self, weight: NDArray[np.float32], rate: NDArray[np.float64], behind: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rates (n, a), and the outcomes behind them, drawn towards those of the near tasks."""
        if not math.isfinite(self.by_task):
            return rate, behind
        share = weight @ self._member
        share /= share.sum(axis=1, keepdims=True) + 1
        right, n = self._member.T @ self._correct, self._member.T @ self._read
        other = 1 - share.sum(axis=1, keepdims=True)
        pulled = share @ (right / (n + self.by_task))
        pulled += rate * (share @ (self.by_task / (n + self.by_task)) + other)
        known = share @ n + (1 - other) * np.minimum(self.by_task, behind) + other * behind
        return np.asarray(pulled, np.float64), np.asarray(known, np.float64)

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
        new._own = pick(self._own, 0.0)
        if self.join is not None:
            new.join = self.join.select([place.get(a) for a in agents])
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
            "unlike": _UNLIKE,
            "usual": self.usual,
            "by_task": self.by_task if math.isfinite(self.by_task) else None,
        }

    def _arrays(self) -> dict[str, NDArray[Any]]:
        weights = np.zeros((0, 3)) if self.join is None else self.join.weights
        return {
            "join": weights,
            "task": self._task.astype(np.int64),
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
                task=arrays["task"].astype(np.intp),
                by_task=math.inf if facts["by_task"] is None else float(facts["by_task"]),
                join=Join(arrays["join"]) if len(arrays["join"]) else None,
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
    rate, alike = _drawn(by[0], by[1], overall, between)
    pull = alike * between + (1 - alike) * 2
    return rate, by[1] + np.minimum(pull, total[1])


def _drawn(
    right: NDArray[np.float64], n: NDArray[np.float64], rate: NDArray[np.float64], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rates drawn to a coarser one unless the outcomes speak against it, and ρ, both like ``n``."""
    a, b = strength * rate, strength * (1 - rate)
    like = special.betaln(right + a, n - right + b) - special.betaln(a, b)
    unlike = special.betaln(right + 1, n - right + 1)
    alike = special.expit(special.logit(1 - _UNLIKE) + like - unlike)
    drawn = alike * (right + a) / (n + strength) + (1 - alike) * (right + 1) / (n + 2)
    return drawn, np.asarray(alike, np.float64)


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
    task: NDArray[np.intp],
    correct: NDArray[np.bool_],
    read: NDArray[np.bool_],
    groups: NDArray[np.str_],
    between: float,
) -> tuple[dict[str, float], NDArray[np.float32]]:
    """What has the lowest log-loss when a case's own group is left out.

    Returns:
        temperature, by_task, within and usual; and P(correct) of each outcome so estimated,
        float32 (n, a).
    """
    # a case without a group is its own
    named = np.where(groups == "", np.char.add("row ", np.arange(len(groups)).astype(str)), groups)
    _, of = np.unique(named, return_inverse=True)
    same = of[:, None] == of[None, :]
    c, r = correct.astype(np.float64), read.astype(np.float64)
    in_modality = (column[:, None] == column[None, :]) & ~same
    overall = (c.sum(0) - same @ c + 0.5) / (r.sum(0) - same @ r + 1)
    by_modality, _ = _drawn(in_modality @ c, in_modality @ r, overall, between)
    cosine = np.where(same, np.float32(-np.inf), vectors @ vectors.T)
    nearest = cosine.max(axis=1)
    others = np.isfinite(nearest)  # a single group has no other to be near to
    usual = float(np.quantile(nearest[others], _USUAL)) if others.any() else 1.0
    member = np.eye(task.max(initial=0) + 1)[task]
    right_in, read_in = _without_own(member, of, c), _without_own(member, of, r)
    best = {"temperature": _TEMPERATURES[0], "by_task": math.inf, "within": _STRENGTHS[-1]}
    lowest, without = np.inf, by_modality
    for temperature in _TEMPERATURES:
        weight = _kernel(cosine, temperature, usual).astype(np.float64)
        near, right = weight @ r, weight @ c
        share = weight @ member
        share /= share.sum(axis=1, keepdims=True) + 1
        for by_task in _TASK_STRENGTHS:
            prior = by_modality
            if math.isfinite(by_task):
                rate = (right_in + by_task * by_modality[:, None]) / (read_in + by_task)
                prior = np.einsum("nt,nta->na", share, rate)
                prior += (1 - share.sum(axis=1, keepdims=True)) * by_modality
            for within in _STRENGTHS:
                p = np.clip((right + within * prior) / (near + within), 1e-6, 1 - 1e-6)
                loss = -(np.log(p) * c + np.log1p(-p) * (r - c)).sum()
                if loss < lowest - 1e-9:
                    best = {"temperature": temperature, "by_task": by_task, "within": within}
                    lowest, without = float(loss), p
    return best | {"usual": usual}, without.astype(np.float32)


def _without_own(
    member: NDArray[np.float64], group: NDArray[np.intp], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums of (n, a) values by task without those of the case's own group, (n, tasks, a)."""
    by = member[:, :, None] * values[:, None, :]
    own = np.zeros((group.max(initial=-1) + 1, *by.shape[1:]))
    np.add.at(own, group, by)
    return np.asarray(by.sum(axis=0) - own[group])
