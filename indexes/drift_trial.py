"""Does the drift check see drift?  Images of another source, mixed in, and perturbed images.

For each modality with a second source of enough cases, that source is taken out of the index
and of calibration altogether, the index is fitted again, and windows are drawn from the
``tune`` and ``test`` cases of the other sources, one case a group, with none, a tenth and
half of them replaced by cases of the left-out source.  For perturbations every case of a
window is changed alike.  What is counted is how often that modality is said to have drifted.
Nothing that ships is fitted here.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from curbside.config import Config
from curbside.errors import ImageError, UserError
from curbside.indexes.assess import Assessor
from curbside.indexes.drift import MINIMUM, Sample, drift
from curbside.indexes.features import Features, FeatureSource
from curbside.indexes.leaks import near_duplicates
from curbside.pixels import read_bytes, read_image
from curbside.study import Study

if TYPE_CHECKING:
    from curbside.cases import Cases

__all__ = ["PERTURBATIONS", "TrialRow", "drift_trial", "perturbed"]

SHARES = (0.0, 0.1, 0.5)
_SECOND_SOURCE = 60


@dataclass(frozen=True)
class TrialRow:
    """One change of one modality: windows drawn, and the share of them said to have drifted.

    ``flagged`` is the mean share of a window with p ≤ 5 %, for comparison.
    """

    modality: str
    change: str
    cases: int
    windows: int
    drifted: float
    flagged: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def _noise(image: Image.Image, sigma: float) -> Image.Image:
    x = np.asarray(image.convert("RGB"), np.float32)
    noisy = x + np.random.default_rng(0).normal(0, sigma, x.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


#: Name → what is done to every image of a window.
PERTURBATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "noise σ = 5/255": lambda i: _noise(i, 5),
    "JPEG quality 30": lambda i: _jpeg(i, 30),
    "contrast + 30 %": lambda i: ImageEnhance.Contrast(i.convert("RGB")).enhance(1.3),
}


def perturbed(raw: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    """An image changed, as PNG bytes.  Raises ImageError where it cannot be read."""
    image = Image.fromarray(read_image(raw)) if not isinstance(raw, Image.Image) else raw
    out = io.BytesIO()
    change(image).save(out, "PNG")
    return out.getvalue()


def drift_trial(
    cases: Cases,
    source: FeatureSource,
    config: Config,
    *,
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
        window, windows: cases of a window (fewer where there are not so many), and windows.

    Raises:
        UserError: no modality has a second source of enough cases.
    """
    features = source.of(cases.studies(), label="encoding images", grid=False)
    origin = np.array([c.attributes.get(column, "") for c in cases], np.str_)
    rng = np.random.default_rng(seed)
    rows: list[TrialRow] = []
    for modality, second in _second_sources(cases, origin):
        part = _Part(cases, features, origin, config, modality, second)
        if min(len(part.own), part.calibrated) < MINIMUM:
            continue
        for share in SHARES:
            rows.append(part.run(f"{share:.0%} {second}", share, part.foreign, window, windows, rng))
            done(rows[-1])
        for name, change in PERTURBATIONS.items() if perturb else ():
            pooled = _perturbed_features(cases, part.own, source, change)
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
        modality: str,
        second: str,
    ) -> None:
        self.modality = modality
        foreign = (cases.modalities == modality) & (origin == second) & features.usable
        rest = np.flatnonzero(~foreign)
        known = cases.take(rest)
        self.assessor = Assessor.fit(known, features.take(rest), config)
        train = np.flatnonzero((cases.roles == "train") & ~foreign & features.usable)
        held = np.flatnonzero((cases.roles == "calibration") & ~foreign & features.usable)
        held = held[~near_duplicates(features.pooled[train], features.pooled[held])]
        self.calibration, _ = self._sample(features.pooled[held])
        self.calibrated = int((self.calibration.modality == modality).sum())
        mine = (cases.modalities == modality) & np.isin(cases.roles, ("tune", "test"))
        self.own = _one_a_group(cases, np.flatnonzero(mine & ~foreign & features.usable))
        self.base = features.pooled[self.own]
        self.foreign = features.pooled[_one_a_group(cases, np.flatnonzero(foreign))]

    def _sample(self, pooled: NDArray[np.float32]) -> tuple[Sample, NDArray[np.float64]]:
        facts = self.assessor.assess(pooled)
        names = np.array(self.assessor.modalities, np.str_)[facts.modality]
        vectors = self.assessor.embed(pooled).vectors
        return Sample(names, facts.novelty, vectors), facts.p_value

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
        drifted, flagged = [], []
        for turn in range(windows):
            own = self.base[rng.permutation(len(self.base))[: size - swapped]]
            strange = other[rng.permutation(len(other))[:swapped]]
            pooled = np.concatenate([own, strange])
            sample, p = self._sample(pooled[rng.permutation(len(pooled))])
            found = drift(sample, self.calibration, seed=turn)
            by = {m.modality: m.verdict for m in found.modalities}
            drifted.append(by.get(self.modality) == "drift")
            flagged.append((p <= 0.05).mean())
        return TrialRow(
            self.modality, change, size, windows, float(np.mean(drifted)), float(np.mean(flagged))
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


def _perturbed_features(
    cases: Cases,
    rows: NDArray[np.intp],
    source: FeatureSource,
    change: Callable[[Image.Image], Image.Image],
) -> NDArray[np.float32]:
    # nothing of this is worth keeping: memory only
    fresh = FeatureSource(source.encoder)
    studies = []
    for r in rows:
        try:
            raw = perturbed(read_bytes(cases[int(r)].image), change)
        except ImageError:
            continue
        studies.append(Study.from_image(raw, id=f"row-{r}"))
    found = fresh.of(studies, grid=False)
    return found.pooled[found.usable]
