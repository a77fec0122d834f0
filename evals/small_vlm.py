"""How well a small VLM reads, beside what the same questions give without the image.

Three controls: the question alone, a blank image, and a *shuffled* one.  Where all cases are
asked the same (the modality; the label within a task) the shuffled control is exact: the chance
that the answer to another of these images is right for this one.  Intervals are percentile
bootstraps over groups (patient or image) and, inside it, over seeds; a macro average counts
every modality evenly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curbside.agents.small_vlm.wording import plain
from curbside.cases import Case
from curbside.evals.small_vlm_answers import Labels, Modalities, Visual
from curbside.evals.statistics import draw_groups, draw_models, interval, over_models
from curbside.evals.vqa import exact_match, normalised, token_f1

__all__ = ["CONTROLS", "Row", "judge_labels", "judge_modality", "judge_visual", "temperature"]

Float = NDArray[np.float32]
CONTROLS = ("without", "blank", "shuffled")
_REPLICATES = 2000


@dataclass(frozen=True)
class Row:
    """One line of the table: (estimate, low, high) each.

    Args:
        n: cases or questions; ``groups`` they come from.
        value: with the image; ``seeds``: each seed's own value.
        controls: value under each control, and ``over``: with the image minus it.
    """

    name: str
    n: int
    groups: int
    value: tuple[float, float, float]
    seeds: tuple[float, ...]
    controls: Mapping[str, tuple[float, float, float]]
    over: Mapping[str, tuple[float, float, float]]

    @property
    def skill(self) -> bool:
        """Whether it is better with the image than under every control, as far as is known."""
        return all(self.over[k][1] > 0 for k in CONTROLS)


def judge_modality(cases: Sequence[Case], said: Sequence[Modalities], name: str) -> Row:
    """Exact match of free answers with the modality's name, macro over modalities."""
    truth = [plain(c.modality or "") for c in cases]
    with_image, shuffled = [], []
    for s in said:
        with_image.append([exact_match(a, t) for a, t in zip(s.said, truth, strict=True)])
        answers = [normalised(a) for a in s.said]
        shuffled.append(_chance(answers, [normalised(t) for t in truth], [""] * len(truth)))
    controls = {
        "without": [[exact_match(s.without, t) for t in truth] for s in said],
        "blank": [[exact_match(s.blank, t) for t in truth] for s in said],
        "shuffled": shuffled,
    }
    strata = [c.modality or "" for c in cases]
    return _row(name, _groups(cases), strata, with_image, controls)


def judge_labels(
    cases: Sequence[Case],
    said: Sequence[Labels],
    name: str,
    *,
    beside: Mapping[str, Sequence[bool]] | None = None,
) -> Row:
    """Accuracy of "which of: …?", macro over modalities.

    Args:
        beside: other agents' right and wrong on the same cases; they come as controls too.
    """
    tasks = [c.task or "" for c in cases]
    truth = [c.label or "" for c in cases]

    def best(case: Case, scores: Sequence[float]) -> str:
        return case.options[int(np.argmax(scores))]

    def right(picked: Sequence[str]) -> list[float]:
        return [float(p == t) for p, t in zip(picked, truth, strict=True)]

    picked = [[best(c, x) for c, x in zip(cases, s.said, strict=True)] for s in said]
    controls: dict[str, list[list[float]]] = {
        "without": [right([best(c, s.without[c.task or ""]) for c in cases]) for s in said],
        "blank": [right([best(c, s.blank[c.task or ""]) for c in cases]) for s in said],
        "shuffled": [_chance(p, truth, tasks) for p in picked],
    }
    controls |= {k: [[float(x) for x in v]] * len(said) for k, v in (beside or {}).items()}
    strata = [c.modality or "" for c in cases]
    return _row(name, _groups(cases), strata, [right(p) for p in picked], controls)


def judge_visual(
    cases: Sequence[Case], said: Sequence[Visual], name: str, *, f1: bool = False
) -> Row:
    """Exact match, or token F1, of visual questions; each question counts evenly."""
    score = token_f1 if f1 else exact_match
    truth = [c.attributes["answer"] for c in cases]

    def scored(answers: Sequence[str]) -> list[float]:
        return [score(a, t) for a, t in zip(answers, truth, strict=True)]

    controls = {k: [scored(getattr(s, k)) for s in said] for k in CONTROLS}
    return _row(name, _groups(cases), [""] * len(cases), [scored(s.said) for s in said], controls)


def temperature(cases: Sequence[Case], scores: Sequence[Sequence[float]]) -> float:
    """Of closed answers: the one under which the true options are likeliest, in [0.25, 8].

    Args:
        scores: log-probabilities of each case's options.
    """
    from scipy.optimize import minimize_scalar

    logits = [np.asarray(s, np.float64) for s in scores]
    true = [c.options.index(c.label or "") for c in cases]

    def loss(log_temperature: float) -> float:
        scaled = [x / np.exp(log_temperature) for x in logits]
        lost = [np.logaddexp.reduce(x) - x[t] for x, t in zip(scaled, true, strict=True)]
        return float(np.mean(lost))

    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(8)), method="bounded")
    return float(np.exp(found.x))


def _chance(picked: Sequence[str], truth: Sequence[str], within: Sequence[str]) -> list[float]:
    """For each case the share of the *other* cases it is shuffled with whose answer fits it."""
    counts, sizes = Counter(zip(within, picked, strict=True)), Counter(within)
    return [
        (counts[w, t] - (p == t)) / (sizes[w] - 1) if sizes[w] > 1 else 0.0
        for p, t, w in zip(picked, truth, within, strict=True)
    ]


def _groups(cases: Sequence[Case]) -> NDArray[np.intp]:
    named = [c.group or c.id for c in cases]
    return np.asarray(np.unique(named, return_inverse=True)[1], np.intp)


def _row(
    name: str,
    groups: NDArray[np.intp],
    strata: Sequence[str],
    with_image: Sequence[Sequence[float]],
    controls: Mapping[str, Sequence[Sequence[float]]],
) -> Row:
    n = int(groups.max()) + 1
    weights = draw_models(len(with_image), _REPLICATES, 0)
    counts = draw_groups(n, _REPLICATES, 0)
    which = np.unique(strata, return_inverse=True)[1]

    def by_seed(values: Sequence[Sequence[float]]) -> list[Float]:
        table = np.asarray(values, np.float32)
        parts = []
        for s in range(which.max() + 1):
            at = np.flatnonzero(which == s)
            total = np.zeros((len(table) + 1, n), np.float32)
            np.add.at(total[-1], groups[at], 1)
            for k, row in enumerate(table):
                np.add.at(total[k], groups[at], row[at])
            sums = counts @ total.T
            with np.errstate(invalid="ignore"):
                parts.append(sums[:, :-1] / sums[:, -1:])
        macro = np.nanmean(np.stack(parts), axis=0)
        return list(np.asarray(macro, np.float32).T)

    own = by_seed(with_image)
    mine = over_models(own, weights)
    values = {k: over_models(by_seed(v), weights) for k, v in controls.items()}
    return Row(
        name,
        len(groups),
        n,
        interval(mine),
        tuple(float(v[0]) for v in own),
        {k: interval(v) for k, v in values.items()},
        {k: interval(mine - v) for k, v in values.items()},
    )
