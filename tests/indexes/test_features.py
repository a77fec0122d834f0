"""Features of studies: each image once, from memory, disk or the encoder; nothing torn."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from curbside.errors import ImageError, InternalError, StorageError
from curbside.indexes import feature_cache
from curbside.indexes.encoder import Encoded, FakeEncoder
from curbside.indexes.features import Features, FeatureSource, central_instance
from curbside.router.flow import BLOCK
from curbside.study import Instance, Series, Study


class CountingEncoder(FakeEncoder):
    """Remembers how many images it has encoded; can be slow."""

    def __init__(self, *, delay: float = 0.0, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.encoded = 0
        self.delay = delay

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> Encoded:
        self.encoded += len(images)
        time.sleep(self.delay)
        return super().encode(images)


def image_bytes(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((24, 20)).save(out, "PNG")
    return out.getvalue()


def studies(*seeds: int) -> list[Study]:
    return [Study.from_image(image_bytes(s), id=f"s{s}") for s in seeds]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def same(a: Features, b: Features) -> bool:
    return bool((a.pooled == b.pooled).all() and (a.grid_rows() == b.grid_rows()).all())


def test_rows_are_the_encoder_s_in_the_order_asked() -> None:
    encoder = FakeEncoder()
    cases = studies(*range(70))
    features = FeatureSource(encoder).of(cases)
    direct = encoder.encode([s.instances[0].pixels() for s in cases])
    assert (features.pooled == direct.pooled).all()
    assert direct.grid is not None
    assert (features.grid_rows() == direct.grid).all()
    assert features.grid is not None
    assert (features.grid == direct.grid).all()
    assert features.digests == tuple(s.instances[0].digest() for s in cases)
    assert features.fingerprint == encoder.fingerprint
    assert not features.failures
    assert features.usable.all()


def test_each_image_is_encoded_once(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path)
    first = source.of(studies(1, 2, 1, 3, 2))
    assert encoder.encoded == 3
    again = source.of(studies(1, 2, 1, 3, 2))
    assert encoder.encoded == 3
    assert same(first, again)
    assert (first.pooled[0] == first.pooled[2]).all()


def test_disk_serves_the_next_process(tmp_path: Path) -> None:
    before = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(*range(40)))
    encoder = CountingEncoder()
    after = FeatureSource(encoder, folder=tmp_path).of(studies(*range(40)))
    assert encoder.encoded == 0
    assert same(before, after)


def test_a_source_sees_what_another_one_writes_meanwhile(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path)
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    source.of(studies(1))
    assert encoder.encoded == 0


def test_other_encoders_do_not_share_rows(tmp_path: Path) -> None:
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    other = CountingEncoder(seed=1)
    FeatureSource(other, folder=tmp_path).of(studies(1))
    assert other.encoded == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_is_bounded_and_keeps_the_latest() -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, memory=3)
    for seed in (1, 2, 3):
        source.of(studies(seed))
    source.of(studies(1))  # used again, so 2 is now the oldest
    source.of(studies(4))
    assert encoder.encoded == 4
    assert len(source._recent) == 3
    source.of(studies(1))
    assert encoder.encoded == 4
    source.of(studies(2))
    assert encoder.encoded == 5


def test_a_call_larger_than_memory_still_gets_every_row() -> None:
    source = FeatureSource(FakeEncoder(), memory=0)
    features = source.of(studies(*range(50)))
    assert np.abs(features.pooled).sum(1).min() > 0
    assert np.abs(features.grid_rows()).sum((1, 2, 3)).min() > 0


def test_bad_images_are_rows_not_exceptions(tmp_path: Path) -> None:
    whole = image_bytes(1)
    sources: list[Path | bytes] = [
        whole,
        tmp_path / "missing.png",
        b"",
        whole[:-30],
        b"not an image",
        tmp_path,
        image_bytes(2),
    ]
    cases = [Study.from_image(s, id=str(i)) for i, s in enumerate(sources)]
    cases.append(Study(id="none", series=()))
    features = FeatureSource(FakeEncoder(), folder=tmp_path / "cache").of(cases)
    reasons = {i: e.reason for i, e in features.failures.items()}
    assert reasons[1] == "missing"
    assert reasons[2] == "empty"
    assert reasons[3] in ("truncated", "unreadable")
    assert reasons[4] == reasons[5] == "wrong_type"
    assert reasons[7] == "missing"
    assert set(reasons) == {1, 2, 3, 4, 5, 7}
    bad = sorted(reasons)
    assert not features.pooled[bad].any()
    assert not features.grid_rows(bad).any()
    assert all(features.digests[i] == "" for i in bad)
    assert features.usable.tolist() == [True, False, False, False, False, False, True, False]
    assert all("missing.png" not in str(e) for e in features.failures.values())


def test_a_file_that_changes_while_read_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([image_bytes(1), image_bytes(2)])
    monkeypatch.setattr("curbside.study.read_bytes", lambda _: next(answers))
    features = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    assert features.failures[0].reason == "unreadable"
    assert not segments(tmp_path)


def test_without_grids(tmp_path: Path) -> None:
    source = FeatureSource(FakeEncoder(), folder=tmp_path)
    features = source.of(studies(1, 2), grid=False)
    assert features.grids is None
    assert features.grid is None
    with pytest.raises(InternalError, match="grid=True"):
        features.grid_rows([0])
    bare = FeatureSource(FakeEncoder(grid_shape=None), folder=tmp_path)
    assert bare.of(studies(1, 2)).grids is None
    again = FeatureSource(FakeEncoder(grid_shape=None), folder=tmp_path)
    assert (again.of(studies(1, 2)).pooled == bare.of(studies(1, 2)).pooled).all()


def test_nothing_asked_nothing_given() -> None:
    features = FeatureSource(FakeEncoder()).of([])
    assert features.pooled.shape == (0, 16)
    assert features.grid_rows().shape == (0, 4, 2, 2)


def test_rows_by_position_and_by_mask(tmp_path: Path) -> None:
    cases = [*studies(0, 1, 2), Study.from_image(b"", id="bad")]
    features = FeatureSource(FakeEncoder(), folder=tmp_path).of(cases)
    whole = features.grid_rows()
    assert (features.grid_rows([2, 0]) == whole[[2, 0]]).all()
    mask = np.array([True, False, True, False])
    assert (features.grid_rows(mask) == whole[mask]).all()
    some = features.take([3, 1])
    assert len(some) == 2
    assert set(some.failures) == {0}
    assert (some.pooled == features.pooled[[3, 1]]).all()
    assert (some.grid_rows() == whole[[3, 1]]).all()
    assert some.digests == ("", features.digests[1])
    assert len(features.take(features.usable)) == 3


def test_the_middle_of_the_longest_series_stands_for_a_study() -> None:
    def series(*seeds: int) -> Series:
        return Series(tuple(Instance(image_bytes(s)) for s in seeds))

    study = Study(id="s", series=(series(1, 2), series(3, 4, 5), series(6, 7, 8)))
    assert central_instance(study).source == image_bytes(4)
    with pytest.raises(ImageError, match="no image"):
        central_instance(Study(id="s", series=(Series(()),)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=5), st.integers(0, 4))
def test_how_it_is_asked_does_not_matter(calls: list[list[int]], memory: int) -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, memory=memory)
    alone = {s: FakeEncoder().encode([studies(s)[0].instances[0].pixels()]) for s in range(13)}
    for seeds in calls:
        features = source.of(studies(*seeds))
        for i, seed in enumerate(seeds):
            assert (features.pooled[i] == alone[seed].pooled[0]).all()


# the segments on disk


def test_segments_are_bounded_and_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curbside.indexes.features.SEGMENT_ROWS", 32)
    features = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(*range(80)))
    files = segments(tmp_path)
    assert len(files) == 3
    from safetensors import safe_open

    found: set[str] = set()
    for file in files:
        with safe_open(file, "numpy") as f:
            metadata = f.metadata()
            digests = json.loads(metadata["digests"])
            assert f.get_tensor("pooled").shape == (len(digests), 16)
            assert f.get_tensor("grid").dtype == np.float16
        assert set(metadata) == {"format", "digests", "pooled_sha256", "grid_sha256"}
        found |= set(digests)
    assert found == set(features.digests)


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 32
    path.write_bytes(raw)


@pytest.mark.parametrize("damage", ["cut", "cut header", "empty", "flip data", "flip header"])
def test_a_damaged_segment_is_found_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = FeatureSource(FakeEncoder(), folder=tmp_path)
    before = source.of(studies(1, 2, 3))
    source.of(studies(4))
    (file,) = [p for p in segments(tmp_path) if json_digests(p) == list(before.digests)]
    raw = file.read_bytes()
    if damage.startswith("flip"):
        at = raw.index(b"digests") + 14 if damage == "flip header" else len(raw) - 5
        flip(file, at)
    else:
        file.write_bytes(raw[: {"cut": -20, "cut header": 30, "empty": 0}[damage]])
    encoder = CountingEncoder()
    with caplog.at_level(logging.WARNING):
        after = FeatureSource(encoder, folder=tmp_path).of(studies(1, 2, 3, 4))
    assert encoder.encoded == 3
    assert same(after.take([0, 1, 2]), before)
    assert "is damaged" in caplog.text
    assert not file.exists()
    third = CountingEncoder()
    FeatureSource(third, folder=tmp_path).of(studies(1, 2, 3, 4))
    assert third.encoded == 0


def mapped(folder: Path) -> int:
    """Files of a folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-1] for line in lines if str(folder) in line})


