"""Draws one phantom: an invented picture that looks a little like a kind of imaging study.

A picture is made of soft ellipses, smooth clouds, speckle and lines; a finding is a shape
whose ``strength`` says how plainly it shows.  One random generator stands for the patient
(anatomy, place and size of the finding) and one for the exposure (noise, pose, brightness),
so that two pictures of one patient resemble each other.  Knows no manifest and no role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["SIDE", "TASKS", "draw"]

#: Width and height of a phantom, pixels.
SIDE = 128

Plane = NDArray[np.float32]
_AXIS = ((np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE - 1).astype(np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)


def draw(
    modality: str, label: str, patient: Generator, exposure: Generator, strength: float
) -> NDArray[np.uint8]:
    """One picture.

    Args:
        modality: a key of :data:`TASKS`.
        label: one of its labels.
        patient, exposure: see the module; both are consumed.
        strength: contrast of the finding, from 0 (invisible) to 1.

    Returns:
        uint8 (SIDE, SIDE) for grey modalities, (SIDE, SIDE, 3) RGB for the others.
    """
    picture = _PAINTERS[modality](label, patient, exposure, np.float32(strength))
    gain = exposure.uniform(0.88, 1.1)
    noise = exposure.normal(0, 0.012, (SIDE, SIDE)).astype(np.float32)
    picture = picture * gain + (noise if picture.ndim == 2 else noise[:, :, None])
    return np.asarray((np.clip(picture, 0, 1) * 255).round(), np.uint8)


# -- strokes --------------------------------------------------------------------------------


def _ellipse(
    x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, soft: float = 0.06
) -> Plane:
    """1 inside, 0 outside, with an edge about ``soft`` of the radius wide."""
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = (_X - x) * c + (_Y - y) * s, (_Y - y) * c - (_X - x) * s
    return _edge(np.sqrt((u / rx) ** 2 + (v / ry) ** 2), soft)


def _lump(rng: Generator, x: float, y: float, r: float, *, rough: float, soft: float) -> Plane:
    """A round shape whose radius wobbles by ``rough`` (0: a circle)."""
    angle = np.arctan2(_Y - y, _X - x)
    radius = np.full_like(angle, r)
    for k in range(2, 8):
        radius += r * rough / np.sqrt(k) * rng.normal() * np.cos(k * angle + rng.uniform(0, 7))
    return _edge(np.hypot(_X - x, _Y - y) / np.maximum(radius, 0.2 * r), soft)


def _edge(distance: NDArray[np.floating], soft: float) -> Plane:
    return np.asarray(1 / (1 + np.exp(np.clip((distance - 1) / soft, -30, 30))), np.float32)


def _cloud(rng: Generator, cells: int) -> Plane:
    """Smooth noise of about unit deviation, ``cells`` bumps across."""
    coarse = Image.fromarray(rng.normal(size=(cells + 2, cells + 2)).astype(np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def _speckle(rng: Generator, cells: int) -> Plane:
    """Multiplicative ultrasound-like noise, mean 1 (Rayleigh envelope of two smooth fields)."""
    envelope = np.hypot(_cloud(rng, cells), _cloud(rng, cells))
    return np.asarray(envelope / envelope.mean(), np.float32)


def _dots(rng: Generator, n: int, x: float, y: float, spread: float, r: float) -> Plane:
    """``n`` small discs around a place, at most 1."""
    total = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(n):
        where = rng.normal(0, spread, 2)
        size = r * rng.uniform(0.6, 1.4)
        total = np.maximum(total, _ellipse(x + where[0], y + where[1], size, size, soft=0.25))
    return total


def _lines(paths: list[NDArray[np.float32]], widths: list[int]) -> Plane:
    """Antialiased poly-lines in coordinates from -1 to 1."""
    canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
    pen = ImageDraw.Draw(canvas)
    for path, width in zip(paths, widths, strict=True):
        pen.line([tuple(p) for p in ((path + 1) * SIDE).tolist()], fill=255, width=width)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / np.float32(255)


def _tint(plane: Plane, rgb: tuple[float, float, float]) -> Plane:
    return np.asarray(plane[:, :, None] * np.array(rgb, np.float32), np.float32)


def _mix(under: Plane, where: Plane, rgb: tuple[float, float, float]) -> Plane:
    """``rgb`` laid over a colour picture, opaque where ``where`` is 1."""
    w = where[:, :, None]
    return np.asarray(under * (1 - w) + w * np.array(rgb, np.float32), np.float32)


def _side(rng: Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


# -- modalities with training cases -----------------------------------------------------------


def _cxr(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    x, y = e.normal(0, 0.03, 2)
    wide, tall = p.uniform(0.27, 0.34), p.uniform(0.52, 0.62)
    body = _ellipse(x, 0.25 + y, 0.95, 1.25, soft=0.08)
    lungs = np.maximum(
        _ellipse(x - 0.42, y, wide, tall, turn=0.1, soft=0.09),
        _ellipse(x + 0.42, y, wide, tall, turn=-0.1, soft=0.09),
    )
    ribs = np.cos(2 * np.pi * (_Y * p.uniform(3.2, 4) + 0.9 * np.abs(_X - x) ** 1.5 + y))
    heart = _ellipse(x + 0.14, 0.28 + y, p.uniform(0.22, 0.33), 0.3, turn=0.5, soft=0.12)
    spine = _ellipse(x, 0.2, 0.1, 1.4, soft=0.3)
    picture = 0.06 + 0.5 * body - 0.36 * lungs + 0.05 * lungs * np.maximum(ribs, 0)
    picture += 0.26 * heart + 0.12 * spine + 0.02 * _cloud(p, 12) * body
    side = _side(p)
    at = x + side * 0.42 + p.normal(0, 0.06)
    if label == "opacity":
        shape = _lump(p, at, y + p.uniform(-0.3, 0.3), p.uniform(0.18, 0.28), rough=0.3, soft=0.3)
        picture += strength * 0.34 * shape * (1 + 0.3 * _cloud(p, 10)) * lungs
    elif label == "effusion":
        level = y + p.uniform(0.12, 0.32) - 0.25 * (np.abs(_X - x) - 0.42)
        fluid = 1 / (1 + np.exp(-(_Y - level) / 0.03))
        picture += strength * 0.42 * fluid * lungs * (np.sign(_X - x) == side)
    elif label == "nodule":
        r = p.uniform(0.07, 0.11)
        shape = _ellipse(at, y + p.uniform(-0.35, 0.3), r, r, soft=0.18)
        picture += strength * 0.4 * shape
    return np.asarray(picture, np.float32)


def _ct_abdomen(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    turn, x, y = e.normal(0, 0.05), *e.normal(0, 0.03, 2)
    rx, ry = p.uniform(0.8, 0.92), p.uniform(0.6, 0.72)
    outside = _ellipse(x, y, rx, ry, turn=turn, soft=0.015)
    inside = _ellipse(x, y, rx - p.uniform(0.06, 0.12), ry - 0.09, turn=turn, soft=0.03)
    picture = 0.28 * outside + 0.2 * inside
    picture += 0.14 * _ellipse(x - 0.38, y - 0.12, 0.34, 0.36, turn=0.4, soft=0.05)
    picture += 0.1 * _ellipse(x + 0.48, y - 0.1, 0.15, 0.2, soft=0.08)
    for _ in range(5):
        bowel = p.uniform(-0.3, 0.35), p.uniform(-0.42, 0.0), p.uniform(0.06, 0.12)
        picture += 0.1 * p.uniform(-1.5, 1) * _ellipse(x + bowel[0], y + bowel[1], *(bowel[2],) * 2)
    spine = _ellipse(x, y + 0.34, 0.12, 0.11, soft=0.1)
    picture += 0.42 * spine + 0.1 * _ellipse(x, y + 0.16, 0.06, 0.06)
    kidneys = [(x + s * p.uniform(0.36, 0.42), y + 0.24) for s in (-1, 1)]
    for kx, ky in kidneys:
        picture += 0.2 * _ellipse(kx, ky, 0.13, 0.18, turn=0.3, soft=0.06)
    kx, ky = kidneys[int(p.integers(2))]
    if label == "cyst":
        r = p.uniform(0.1, 0.16)
        shape = _ellipse(kx + p.normal(0, 0.07), ky + p.normal(0, 0.07), r, r, soft=0.06)
        picture -= strength * 0.3 * shape
    elif label == "stone":
        r = p.uniform(0.035, 0.055)
        picture += strength * 0.7 * _ellipse(kx, ky + p.normal(0, 0.05), r, r, soft=0.15)
    elif label == "tumour":
        shape = _lump(p, kx, ky, p.uniform(0.18, 0.26), rough=0.2, soft=0.12)
        picture += strength * 0.2 * shape * (1 + 0.9 * _cloud(p, 18))
    picture += 0.035 * _cloud(e, 60) * outside
    return np.asarray(picture, np.float32)


def _us_breast(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    depth = _Y + 0.06 * _cloud(p, 3)
    tissue = 0.3 + 0.12 * np.cos(5 * depth + p.uniform(0, 6)) + 0.07 * _cloud(p, 7)
    tissue = tissue * np.exp(-0.35 * (_Y + 1)) * 1.5
    tissue += 0.25 * _edge(np.abs(depth - p.uniform(-0.75, -0.65)) / 0.04, 0.3)
    x, y = p.uniform(-0.25, 0.25), p.uniform(-0.2, 0.15)
    if label == "cyst":
        rx, ry = p.uniform(0.26, 0.38), p.uniform(0.19, 0.28)
        tissue *= 1 - strength * 0.97 * _ellipse(x, y, rx, ry, soft=0.05)
        tissue += strength * 0.4 * _ellipse(x, y + 0.5, rx * 0.8, 0.35, soft=0.2)
    elif label == "solid_mass":
        r = p.uniform(0.22, 0.32)
        tissue *= 1 - strength * 0.7 * _lump(p, x, y, r, rough=0.3, soft=0.12)
        tissue *= 1 - strength * 0.85 * _ellipse(x, y + 0.6, r * 0.8, 0.6, soft=0.15)
    picture = tissue * (0.6 + 0.4 * _speckle(e, 52))
    # the fan of a curved probe
    reach, angle = np.hypot(_X, _Y + 1.9), np.arctan2(_X, _Y + 1.9)
    fan = (reach > 0.98) & (reach < 2.8) & (np.abs(angle) < p.uniform(0.4, 0.46))
    return np.asarray(picture * fan, np.float32)


def _vessel(p: Generator, x: float, y: float, heading: float) -> NDArray[np.float32]:
    bend = p.normal(0, 0.05)
    points = []
    for _ in range(28):
        points.append((x, y))
        heading += bend + p.normal(0, 0.08)
        x, y = x + 0.05 * np.cos(heading), y + 0.05 * np.sin(heading)
    return np.array(points, np.float32)


def _fundus(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    x, y = e.normal(0, 0.02, 2)
    eye = _ellipse(x, y, 0.93, 0.93, soft=0.012)
    shade = 0.85 + 0.08 * _cloud(p, 4) - 0.25 * (_X**2 + _Y**2)
    picture = _tint(shade, (0.86, p.uniform(0.36, 0.48), p.uniform(0.12, 0.2)))
    side = _side(p)
    dx, dy = x + side * 0.42, y + p.normal(0, 0.03)
    paths, widths = [], []
    for i in range(10):
        heading = (1 if i % 2 else -1) * p.uniform(0.7, 1.9) + (np.pi if side > 0 else 0)
        paths.append(_vessel(p, dx, dy, heading))
        widths.append(int(p.integers(2, 5)))
    picture = _mix(picture, 0.55 * _lines(paths, widths), (0.45, 0.08, 0.05))
    picture = _mix(picture, 0.35 * _ellipse(x - side * 0.1, y, 0.17, 0.17, soft=0.4), (0.4, 0.1, 0))
    picture = _mix(picture, 0.9 * _ellipse(dx, dy, 0.14, 0.16, soft=0.12), (1, 0.85, 0.5))
    fx, fy = x - side * p.uniform(0, 0.3), y + p.uniform(-0.3, 0.3)
    if label == "haemorrhages":
        spots = _dots(p, int(p.integers(9, 16)), fx, fy, 0.25, 0.045)
        picture = _mix(picture, strength * 0.45 * spots, (0.25, 0.02, 0.02))
    elif label == "exudates":
        spots = _dots(p, int(p.integers(10, 18)), fx, fy, 0.2, 0.035)
        picture = _mix(picture, strength * 0.45 * spots, (1, 0.95, 0.55))
    return np.asarray(picture * eye[:, :, None], np.float32)


def _dermoscopy(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    x, y = p.normal(0, 0.08, 2) + e.normal(0, 0.03, 2)
    skin = 0.92 + 0.03 * _cloud(p, 5) + 0.02 * _cloud(e, 50) - 0.12 * (_X**2 + _Y**2)
    picture = _tint(skin, (0.93, p.uniform(0.7, 0.8), p.uniform(0.6, 0.72)))
    r = p.uniform(0.42, 0.56)
    odd = strength if label == "melanoma" else np.float32(0)
    shape = _lump(p, x, y, r, rough=0.05 + 0.17 * float(odd), soft=0.08)
    brown = (p.uniform(0.4, 0.55), p.uniform(0.25, 0.34), p.uniform(0.15, 0.22))
    picture = _mix(picture, 0.85 * shape, brown)
    net = 0.5 + 0.5 * np.cos(26 * (_X + 0.05 * _cloud(p, 6))) * np.cos(26 * _Y)
    picture = _mix(picture, 0.25 * shape * net.astype(np.float32), (0.2, 0.1, 0.06))
    if label == "melanoma":
        patches = _edge(1.5 - _cloud(p, 5), 0.2) * shape
        picture = _mix(picture, odd * 0.9 * patches, (0.1, 0.08, 0.16))
        veil = _edge(1.6 - _cloud(p, 4), 0.3) * shape
        picture = _mix(picture, odd * 0.7 * veil, (0.5, 0.52, 0.66))
    elif label == "keratosis":
        beads = _dots(p, 22, x, y, r * 0.45, 0.04) * shape
        picture = _mix(picture, strength * 0.9 * beads, (0.97, 0.9, 0.7))
    n = int(p.integers(4))
    hairs = [_vessel(p, p.uniform(-1, 1), p.uniform(-1, 1), p.uniform(0, 7)) for _ in range(n)]
    return _mix(picture, 0.6 * _lines(hairs, [2] * len(hairs)), (0.15, 0.1, 0.08))


def _mri_brain(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    turn, x, y = e.normal(0, 0.06), *e.normal(0, 0.03, 2)
    rx, ry = p.uniform(0.66, 0.74), p.uniform(0.82, 0.9)
    scalp = _ellipse(x, y, rx + 0.09, ry + 0.08, turn=turn, soft=0.015)
    skull = _ellipse(x, y, rx + 0.04, ry + 0.04, turn=turn, soft=0.015)
    brain = _ellipse(x, y, rx, ry, turn=turn, soft=0.02)
    folds = np.abs(_cloud(p, 13))
    white = _ellipse(x, y, rx - 0.14, ry - 0.16, turn=turn, soft=0.12)
    picture = 0.75 * scalp - 0.7 * skull + 0.42 * brain + 0.16 * white * brain
    picture -= 0.22 * brain * (1 - 0.7 * white) * _edge(folds / 0.25, 0.3)
    for s in (-1, 1):
        wide = p.uniform(0.06, 0.1)
        picture -= 0.38 * _ellipse(x + s * 0.13, y - 0.02, wide, 0.27, turn=s * 0.25, soft=0.12)
    if label == "tumour":
        tx, ty = x + _side(p) * p.uniform(0.25, 0.42), y + p.uniform(-0.4, 0.4)
        r = p.uniform(0.18, 0.27)
        picture -= strength * 0.22 * _lump(p, tx, ty, 1.6 * r, rough=0.2, soft=0.2) * brain
        picture += strength * 0.75 * _lump(p, tx, ty, r, rough=0.15, soft=0.1)
        picture -= strength * 0.3 * _ellipse(tx, ty, 0.5 * r, 0.5 * r, soft=0.2)
    return np.asarray(picture + 0.02 * _cloud(e, 64) * scalp, np.float32)


def _mammography(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    side, y = _side(p), e.normal(0, 0.05)
    along = _X * side  # the chest wall lies at -1
    shape = np.hypot((along + 1) / p.uniform(1.25, 1.5), (_Y - y) / p.uniform(0.78, 0.9))
    breast = _edge(shape, 0.02)
    glands = _edge(np.hypot((along + 0.45) / 0.7, (_Y - y) / 0.55), 0.3)
    dense = p.uniform(0.12, 0.3)
    picture = breast * (0.26 + dense * glands * (1 + 0.5 * _cloud(p, 9) + 0.3 * _cloud(p, 22)))
    muscle = _edge(1 + (along + 1 + 0.7 * (_Y + 1) - p.uniform(0.6, 0.9)), 0.03)
    picture = np.maximum(picture, 0.62 * muscle)
    x = side * p.uniform(-0.6, -0.1)
    at = y + p.uniform(-0.3, 0.35)
    if label == "mass":
        r = p.uniform(0.12, 0.18)
        picture += strength * 0.42 * _lump(p, x, at, r, rough=0.3, soft=0.12) * breast
    elif label == "calcifications":
        picture += strength * 0.8 * _dots(p, 14, x, at, 0.1, 0.018) * breast
    return np.asarray(picture + 0.03 * _cloud(e, 64) * breast, np.float32)


def _blood_smear(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    picture = _tint(0.97 + 0.02 * _cloud(p, 4), (0.97, 0.92, p.uniform(0.88, 0.94)))
    red = (p.uniform(0.8, 0.9), p.uniform(0.5, 0.62), p.uniform(0.55, 0.66))
    grid = [(i, j) for i in range(-3, 4) for j in range(-3, 4)]
    odd = set(p.permutation(len(grid))[: int(p.integers(5, 9))].tolist())
    for n, (i, j) in enumerate(grid):
        x, y = (i * 0.3 + e.normal(0, 0.05), j * 0.3 + e.normal(0, 0.05))
        r = p.uniform(0.11, 0.14)
        cell = _ellipse(x, y, r, r * p.uniform(0.88, 1), soft=0.08)
        picture = _mix(picture, 0.85 * cell, red)
        picture = _mix(picture, 0.4 * _ellipse(x, y, 0.4 * r, 0.4 * r, soft=0.4), (1, 0.9, 0.9))
        if n in odd and label == "parasites":
            spot = _ellipse(x + 0.03, y - 0.03, 0.05, 0.04, soft=0.2)
            picture = _mix(picture, strength * spot, (0.3, 0.1, 0.5))
        elif n in odd and label == "sickle_cells":
            thin = _ellipse(x, y, r * 1.7, r * 0.38, turn=p.uniform(0, 3), soft=0.12)
            picture = _mix(picture, strength * 0.9 * cell * (1 - thin), (0.97, 0.92, 0.91))
            picture = _mix(picture, strength * 0.9 * thin, red)
    return picture


# -- modalities that no index has seen --------------------------------------------------------


#: Offset, width and height of the waves of one beat.
_COMPLEX = ((0, 0.012, 0.3), (0.03, 0.012, -0.09), (0.11, 0.03, 0.07))


def _ecg_image(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    grid = (np.arange(SIDE) + int(e.integers(8))) % 8 == 0
    lines = np.maximum(*np.broadcast_arrays(grid[:, None], grid[None, :])).astype(np.float32)
    paper = np.ones((SIDE, SIDE, 3), np.float32)
    picture = _mix(paper, 0.8 * lines, (0.96, 0.72, 0.72))
    time = np.linspace(-1, 1, 400, dtype=np.float32)
    irregular = 0.12 * float(strength) if label == "atrial_fibrillation" else 0.008
    paths = []
    for row in (-0.7, -0.23, 0.24, 0.71):
        wave, beat = np.zeros_like(time), -1 + p.uniform(0, 0.2)
        while beat < 1:
            for offset, width, height in _COMPLEX:
                wave += height * np.exp(-(((time - beat - offset) / width) ** 2) / 2)
            if label != "atrial_fibrillation":
                wave += 0.04 * np.exp(-(((time - beat + 0.08) / 0.02) ** 2) / 2)
            beat += max(0.16, p.normal(0.36, irregular))
        wave += 0.005 * e.normal(size=len(time))
        paths.append(np.stack([time, row - wave], axis=1).astype(np.float32))
    return _mix(picture, _lines(paths, [2] * len(paths)), (0.08, 0.08, 0.12))


def _oct(label: str, p: Generator, e: Generator, strength: np.float32) -> Plane:
    pit = 0.22 * np.exp(-((_X / 0.3) ** 2)) * p.uniform(0.6, 1.2)
    surface = -0.25 + 0.05 * _cloud(p, 3) + e.normal(0, 0.05)
    swell = strength * 0.15 * np.exp(-((_X / 0.5) ** 2)) if label == "fluid" else np.float32(0)
    depth = _Y - surface - pit * (_Y < 0.1) + swell
    picture = np.full((SIDE, SIDE), 0.06, np.float32)
    for at, thick, bright in ((0.05, 0.06, 0.5), (0.2, 0.1, 0.25), (0.33, 0.05, 0.35)):
        picture += bright * np.exp(-(((depth - at) / thick) ** 2))
    picture += 0.7 * np.exp(-(((depth - 0.52) / 0.035) ** 2))
    picture += 0.35 * np.exp(-((np.maximum(depth - 0.55, 0) / 0.25) ** 2)) * (depth > 0.55)
    if label == "fluid":
        y = float(np.mean(surface)) + 0.35
        for _ in range(3):
            x, r = p.normal(0, 0.2), p.uniform(0.08, 0.14)
            picture *= 1 - strength * 0.9 * _ellipse(x, y, r * 1.3, r, soft=0.1)
    return np.asarray(picture * (0.45 + 0.55 * _speckle(e, 60)), np.float32)


_PAINTERS: Mapping[str, Callable[[str, Generator, Generator, np.float32], Plane]] = {
    "cxr": _cxr,
    "ct_abdomen": _ct_abdomen,
    "us_breast": _us_breast,
    "fundus": _fundus,
    "dermoscopy": _dermoscopy,
    "mri_brain": _mri_brain,
    "mammography": _mammography,
    "blood_smear": _blood_smear,
    "ecg_image": _ecg_image,
    "oct": _oct,
}

#: Modality → the labels of its one task, the unremarkable one first.
TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cxr": ("normal", "opacity", "effusion", "nodule"),
        "ct_abdomen": ("normal", "cyst", "stone", "tumour"),
        "us_breast": ("normal", "cyst", "solid_mass"),
        "fundus": ("normal", "haemorrhages", "exudates"),
        "dermoscopy": ("naevus", "melanoma", "keratosis"),
        "mri_brain": ("normal", "tumour"),
        "mammography": ("normal", "mass", "calcifications"),
        "blood_smear": ("normal", "parasites", "sickle_cells"),
        "ecg_image": ("sinus_rhythm", "atrial_fibrillation"),
        "oct": ("normal", "fluid"),
    }
)
