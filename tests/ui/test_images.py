"""Windows, thumbnails, slices; and images that cannot be shown."""

from __future__ import annotations

import io
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from curbside.study import Instance
from curbside.ui.pictures import (
    Slices,
    image_paths,
    neighbour_picture,
    numbers,
    opening,
    picture,
    slices_of,
)
from curbside.ui.viewer import Window, drawn, full_window, thumbnail


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def file(name: str):
    from pathlib import Path

    return Path(str(get_testdata_file(name, download=False)))


@given(st.floats(-2000, 2000), st.floats(1, 4000))
def test_a_window_is_monotone_and_inverts_exactly(centre, width):
    values = np.linspace(-3000, 3000, 64, dtype=np.float32).reshape(8, 8)
    window = Window("w", centre, width)
    plain = pixels(drawn(values, window, invert=False)).astype(int)
    assert (np.diff(plain.ravel()) >= 0).all()
    assert (plain + pixels(drawn(values, window, invert=True)) == 255).all()


def test_a_window_shows_its_range_in_full():
    values = np.array([[-100.0, 0.0, 100.0, 200.0]], np.float32)
    assert pixels(drawn(values, Window("w", 50, 100), invert=False)).tolist() == [[0, 0, 255, 255]]
    whole = full_window(values)
    assert (whole.centre, whole.width) == (50, 300)
    assert pixels(drawn(values, whole, invert=False))[0, -1] == 255


def test_rgb_without_a_window_is_as_it_is():
    rgb = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
    np.testing.assert_array_equal(pixels(drawn(rgb, None, invert=False)), rgb)
    assert pixels(thumbnail(rgb, 64)).shape == (64, 64, 3)


def test_ct_comes_in_hounsfield_units_with_named_windows():
    shown = picture(Instance(file("CT_small.dcm")))
    assert shown.unit == "HU" and not shown.problem
    assert {"lung", "bone", "brain", "automatic", "full range"} <= {w.name for w in shown.presets}
    assert shown.values.ndim == 2 and shown.values.min() < -500
    other = picture(Instance(file("MR_small.dcm")))
    assert other.unit == "values" and [w.name for w in other.presets] == ["automatic", "full range"]


def test_the_automatic_window_leaves_padding_out(tmp_path):
    measured = picture(Instance(file("CT_small.dcm")))
    ds = dcmread(file("CT_small.dcm"))
    stored = ds.pixel_array.copy()
    stored[:40] = -2000
    ds.PixelData = stored.tobytes()
    ds.save_as(tmp_path / "padded.dcm")
    padded = picture(Instance(tmp_path / "padded.dcm"))
    assert padded.values.min() < measured.values.min() - 500
    low = [w.centre - w.width / 2 for w in (padded.presets[0], measured.presets[0])]
    assert low[0] > low[1] - 300


def test_a_picture_has_no_units_and_a_broken_one_a_reason(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), (200, 10, 10)).save(path)
    shown = picture(Instance(path))
    assert (shown.unit, shown.problem) == ("", "")
    path.write_bytes(path.read_bytes()[:40])
    broken = picture(Instance(path))
    assert broken.problem and str(tmp_path) not in broken.problem


def test_slices_run_through_all_series_and_frames(tmp_path):
    many = file("examples_ybr_color.dcm")
    one = file("CT_small.dcm")
    slices = slices_of([[Instance(one), Instance(one)], [Instance(many)]])
    assert len(slices) == 2 + 30 and [len(s) for s in slices.series] == [2, 30]
    assert [i.frame for i in slices.series[1][:2]] == [0, 1]
    assert len(slices_of([[], [Instance(one)], []]).series) == 1
    gone = slices_of([[Instance(tmp_path / "gone.dcm")]])
    assert len(gone) == 1 and picture(gone.series[0][0]).problem


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4),
)
def test_a_viewer_opens_on_the_nearest_image_that_can_be_shown(usable):
    """The router's own choice: middle of the longest series, outwards, then the next series."""
    slices = Slices(tuple(tuple(Instance(b"x") for _ in s) for s in usable))

    def problem(k: int, i: int) -> str:
        return "" if usable[k][i] else "cut"

    found = opening(slices, problem)
    k, i, bad = found.series, found.at, found.bad
    assert found.whole
    broken = {(a, b) for a, s in enumerate(usable) for b, ok in enumerate(s) if not ok}
    assert set(bad) == broken  # so few are all tried
    if len(broken) == len(slices):
        assert (k, i) == (slices.longest_first[0], len(usable[slices.longest_first[0]]) // 2)
        return
    assert usable[k][i]
    middle = len(usable[k]) // 2
    nearer = [j for j in range(len(usable[k])) if abs(j - middle) < abs(i - middle)]
    assert not any(usable[k][j] for j in nearer)
    assert not any(any(s) for s in usable if len(s) > len(usable[k]))


def test_of_a_long_series_the_middle_is_tried_and_no_more():
    slices = Slices((tuple(Instance(b"x") for _ in range(500)),))
    tried = []

    def problem(k: int, i: int) -> str:
        tried.append(i)
        return "" if i < 240 else "cut"

    found = opening(slices, problem, further=1e9, finding=1e9)
    assert found.at == 239 and len(found.bad) == 260 and found.whole
    tried.clear()
    found = opening(slices, problem, further=0.0, finding=1e9)
    assert found.at == 239 and len(tried) == 22 and len(found.bad) == 21 and not found.whole
    tried.clear()
    found = opening(slices, problem, finding=0.0)
    assert found.at == 250 and not found.bad and not tried and not found.whole


def test_places_are_written_as_people_do():
    assert numbers([4, 0, 2, 3]) == "1, 3–5"
    assert numbers([]) == "" and numbers([6]) == "7"


def test_thumbnails_of_indexed_cases_or_nothing(tmp_path):
    built = tmp_path / "built.jsonl"
    image = tmp_path / "a.png"
    Image.new("L", (30, 10), 90).save(image)
    rows = [{"id": "a", "image": str(image)}, {"id": "b", "image": str(tmp_path / "gone.png")}]
    built.write_text("\n".join(json.dumps(r) for r in rows))
    paths = image_paths(built, ["a", "b", "c"])
    assert set(paths) == {"a", "b"}
    assert pixels(neighbour_picture(paths["a"]) or b"").shape == (220, 220, 3)
    assert neighbour_picture(paths["b"]) is None and neighbour_picture(None) is None
    assert image_paths(tmp_path / "none.jsonl", ["a"]) == {}