def test_a_batch_never_reads_back_what_it_has_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks are encoded ahead of the one that agents look at, however late they are."""
    found: list[str] = []
    real = feature_cache.FeatureCache.get

    def get(self: Any, digest: str, *, grid: bool) -> Any:
        row = real(self, digest, grid=grid)
        if row is not None:
            found.append(digest)
        return row

    monkeypatch.setattr(feature_cache.FeatureCache, "get", get)
    source = FeatureSource(FakeEncoder(), folder=tmp_path)
    blocks = [studies(*range(i, i + BLOCK)) for i in range(0, 8 * BLOCK, BLOCK)]
    source.of(blocks[0])
    source.of(blocks[1])
    for i, block in enumerate(blocks[:-2]):
        source.of(blocks[i + 2])
        source.of(block)
    assert not found
    source.of(blocks[0])
    assert len(found) == BLOCK


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")
def test_few_segments_stay_mapped_and_each_is_verified_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FeatureSource(FakeEncoder()).of(studies(*range(24)))
    for seed in range(24):
        FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(seed))
    checked: list[int] = []
    real, grid_shape = feature_cache._checksum, FakeEncoder().grid_shape
    assert grid_shape is not None

    def counted(digests: Any, values: Any) -> Any:
        checked.append(len(digests))
        return real(digests, values)

    monkeypatch.setattr(feature_cache, "_checksum", counted)
    row = 16 * 4 + 2 * int(np.prod(grid_shape))
    monkeypatch.setattr(feature_cache, "_MAPPED", 3 * row)
    source = FeatureSource(CountingEncoder(), folder=tmp_path, memory=0)
    for again in range(2):
        for seed in range(24):
            assert same(source.of(studies(seed)), whole.take([seed]))
            assert mapped(tmp_path) <= 5
        assert len(checked) == 48, again
    # what is let go stays with who holds it
    kept = source.of(studies(*range(24)))
    assert same(kept, whole)
    assert mapped(tmp_path) >= 20
    del kept
    source.of(studies(0))
    assert mapped(tmp_path) <= 5


def json_digests(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as f:
        digests: list[str] = json.loads(f.metadata()["digests"])
    return digests


def test_a_segment_of_another_shape_is_refused(tmp_path: Path) -> None:
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    encoder = CountingEncoder()
    encoder.dimensions = 17
    cache = feature_cache.FeatureCache(tmp_path, encoder.fingerprint, 17, encoder.grid_shape)
    assert len(cache) == 0


def test_a_segment_cut_after_it_was_opened(tmp_path: Path) -> None:
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1, 2))
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path)
    (file,) = segments(tmp_path)
    file.write_bytes(file.read_bytes()[:-8])
    assert np.abs(source.of(studies(1, 2)).pooled).min() > 0
    assert encoder.encoded == 2


def test_a_segment_that_vanishes_is_encoded_again(tmp_path: Path) -> None:
    before = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1, 2))
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path)
    segments(tmp_path)[0].unlink()
    assert same(source.of(studies(1, 2)), before)
    assert encoder.encoded == 2


def test_single_images_do_not_pile_up_as_files(tmp_path: Path) -> None:
    source = FeatureSource(FakeEncoder(), folder=tmp_path)
    rows = [source.of(studies(i)) for i in range(100)]
    assert len(segments(tmp_path)) < 45
    encoder = CountingEncoder()
    again = FeatureSource(encoder, folder=tmp_path).of(studies(*range(100)))
    assert encoder.encoded == 0
    assert (again.pooled == np.concatenate([r.pooled for r in rows])).all()
    assert (again.grid_rows() == np.concatenate([r.grid_rows() for r in rows])).all()


def test_a_full_disk_for_what_is_known_costs_no_restart(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path, memory=0)
    before = source.of(studies(*range(40)))
    cache = source._cache
    assert cache is not None
    cache._rows._held.run("PRAGMA max_page_count = 1")  # as many as there are, and no more
    with pytest.raises(StorageError, match="temporary files"):
        source.of(studies(*range(40, 240)))
    assert same(source.of(studies(*range(40))), before)
    source.of(studies(*range(240)))
    assert encoder.encoded == 240
    assert len(cache) == 240


def test_a_file_whose_name_is_no_text_is_passed_over(tmp_path: Path) -> None:
    before = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    foreign = segments(tmp_path)[0].with_name(os.fsdecode(b"a\xff.safetensors"))
    foreign.write_bytes(b"not ours")
    assert same(FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1)), before)
    assert foreign.exists()


def test_a_file_that_is_listed_twice_is_taken_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1, 2))
    real = os.scandir

    @contextmanager
    def twice(folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        """What POSIX allows of a folder that changes while it is listed."""
        with real(folder) as entries:
            found = list(entries)
            yield iter(found + found)

    monkeypatch.setattr(os, "scandir", twice)
    encoder = CountingEncoder()
    assert same(FeatureSource(encoder, folder=tmp_path).of(studies(1, 2)), before)
    assert encoder.encoded == 0


def test_leftovers_of_a_killed_process_are_removed_later(tmp_path: Path) -> None:
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    inside = segments(tmp_path)[0].parent
    old, new = inside / ".aa.safetensors.x1", inside / ".bb.safetensors.x2"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    FeatureSource(FakeEncoder(), folder=tmp_path)
    assert not old.exists()
    assert new.exists()


def test_a_process_killed_while_writing_loses_nothing_earlier(tmp_path: Path) -> None:
    before = FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1, 2))
    code = f"""
