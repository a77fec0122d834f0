"""Images of a case for the viewer, and of indexed cases as thumbnails, or why there are none.

Files are found through the store of sources and the manifest that was built from; both stay
on this machine, and no path of theirs is shown.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curbside.decoding import header
from curbside.errors import CurbsideError, ImageError
from curbside.readings import CaseRecord, Explanation
from curbside.router.render import rests_on
from curbside.sniffing import PREFIX, is_dicom
from curbside.study import Instance, Study
from curbside.ui.viewer import Window, drawn, full_window, thumbnail
from curbside.windows import WINDOWS

__all__ = [
    "Explained",
    "Opening",
    "Picture",
    "Slices",
    "explained_of",
    "image_paths",
    "neighbour_picture",
    "numbers",
    "opening",
    "picture",
    "slices_of",
    "with_explanation",
]


@dataclass(frozen=True)
class Slices:
    """What can be leafed through: the images of each series, in reading order."""

    series: tuple[tuple[Instance, ...], ...]

    def __len__(self) -> int:
        return sum(map(len, self.series))

    def outwards(self, series: int) -> list[int]:
        """Images of a series from its middle outwards: where a look at it may start."""
        n = len(self.series[series])
        return sorted(range(n), key=lambda i: abs(i - n // 2))

    @property
    def longest_first(self) -> list[int]:
        """The series, the longest first, as the router looks for the image that it reads."""
        return sorted(range(len(self.series)), key=lambda k: -len(self.series[k]))


def slices_of(images: Sequence[Sequence[Instance]]) -> Slices:
    """The images of each series; a file whose frames nobody has told apart is one slice a frame."""
    found = (_frames(s[0]) if len(s) == 1 else s for s in images if s)
    return Slices(tuple(map(tuple, found)))


@dataclass(frozen=True)
class Opening:
    """Where a look at a study starts.

    Args:
        bad: (series, image) → why it cannot be shown, of those that were tried.
        whole: all were.
    """

    series: int
    at: int
    bad: Mapping[tuple[int, int], str]
    whole: bool


def opening(
    slices: Slices,
    problem: Callable[[int, int], str],
    *,
    finding: float = 4.0,
    further: float = 0.4,
) -> Opening:
    """Where to start, and what of the images around it cannot be shown.

    The image that the router reads stands in the middle of the longest series; where it cannot
    be decoded, the nearest one that can, then another series'.  Further images are tried for as
    long as the time lasts: a study of a few dozen is known whole, of a long one the middle.

    Args:
        slices: at least one image.
        problem: (series, image) → why it cannot be shown, ``""`` where it can.
        finding: seconds after which no more images are tried, whether or not one was found;
            further: after which none is tried once one was found.
    """
    start, tried = time.monotonic(), 0
    found: tuple[int, int] | None = None
    bad: dict[tuple[int, int], str] = {}
    for k in slices.longest_first:
        for i in slices.outwards(k):
            if time.monotonic() - start >= (finding if found is None else further):
                break
            why, tried = problem(k, i), tried + 1
            if why:
                bad[k, i] = why
            elif found is None:
                found = (k, i)
    first = slices.longest_first[0]
    found = found or (first, slices.outwards(first)[0])
    return Opening(*found, bad, whole=tried == len(slices))


def numbers(places: Sequence[int]) -> str:
    """Places from 0 as people write them: ``1, 3–5``."""
    runs: list[list[int]] = []
    for i in sorted(places):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a + 1) if a == b else f"{a + 1}–{b + 1}" for a, b in runs)


def _frames(image: Instance) -> list[Instance]:
    path = image.source
    if image.frame is not None or not isinstance(path, Path):
        return [image]
    try:
        with path.open("rb") as f:
            dicom = is_dicom(f.read(PREFIX))
        if dicom:
            return list(Study.from_dicom(path).instances)
    except (OSError, CurbsideError):
        pass  # the viewer says why when it is looked at
    return [image]


@dataclass(frozen=True)
class Picture:
    """One slice as values to be windowed.

    Args:
        values: float32 (h, w) in units, or uint8 (h, w, 3) RGB.
        kind: its DICOM modality code; ``""`` for a picture that is no grey DICOM object.
        unit: ``HU`` where these are Hounsfield units, ``values`` for other grey DICOM, ``""``.
        presets: windows to choose from; empty for a picture without units.
        problem: why there is no image; then ``values`` is empty.
    """

    values: NDArray[np.generic]
    unit: str = ""
    presets: tuple[Window, ...] = ()
    problem: str = ""
    kind: str = ""

    def png(self, window: Window | None, *, invert: bool) -> bytes:
        """As it is shown."""
        return drawn(self.values, window, invert=invert)


def picture(instance: Instance) -> Picture:
    """Decode one slice; never raises for an image that cannot be used.

    Whether it is in Hounsfield units is for the object to say: what the pixels were taken for
    may be wrong.
    """
    try:
        values = instance.values()
        kind = str(header(instance.read(), ())["kind"])
    except ImageError:
        try:
            return Picture(instance.pixels())
        except ImageError as e:
            return Picture(np.zeros((0, 0), np.float32), problem=e.message)
    whole = full_window(values)
    # the lowest value may be padding, far below all that was measured
    measured = values[values > values.min()]
    low, high = np.percentile(measured if measured.size else values, (1, 99))
    auto = Window("automatic", float(low + high) / 2, max(float(high - low), 1.0))
    if kind != "CT":
        return Picture(values, "values", (auto, whole), kind=kind)
    named = (Window(n.replace("_", " "), *w) for n, w in WINDOWS.items())
    return Picture(values, "HU", (auto, *named, whole), kind=kind)


@dataclass(frozen=True)
class Explained:
    """What a reading rests on, as far as it is known, and the image that it was read from.

    Args:
        instance: None where that image is not here any more.
        said: the same in words.
        legend: what an overlay's colours mean.
    """

    explanation: Explanation
    instance: Instance | None
    said: str
    legend: str


def explained_of(record: CaseRecord, instance: Instance | None) -> Explained | None:
    """From a record; None where no reading of it counts.

    Args:
        instance: the image that the record was made from, where it is here.
    """
    reading = record.explained
    if reading is None or reading.explanation is None:
        return None
    found = reading.explanation
    return Explained(
        found,
        instance if found.grid else None,
        f"The reading rests on {rests_on(found)}." if found.kind != "none" else rests_on(found),
        f"Orange speaks for “{found.option}”, blue against it; pale is little, not nothing. "
        f"{100 * found.share:.0f} % of the decision has a place.",
    )


def with_explanation(png: bytes, explanation: Explanation) -> bytes:
    """A PNG of the whole image with its explanation over it."""
    from curbside.agents.activation import overlay

    rgb = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    out = io.BytesIO()
    Image.fromarray(overlay(rgb, explanation)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def image_paths(built: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """Case → image of some indexed cases, from the manifest that was built from."""
    open_ = set(wanted)
    found: dict[str, Path] = {}
    try:
        with built.open(encoding="utf-8") as lines:
            for line in lines:
                row: Mapping[str, str] = json.loads(line)
                if row.get("id") in open_:
                    found[row["id"]] = Path(row["image"])
                    open_.discard(row["id"])
                if not open_:
                    break
    except (OSError, ValueError, KeyError):
        return found
    return found


def neighbour_picture(path: Path | None) -> bytes | None:
    """A thumbnail of an indexed case; None where its image is not on this machine."""
    if path is None:
        return None
    try:
        return thumbnail(Instance(path).pixels())
    except ImageError:
        return None
