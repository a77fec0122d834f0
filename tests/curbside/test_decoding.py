"""Hostile files: each ends in a typed reason, and the service lives and stays small."""

from __future__ import annotations

import io
import os
import signal
import struct
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curbside import archives, decoding
from curbside.errors import IMAGE_REASONS, ImageError
from curbside.intake import Refusal, studies_in
from curbside.phantom_attacks import ATTACKS, GOOD, nested, run_length, zip_bomb
from curbside.phantom_dicom import as_dicom
from curbside.studies_bench import bench_studies, most_memory
from curbside.study import Instance, Study


def lying_zip() -> bytes:
    """A member that holds more than the archive says."""
    raw = bytearray(zip_bomb(2))
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 1000)
    return bytes(raw)


@pytest.fixture
def watched() -> Iterator[list[int]]:
    """The most memory taken over the base while a test runs."""
    with most_memory() as most:
        yield most


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (n, h)
        for n in ATTACKS
        for h in ("file", "bytes", "archive")
        if (n, h) != ("zip bomb", "archive")
    ],
)
def test_each_attack_is_a_typed_reason(
    name: str, how: str, tmp_path: Path, watched: list[int]
) -> None:
    make, reason = ATTACKS[name]
    raw = make()
    source: Path | bytes = raw
    if how == "file":
        source = tmp_path / "x.dcm"
        source.write_bytes(raw)
    if how == "archive":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            z.writestr("x.dcm", raw)
        source = out.getvalue()
    (found,) = studies_in(source)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert found.reason in IMAGE_REASONS
    assert watched[0] < 2**30
    # and the service goes on
    assert Study.from_dicom(GOOD).instances[0].pixels().shape == (8, 8, 3)


@pytest.mark.parametrize("name", ["PNG of 30000 x 30000", "run lengths of 60000 x 60000"])
def test_an_attack_that_comes_as_an_image_is_held_off_too(name: str) -> None:
    make, reason = ATTACKS[name]
    with pytest.raises(ImageError) as e:
        Instance(make()).pixels()
    assert e.value.reason == reason and e.value.unsafe


def test_sequences_of_usual_depth_are_read() -> None:
    for undefined in (True, False):
        raw = nested(12, undefined=undefined)
        assert Study.from_dicom(raw).instances[0].pixels().shape == (8, 8, 3)


def test_a_member_that_holds_more_than_it_says_is_refused() -> None:
    (found,) = studies_in(lying_zip())
    assert isinstance(found, Refusal)
    assert found.reason in ("unreadable", "truncated")


def test_archives_that_claim_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(raw: bytes) -> str:
        (found,) = studies_in(raw)
        assert isinstance(found, Refusal)
        return found.reason

    assert reason(zip_bomb(1)[:-10]) in ("truncated", "unreadable")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_MEMBERS", 0)
        assert reason(zip_bomb(1)) == "too_large"
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_TOTAL_BYTES", 2**20 - 1)
        assert reason(zip_bomb(1)) == "too_large"
    raw = bytearray(zip_bomb(1))
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    assert reason(bytes(raw)) == "unreadable"


def worker_ids() -> list[int]:
    """Of this process's children those that decode: other tests leave helpers of their own."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(c) for c in children if "decoding_worker" in Path(f"/proc/{c}/cmdline").read_text()]


def test_a_worker_killed_from_outside_is_replaced() -> None:
    instance = Study.from_dicom(GOOD).instances[0]
    for worker in worker_ids():
        os.kill(worker, signal.SIGKILL)
    assert instance.pixels().shape == (8, 8, 3)


def test_a_worker_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Study.from_dicom(GOOD).instances[0]
    monkeypatch.setattr(decoding, "SECONDS", 0.2)
    workers = worker_ids()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    with pytest.raises(ImageError) as e:
        instance.pixels()
    assert (e.value.reason, e.value.unsafe) == ("timeout", True)
    for worker in set(workers) & set(worker_ids()):
        os.kill(worker, signal.SIGCONT)
    monkeypatch.undo()
    assert instance.pixels().shape == (8, 8, 3)


def test_what_wants_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = decoding._Pool()
    monkeypatch.setattr(decoding, "_pool", pool)
    monkeypatch.setattr(decoding, "MEMORY", 30 * 2**20)
    big = as_dicom(np.zeros((4000, 4000), np.uint8), modality="US")
    with pytest.raises(ImageError) as e:
        decoding.pixels(big, None, None)
    assert (e.value.reason, e.value.unsafe) == ("out_of_memory", True)
    assert decoding.pixels(GOOD, None, None).shape == (8, 8, 3)
    pool.close_idle()


def test_many_threads_share_few_workers() -> None:
    studies = [
        Study.from_dicom(as_dicom(np.full((4, 4), k, np.uint8), modality="US")) for k in range(40)
    ]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda s: int(s.instances[0].pixels().mean()), studies))
    assert found == list(range(40))
    assert len(worker_ids()) <= decoding.WORKERS


def test_a_fork_gets_workers_of_its_own() -> None:
    instance = Study.from_dicom(GOOD).instances[0]
    before = decoding._pool
    child = os.fork()
    if child == 0:
        try:
            right = instance.pixels().shape == (8, 8, 3) and decoding._pool is not before
            decoding._close()
        finally:
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert instance.pixels().shape == (8, 8, 3)


def test_plain_pictures_start_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_ask", lambda *_: pytest.fail("a worker was asked"))
    out = io.BytesIO()
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(out, "JPEG")
    assert Instance(out.getvalue()).pixels().shape == (9, 7, 3)


def test_other_pictures_are_decoded_by_a_worker() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    for form in ("TIFF", "BMP", "PPM"):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, form)
        np.testing.assert_array_equal(Instance(out.getvalue()).pixels(), pixels)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_broken_there_is_a_study_or_a_reason(data: st.DataObject) -> None:
    """Flipped, cut and doubled bytes of whole objects."""
    raw = bytearray(data.draw(st.sampled_from([GOOD, nested(3, undefined=True), run_length(8)])))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for found in studies_in(bytes(raw[:cut] if data.draw(st.booleans()) else raw)):
        if isinstance(found, Refusal):
            assert found.reason in IMAGE_REASONS
            continue
        for instance in found.instances[:2]:
            try:
                assert instance.pixels().dtype == np.uint8
            except ImageError as e:
                assert e.reason in IMAGE_REASONS and "crashed" not in e.reason


def test_the_bench_measures_all_of_it() -> None:
    found = bench_studies(objects=30, frames=2)
    assert found.headers > 0 and found.frames > 0
    assert {name: cost.reason for name, cost in found.attacks.items()} == {
        name: reason for name, (_, reason) in ATTACKS.items()
    }
    assert set(found.to_json()) == {"headers", "frames", "memory", "attacks"}
