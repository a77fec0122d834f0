"""Perturbations: worked numbers, and that each is a small change of any image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.indexes import perturbations as p


def picture(h: int = 60, w: int = 80, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(40, 180, h), np.linspace(-20, 30, w))
    return (smooth[:, :, None] + rng.uniform(-5, 5, (h, w, 3))).astype(np.uint8)


def grey(*values: int) -> Any:
    return np.repeat(np.array([values], np.uint8)[:, :, None], 3, axis=2)


def test_worked_numbers() -> None:
    # 127.5 ± 100 by a window a quarter wider, and by one narrower that clips
    assert p.window(0.25)(grey(27, 228))[0, :, 0].tolist() == [47, 208]
    assert p.window(-0.5)(grey(27, 228))[0, :, 0].tolist() == [0, 255]
    assert p.contrast(0.1)(grey(100, 200))[0, :, 0].tolist() == [95, 205]
    assert p.shift(1)(picture(3, 3))[0].sum() == 0
    assert (p.shift(1)(picture(3, 3))[1:, 1:] == picture(3, 3)[:-1, :-1]).all()
    assert p.crop(0.1)(picture(50, 100)).shape == (40, 80, 3)
    assert (p.crop(0.1)(picture(50, 100)) == picture(50, 100)[5:45, 10:90]).all()
    assert p.resize(0.75)(picture(100, 200)).shape == (75, 150, 3)


def test_noise_has_its_deviation_and_is_the_same_each_time() -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    a, b = p.noise(5)(flat), p.noise(5)(flat)
    assert (a == b).all()
    assert np.std(a.astype(float)) == pytest.approx(5, rel=0.03)
    assert (p.noise(5)(flat[:, :100]) != a[:, :100]).any()


def test_a_lower_quality_changes_more() -> None:
    x = picture().astype(float)
    error = [np.abs(p.jpeg(q)(picture()) - x).mean() for q in (95, 75, 10)]
    assert 0 < error[0] < error[1] < error[2]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from(sorted(p.PERTURBATIONS)))
def test_any_image_stays_an_image(h: int, w: int, name: str) -> None:
    x = picture(h, w)
    before = x.copy()
    y = p.PERTURBATIONS[name](x)
    assert y.dtype == np.uint8
    assert y.ndim == 3 and y.shape[2] == 3 and y.size > 0
    assert (x == before).all()