import os, sys; from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_features import FakeEncoder, FeatureSource, studies
Path.replace = lambda *a: os._exit(9)
FeatureSource(FakeEncoder(), folder=Path({str(tmp_path)!r})).of(studies(3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 9, done.stderr
    encoder = CountingEncoder()
    after = FeatureSource(encoder, folder=tmp_path).of(studies(1, 2, 3))
    assert encoder.encoded == 1
    assert same(after.take([0, 1]), before)


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file may grow past ``limit`` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_harms_nothing_stored_earlier(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    source = FeatureSource(encoder, folder=tmp_path)
    before = source.of(studies(1, 2))
    with small_disk(512), pytest.raises(StorageError, match="cannot write") as e:
        source.of(studies(3, 4))
    assert "CURBSIDE_HOME" in e.value.hint
    assert len(segments(tmp_path)) == 1
    # with room again, what was computed is written and not computed again
    source.of(studies(5))
    assert encoder.encoded == 5
    fresh = CountingEncoder()
    after = FeatureSource(fresh, folder=tmp_path).of(studies(1, 2, 3, 4, 5))
    assert fresh.encoded == 0
    assert same(after.take([0, 1]), before)


def test_a_cache_that_does_not_keep_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])

    monkeypatch.setattr(feature_cache, "write_bytes", lose)
    source = FeatureSource(FakeEncoder(), folder=tmp_path, memory=0)
    with pytest.raises(StorageError, match="does not give back"):
        source.of(studies(1, 2))


def test_a_folder_that_cannot_be_read_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureSource(FakeEncoder(), folder=tmp_path).of(studies(1))
    source = FeatureSource(FakeEncoder(), folder=tmp_path)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(np, "memmap", broken)
    with pytest.raises(StorageError, match="cannot read the feature cache"):
        source.of(studies(1))


# threads


def test_threads_share_the_work(tmp_path: Path) -> None:
    encoder = CountingEncoder(delay=0.002)
    source = FeatureSource(encoder, folder=tmp_path, memory=8)
    expected = FeatureSource(FakeEncoder()).of(studies(*range(60)))
    barrier = threading.Barrier(6)

    def work(offset: int) -> bool:
        order = [(i * 7 + offset) % 60 for i in range(60)]
        barrier.wait()
        one = source.of(studies(order[0]))
        rest = source.of(studies(*order))
        return bool(
            (rest.pooled == expected.pooled[order]).all()
            and (rest.grid_rows() == expected.grid_rows(order)).all()
            and (one.pooled[0] == expected.pooled[order[0]]).all()
        )

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))
    assert encoder.encoded == 60


