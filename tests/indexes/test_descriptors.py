"""Descriptors by hand: what each part must see, and what it must not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curbside.indexes.descriptors import DESCRIPTORS, describe

#: Part → where it stands in the vector.
COLOUR, PATTERN, GRADIENT = slice(0, 160), slice(160, 750), slice(750, 1328)
SPECTRUM, THUMBNAIL, BLOBS = slice(1328, 1360), slice(1360, 1792), slice(1792, 1816)


def noise(seed: int, side: int = 256) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), side=st.integers(256, 270), level=st.integers(0, 255))
def test_finite_whatever_the_image(seed: int, side: int, level: int) -> None:
    for image in (noise(seed, side), np.full((side, side, 3), level, np.uint8)):
        found = describe(image)
        assert found.shape == (DESCRIPTORS,) and found.dtype == np.float32
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, describe(image.copy()))


def test_histograms_are_of_length_one() -> None:
    found = describe(noise(0))
    for part in (found[:32], found[32:64], found[64:96], found[96:160], found[160:219]):
        np.testing.assert_allclose((part**2).sum(), 1, rtol=1e-5)
    cells = found[750:1326].reshape(64, 9)
    np.testing.assert_allclose(np.linalg.norm(cells, axis=1), 1, atol=0.01)


def test_colour_changes_colour_and_grey_levels_do_not() -> None:
    grey = noise(1).mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    found = describe(grey)
    # no opponent colour: all in the bin that begins at 0
    assert found[32:64].argmax() == found[64:96].argmax() == 16
    red = grey.copy()
    red[..., 1:] //= 2
    assert describe(red)[32:64].argmax() > 16


def test_edges_by_their_direction() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, np.arange(256) % 16 < 8] = 200
    upright = describe(stripes)[750:1326].reshape(64, 9)
    lying = describe(stripes.swapaxes(0, 1).copy())[750:1326].reshape(64, 9)
    assert (upright.argmax(axis=1) == 0).all()
    assert (lying.argmax(axis=1) == 4).all()


def test_a_blob_is_seen_in_its_quarter_alone() -> None:
    image = np.full((256, 256, 3), 60, np.uint8)
    image[180:200, 40:60] = 220
    blobs = describe(image)[BLOBS].reshape(4, 6)
    assert (blobs[:, 2:].argmax(axis=1) == 2).all()  # below, left
    assert (describe(np.full((256, 256, 3), 60, np.uint8))[BLOBS] < 1e-3).all()


def test_the_middle_counts() -> None:
    whole = noise(2, 260)
    np.testing.assert_array_equal(describe(whole), describe(whole[2:258, 2:258]))
    parts = (COLOUR, PATTERN, GRADIENT, SPECTRUM, THUMBNAIL, BLOBS)
    assert parts[-1].stop == DESCRIPTORS
