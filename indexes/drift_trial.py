"""Does the drift check see drift?  Images of another source, mixed in, and perturbed images.

For each modality with a second source of enough cases, that source is taken out of the index
and of calibration altogether, the index is fitted again, and windows are drawn from the
``tune`` and ``test`` cases of the other sources, one case a group, with none, a tenth and
half of them replaced by cases of the left-out source.  For perturbations every case of a
window is changed alike.  What is counted is how often any recognised modality is said to have
drifted, and apart from that how often more cases have p ≤ 5 % than was promised; the mix is
left out, since a window of one modality never has calibration's.
Nothing that ships is fitted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curbside.config import Config
from curbside.errors import UserError
from curbside.indexes import perturbations as change
from curbside.indexes.assess import Assessor
from curbside.indexes.assess_fit import without_note
from curbside.indexes.drift import MINIMUM, Sample, drift
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.leaks import near_duplicates
from curbside.indexes.views import PerturbedEncoder, Views

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["PERTURBATIONS", "TrialRow", "drift_trial"]

SHARES = (0.0, 0.1, 0.5)
_SECOND_SOURCE = 60

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class TrialRow:
    """One change of one modality: windows drawn, and the share of them said to have drifted.

    ``flagged`` is the mean share of a window with p ≤ 5 %, ``promise`` the share of windows in
    which that is more than was promised.
    """

    modality: str
    change: str
    cases: int
    windows: int
    drifted: float
    flagged: float
    promise: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


#: Name → what is done to every image of a window.
PERTURBATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "noise σ = 5/255": change.noise(5),
    "JPEG quality 30": change.jpeg(30),
    "contrast + 30 %": change.contrast(0.3),
}


def drift_trial(
    cases: Cases,
    source: FeatureSource,
    config: Config,
    *,
    views: Views | None = None,
    column: str = "dataset",
    window: int = 60,
    windows: int = 20,
    perturb: bool = True,
    seed: int = 0,
    done: Callable[[TrialRow], None] = lambda _: None,
) -> list[TrialRow]:
    """Run the trial; ``done`` is called with each row as it is found.

    Args:
        cases: of all roles, with the source of each in an attribute column.
        views: perturbed copies of some of them, as the served index is fitted with.
        window, windows: cases of a window (fewer where there are not so many), and windows.

    Raises:
        UserError: no modality has a second source of enough cases.
    """
    features = source.of(cases.studies(), label="encoding images", grid=False)
    origin = np.array([c.attributes.get(column, "") for c in cases], np.str_)
    rng = np.random.default_rng(seed)
    rows: list[TrialRow] = []
    for modality, second in _second_sources(cases, origin):
        part = _Part(cases, features, origin, config, views, modality, second)
        if min(len(part.own), part.calibrated) < MINIMUM:
            continue
        for share in SHARES:
            rows.append(
                part.run(f"{share:.0%} {second}", share, part.foreign, window, windows, rng)
            )
            done(rows[-1])
        for name, how in PERTURBATIONS.items() if perturb else ():
            changed = FeatureSource(PerturbedEncoder(source.encoder, name, how))
            pooled = changed.of(cases.take(part.own).studies()).pooled
            rows.append(part.run(name, 1.0, pooled, window, windows, rng))
            done(rows[-1])
    if not rows:
        raise UserError(
            f"no modality has a second source (column {column!r}) of {_SECOND_SOURCE} cases",
            hint=f"give the manifest a column {column!r}",
        )
    return rows


class _Part:
    """One modality with its second source left out."""

    def __init__(
        self,
        cases: Cases,
        features: Features,
        origin: NDArray[np.str_],
        config: Config,
        views: Views | None,
        modality: str,
        second: str,
    ) -> None:
        self.modality = modality
        foreign = (cases.modalities == modality) & (origin == second) & features.usable
        rest = np.flatnonzero(~foreign)
        known = cases.take(rest)
        kept = None if views is None else views.among(rest)
        with without_note():
            self.assessor = Assessor.fit(known, features.take(rest), config, kept)
        train = np.flatnonzero((cases.roles == "train") & ~foreign & features.usable)
        held = np.flatnonzero((cases.roles == "calibration") & ~foreign & features.usable)
        held = held[~near_duplicates(features.pooled[train], features.pooled[held])]
        self.calibration = self._sample(features.pooled[held])
        self.calibrated = int((self.calibration.modality == modality).sum())
        mine = (cases.modalities == modality) & np.isin(cases.roles, ("tune", "test"))
        self.own = _one_a_group(cases, np.flatnonzero(mine & ~foreign & features.usable))
        self.base = features.pooled[self.own]
        self.foreign = features.pooled[_one_a_group(cases, np.flatnonzero(foreign))]

    def _sample(self, pooled: NDArray[np.float32]) -> Sample:
        facts = self.assessor.assess(pooled)
        names = np.array(self.assessor.modalities, np.str_)[facts.modality]
        vectors = self.assessor.embed(pooled).vectors
        strata = np.array(facts.strata, np.str_)[facts.stratum]
        return Sample(names, facts.novelty, vectors, facts.p_value, strata, facts.stratum_n)

    def run(
        self,
        change: str,
        share: float,
        other: NDArray[np.float32],
        window: int,
        windows: int,
        rng: np.random.Generator,
    ) -> TrialRow:
        size = min(window, len(self.base))
        swapped = round(share * size)
        drifted, flagged, promise = [], [], []
        for turn in range(windows):
            own = self.base[rng.permutation(len(self.base))[: size - swapped]]
            strange = other[rng.permutation(len(other))[:swapped]]
            pooled = np.concatenate([own, strange])
            sample = self._sample(pooled[rng.permutation(len(pooled))])
            found = drift(sample, self.calibration, seed=turn)
            # whatever its cases are taken for; of the mix, one modality alone says nothing
            drifted.append(any(m.verdict == "drift" for m in found.modalities))
            flagged.append(found.strange)
            promise.append(found.promise == "drift")
        return TrialRow(
            self.modality,
            change,
            size,
            windows,
            float(np.mean(drifted)),
            float(np.mean(flagged)),
            float(np.mean(promise)),
        )


def _second_sources(cases: Cases, origin: NDArray[np.str_]) -> list[tuple[str, str]]:
    found = []
    trained = cases.roles == "train"
    for modality in sorted(set(cases.modalities[trained].tolist())):
        mine = (cases.modalities == modality) & (origin != "")
        sizes = Counter(origin[mine].tolist()).most_common(2)
        if len(sizes) == 2 and sizes[1][1] >= _SECOND_SOURCE:
            found.append((modality, sizes[1][0]))
    return found


def _one_a_group(cases: Cases, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first case of each group, since cases of a patient are alike."""
    named = [str(cases.groups[r]) or f"row {r}" for r in rows]
    return rows[np.sort(np.unique(np.array(named, np.str_), return_index=True)[1])]
