"""Hostile files: each ends in a typed reason, and the service lives and stays small."""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curbside import archives, decoding
from curbside.errors import IMAGE_REASONS, ImageError
from curbside.intake import Refusal, studies_in
from curbside.phantom_dicom import as_dicom
from curbside.study import Instance, Study

GOOD = as_dicom(np.arange(64, dtype=np.uint8).reshape(8, 8), modality="US")
EXPLICIT, DEFLATED = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"


def deflated(megabytes: int) -> bytes:
    """An object whose data set is one element of zeros, compressed a thousand to one."""
    at = GOOD.index(EXPLICIT) - 8
    meta = GOOD[:at] + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(DEFLATED)) + DEFLATED
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = pack.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, megabytes * 2**20))
    body += pack.flush(zlib.Z_FULL_FLUSH)
    # a block that refers to nothing before it can be repeated
    block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return meta + body + block * megabytes + pack.flush()


def nested(depth: int, *, undefined: bool) -> bytes:
    """An object with sequences in sequences, of undefined length or with every length given."""
    inner = b""
    for _ in range(depth):
        n = 0xFFFFFFFF if undefined else len(inner)
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", n) + inner
        item += b"\xfe\xff\x0d\xe0\0\0\0\0" if undefined else b""
        n = 0xFFFFFFFF if undefined else len(item)
        inner = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, n) + item
        inner += b"\xfe\xff\xdd\xe0\0\0\0\0" if undefined else b""
    at = GOOD.index(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 64))
    return GOOD[:at] + inner + GOOD[at:]


def run_length(rows: int) -> bytes:
    """A few hundred bytes of RLE that claim rows × rows pixels."""
    plain = as_dicom(np.zeros((2, 2), np.uint8), modality="US", Rows=rows, Columns=rows)
    meta = plain.replace(EXPLICIT, b"1.2.840.10008.1.2.5\0")
    at = meta.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    segment = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * 60
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + struct.pack("<I", len(segment))
    return (
        meta[:at]
        + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + fragments
        + segment
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


def big_png(side: int) -> bytes:
    """A picture that is mostly its header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def zip_bomb(megabytes: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z, z.open("bomb.dcm", "w") as f:
        for _ in range(megabytes):
            f.write(bytes(2**20))
    return out.getvalue()


def lying_zip() -> bytes:
    """A member that holds more than the archive says."""
    raw = bytearray(zip_bomb(2))
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 1000)
    return bytes(raw)


ATTACKS: dict[str, tuple[Any, str]] = {
    "inflates to 2 GB": (lambda: deflated(2048), "too_large"),
    "run lengths of 60000 x 60000": (lambda: run_length(60000), "too_large"),
    "sequences 500 deep": (lambda: nested(500, undefined=True), "too_deep"),
    "sequences 500 deep with lengths": (lambda: nested(500, undefined=False), "too_deep"),
    "PNG of 30000 x 30000": (lambda: big_png(30000), "too_large"),
    "zip bomb": (lambda: zip_bomb(300), "too_large"),
    "truncated": (lambda: GOOD[:-30], "truncated"),
    "truncated header": (lambda: GOOD[:140], "truncated"),
    "empty": (lambda: b"", "empty"),
    "no DICOM": (lambda: b"%PDF-1.4 and so on" * 40, "wrong_type"),
    "no pixels": (
        lambda: as_dicom(np.zeros((2, 2), np.uint8), modality="US", PixelData=None),
        "no_pixels",
    ),
    "a million frames": (
        lambda: as_dicom(np.zeros((2, 2), np.uint8), NumberOfFrames=10**6),
        "too_large",
    ),
}


def memory_of(process: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def family() -> int:
    """Resident bytes of this process and its workers."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    total = memory_of(os.getpid())
    for child in children:
        try:
            total += memory_of(int(child))
        except OSError:  # gone meanwhile
            continue
    return total


@pytest.fixture
def watched() -> Iterator[list[int]]:
    """The most memory taken over the base while a test runs."""
    base, most, done = family(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], family() - base)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


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
    return [int(c) for c in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


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