def test_a_long_call_shows_its_progress(capfd: pytest.CaptureFixture[str]) -> None:
    cases = studies(*range(205))
    FeatureSource(FakeEncoder()).of(cases, label="encoding images")
    assert "encoding images" in capfd.readouterr().err
    FeatureSource(FakeEncoder()).of(cases)
    assert capfd.readouterr().err == ""


def test_where_the_middle_image_is_broken_another_stands_for_the_study() -> None:
    good, other = image_bytes(1), image_bytes(2)
    series = (
        Series(tuple(Instance(raw) for raw in (good, b"", good[:40]))),
        Series((Instance(other),)),
    )
    source = FeatureSource(CountingEncoder())
    features = source.of([Study("a", series), *studies(3)])
    assert features.failures == {}
    # outwards from the middle, so the first comes before the last
    assert features.digests[0] == Instance(good).digest()
    assert features.passed_over == {0: ("empty",)}
    assert features.take([1]).passed_over == {}
    assert features.take([1, 0]).passed_over == {1: ("empty",)}


def test_a_study_without_a_good_image_fails_with_what_was_wrong_first() -> None:
    cut = image_bytes(1)[:40]
    images = tuple(Instance(raw) for raw in (cut, b"", b"nothing", cut))
    features = FeatureSource(CountingEncoder()).of([Study("a", (Series(images),))])
    assert features.failures[0].reason == "wrong_type"
    assert features.passed_over == {}


def test_after_a_timeout_no_other_image_is_tried() -> None:
    late = Instance(ImageError("timeout", "stopped"))
    series = Series((Instance(image_bytes(1)), late))
    features = FeatureSource(CountingEncoder()).of([Study("a", (series,))])
    assert features.failures[0].reason == "timeout"
