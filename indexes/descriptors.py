"""Hand-made descriptors of an image: colour, texture, edges, scale and layout, without learning.

What a pre-trained network has averaged away or was never asked about, so that a reader on
both errs on other cases than one on the network alone.  Sources: opponent colours (van de
Sande et al., PAMI 2010), uniform local binary patterns (Ojala et al., PAMI 2002), histograms
of oriented gradients (Dalal and Triggs, CVPR 2005), Laplacian of Gaussian (Lindeberg, 1998).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["DESCRIPTORS", "FORMAT", "describe"]

#: Raise when a number or its place changes.
FORMAT = 1
#: Pixels a side that everything is computed on.
_SIDE = 256
_CELLS = 8
_BINS = 9
_THUMBNAIL = 12
_SCALES = (1, 2, 4, 8)
#: Length of the vector: histograms, patterns, gradients, spectrum, thumbnail, scales.
DESCRIPTORS = 3 * 32 + 64 + 2 * 5 * 59 + _CELLS**2 * _BINS + 2 + 32 + 3 * _THUMBNAIL**2 + 6 * 4

Plane = NDArray[np.float32]


def describe(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Descriptors of an RGB image, uint8 (h, w, 3) with sides of at least 256: its middle.

    Returns:
        float32 (:data:`DESCRIPTORS`,), finite; histograms are square roots of shares.
    """
    top, left = ((side - _SIDE) // 2 for side in rgb.shape[:2])
    middle = rgb[top : top + _SIDE, left : left + _SIDE]
    image: Plane = np.asarray(middle, np.float32) / np.float32(255)
    grey: Plane = np.asarray(image @ np.array([0.299, 0.587, 0.114], np.float32))
    thumbnail = Image.fromarray(middle).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    parts: list[Plane] = [
        *_colours(image, grey),
        *_patterns(grey),
        *_gradients(grey),
        _spectrum(grey),
        np.asarray(thumbnail, np.float32).ravel() / np.float32(255),
        *(_blobs(grey, scale) for scale in _SCALES),
    ]
    return np.asarray(np.concatenate(parts), np.float32)


def _colours(image: Plane, grey: Plane) -> list[Plane]:
    """Histograms of brightness and two opponent colours, and of all three coarsely."""
    red_green = image[..., 0] - image[..., 1]
    yellow_blue = (image[..., 0] + image[..., 1] - 2 * image[..., 2]) / 2
    planes = ((grey, 0, 1), (red_green, -1, 1), (yellow_blue, -1, 1))
    coarse = np.clip((image * 4).astype(np.intp), 0, 3) @ np.array([16, 4, 1])
    return [
        *(_shares(np.histogram(p, 32, (low, high))[0]) for p, low, high in planes),
        _shares(np.bincount(coarse.ravel(), minlength=64)),
    ]


def _shares(counts: NDArray[np.intp]) -> Plane:
    return np.asarray(np.sqrt(counts / max(int(counts.sum()), 1)), np.float32)


def _uniform() -> NDArray[np.intp]:
    """Code of 8 neighbours → one of 58 uniform patterns, or 58 for the rest."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    turns = (bits != np.roll(bits, -1, axis=1)).sum(axis=1)
    uniform = turns <= 2
    return np.where(uniform, np.cumsum(uniform) - 1, 58)


_UNIFORM = _uniform()
_AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))


def _patterns(grey: Plane) -> list[Plane]:
    """Local binary patterns at two scales, of the whole and of four quarters."""
    out = []
    for scale in (1, 2):
        plane = grey if scale == 1 else grey.reshape(128, 2, 128, 2).mean(axis=(1, 3))
        levels = (plane * 255).astype(np.uint8)
        h, w = levels.shape
        centre, code = levels[1:-1, 1:-1], np.zeros((h - 2, w - 2), np.uint8)
        for k, (dy, dx) in enumerate(_AROUND):
            neighbour = levels[1 + dy : h - 1 + dy, 1 + dx : w - 1 + dx]
            code |= (neighbour >= centre).astype(np.uint8) << k
        found = _UNIFORM[code]
        y, x = found.shape[0] // 2, found.shape[1] // 2
        cells = (found, found[:y, :x], found[:y, x:], found[y:, :x], found[y:, x:])
        out += [_shares(np.bincount(c.ravel(), minlength=59)) for c in cells]
    return out


def _gradients(grey: Plane) -> list[Plane]:
    """Orientations in 8 x 8 cells, each cell of length 1, and the overall strength."""
    from scipy import ndimage

    across, down = ndimage.sobel(grey, 1), ndimage.sobel(grey, 0)
    strength = np.hypot(across, down)
    turn = (np.arctan2(down, across) % np.pi) / np.pi * _BINS
    bin_of = np.minimum(turn.astype(np.intp), _BINS - 1)
    row = np.arange(_SIDE) // (_SIDE // _CELLS)
    cell = row[:, None] * _CELLS + row
    place = (cell * _BINS + bin_of).ravel()
    cells = np.bincount(place, strength.ravel(), _CELLS**2 * _BINS).reshape(-1, _BINS)
    cells = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1e-2)
    return [
        np.asarray(cells.ravel(), np.float32),
        np.log1p(np.array([strength.mean(), strength.std()], np.float32)),
    ]


def _rings() -> NDArray[np.intp]:
    y, x = np.indices((_SIDE, _SIDE)) - _SIDE // 2
    return np.minimum(np.hypot(y, x).astype(np.intp) // 4, 32)


_RINGS = _rings()


def _spectrum(grey: Plane) -> Plane:
    """Mean log magnitude in 32 rings of the Fourier spectrum."""
    magnitude = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(grey - grey.mean()))))
    sums, sizes = np.bincount(_RINGS.ravel(), magnitude.ravel()), np.bincount(_RINGS.ravel())
    return np.asarray((sums / sizes)[:32], np.float32)


def _blobs(grey: Plane, scale: int) -> Plane:
    """Laplacian of Gaussian: mean, deviation, and the mean of each quarter."""
    from scipy import ndimage

    found = np.abs(ndimage.gaussian_laplace(grey, scale))
    half = _SIDE // 2
    quarters = found.reshape(2, half, 2, half).mean(axis=(1, 3)).ravel()
    return np.array([found.mean(), found.std(), *quarters], np.float32)
