"""From files, folders and archives to studies: grouping, order, identity, what is refused."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curbside import intake
from curbside.errors import ConfigError, ImageError, StorageError
from curbside.home import home
from curbside.identity import keyed
from curbside.intake import Refusal, places_of, studies_in
from curbside.phantom_dicom import as_dicom
from curbside.scratch import Scratch
from curbside.study import Question, Study


def grey(level: int, size: int = 8) -> Any:
    return np.full((size, size), level, np.int16)


def level(instance: Any) -> int:
    """The grey of an instance made by :func:`grey`."""
    return int(instance.values().mean())


def png(seed: int = 0, size: tuple[int, int] = (12, 10)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write(folder: Path, **files: bytes) -> Path:
    for name, raw in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return folder


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, raw in files.items():
            z.writestr(name, raw)
    return out.getvalue()


def sorted_out(source: Any, **options: Any) -> tuple[list[Study], list[Refusal]]:
    found = list(studies_in(source, **options))
    return (
        [f for f in found if isinstance(f, Study)],
        [f for f in found if isinstance(f, Refusal)],
    )


def test_objects_become_studies_and_series_in_order_of_position(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=as_dicom(grey(3), number=1, position=30.0),
        b__c=as_dicom(grey(1), number=3, position=-10.0),
        d=as_dicom(grey(2), number=2, position=5.0),
        e=as_dicom(grey(9), series=2),
        f=as_dicom(grey(7), study=2, patient="PHANTOM-2"),
        picture=png(),
    )
    studies, refusals = sorted_out(tmp_path, question=Question(task="lungs"))
    assert not refusals
    assert [len(s.instances) for s in studies] == [1, 4, 1]
    picture, first, other = studies
    assert [level(i) for i in first.series[0].instances] == [1, 2, 3]
    assert [level(i) for i in first.series[1].instances] == [9]
    assert first.tags == {"Modality": "CT"}
    assert {s.question.task for s in studies} == {"lungs"}
    assert first.group and first.group != other.group
    assert picture.group == ""
    assert len({s.id for s in studies}) == 3
    assert not any(s.incomplete for s in studies)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)))
def test_the_order_of_files_changes_nothing(order: list[int]) -> None:
    raw = {f"{k}.dcm": as_dicom(grey(i), number=i, position=4.0 * i) for k, i in enumerate(order)}
    (study,), _ = sorted_out(zipped(raw))
    assert [level(i) for i in study.instances] == [0, 1, 2, 3, 4]


def test_without_positions_the_number_orders_and_so_it_does_across_planes(tmp_path: Path) -> None:
    coronal: dict[str, Any] = {
        "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
        "ImagePositionPatient": [0, -50, 0],
    }
    write(
        tmp_path,
        a=as_dicom(grey(2), number=2),
        b=as_dicom(grey(1), number=1),
        c=as_dicom(grey(4), series=2, number=2, position=-9),
        d=as_dicom(grey(3), series=2, number=1, **coronal),
    )
    (study,), _ = sorted_out(tmp_path)
    assert [level(i) for i in study.instances] == [1, 2, 3, 4]


def test_frames_are_instances_with_digests_of_their_own() -> None:
    volume = np.stack([grey(k) for k in range(3)])
    study = Study.from_dicom(as_dicom(volume, frames=3))
    assert [level(i) for i in study.instances] == [0, 1, 2]
    assert len({i.digest() for i in study.instances}) == 3
    assert (
        study.instances[0].digest()
        == Study.from_dicom(study.instances[0].read()).instances[0].digest()
    )


def test_bad_objects_leave_the_study_usable_and_incomplete(tmp_path: Path) -> None:
    good = as_dicom(grey(1), number=1)
    write(
        tmp_path,
        a=good,
        b=as_dicom(grey(2), number=2)[:-50],
        c=as_dicom(grey(2), number=3, PixelData=None),
        d=good,
        e=as_dicom(grey(5), number=1),
        f=b"",
        g=as_dicom(grey(3), number=4, Rows=60000, Columns=60000),
        readme=b"What is in here",
        report=as_dicom(grey(0), number=5, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"),
    )
    (study,), refusals = sorted_out(tmp_path)
    assert len(study.instances) == 1
    assert study.incomplete == ("duplicate", "empty", "no_pixels", "too_large", "truncated")
    assert sorted(r.reason for r in refusals if r.study == study.id) == list(study.incomplete)
    assert {r.reason for r in refusals if r.study is None} == {"wrong_type", "not_an_image"}


def test_a_broken_file_beside_two_studies_belongs_to_neither(tmp_path: Path) -> None:
    write(tmp_path, a=as_dicom(grey(1)), b=as_dicom(grey(1), study=2), c=b"")
    studies, (refusal,) = sorted_out(tmp_path)
    assert (refusal.reason, refusal.study) == ("empty", None)
    assert [s.incomplete for s in studies] == [(), ()]


def test_archives_give_what_their_files_give(tmp_path: Path) -> None:
    files = {"x/1.dcm": as_dicom(grey(1)), "x/2.dcm": as_dicom(grey(2), number=2), "p.png": png()}
    raw = zipped({**files, "__MACOSX/x/._1.dcm": b"litter", "x/.DS_Store": b"litter"})
    (tmp_path / "upload.bin").write_bytes(raw)
    for source in (raw, tmp_path / "upload.bin", tmp_path):
        studies, refusals = sorted_out(source)
        assert not refusals
        assert sorted(len(s.instances) for s in studies) == [1, 2]
        assert all(i.pixels().ndim == 3 for s in studies for i in s.instances)
    nested, (refusal,) = sorted_out(zipped({"inner.zip": raw}))
    assert (nested, refusal.reason) == ([], "wrong_type")


def test_ids_are_keyed_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = as_dicom(grey(1), patient="SECRET-77")
    first = Study.from_dicom(raw)
    assert first.id == Study.from_dicom(write(tmp_path, a=raw)).id
    key = home() / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path / "other"))
    other = Study.from_dicom(raw)
    assert other.id != first.id
    assert other.group != first.group


def test_nothing_of_the_patient_gets_out(tmp_path: Path) -> None:
    folder = tmp_path / "Doe^Jane"
    raw = as_dicom(
        grey(1), patient="SECRET-77", PatientName="Doe^Jane", BodyPartExamined="lung of Jane Doe"
    )
    write(folder, a=raw, b=as_dicom(grey(1), number=2, patient="SECRET-77", PixelData=None))
    found = list(studies_in(folder))
    study = next(f for f in found if isinstance(f, Study))
    shown = repr(found) + repr(study.instances) + str(dict(study.tags)) + study.group + study.id
    for secret in ("SECRET", "Doe", "Jane", "1.2.826"):
        assert secret not in shown
    with pytest.raises(ImageError) as e:
        Study.from_dicom(folder / "b")
    assert "Doe" not in str(e.value) and "SECRET" not in str(e.value)


def test_only_allowed_tags_go_further() -> None:
    raw = as_dicom(grey(1), BodyPartExamined="chest", ViewPosition="PA", Manufacturer="M")
    assert Study.from_dicom(raw).tags == {"Modality": "CT", "BodyPartExamined": "CHEST"}
    (study,), _ = sorted_out(raw, allowed_tags=["ViewPosition"])
    assert study.tags == {"ViewPosition": "PA"}
    patient = ("PatientID", "StudyInstanceUID", "ReferringPhysicianName", "AccessionNumber")
    for name in (*patient, "NoSuchThing"):
        with pytest.raises(ConfigError, match=name):
            list(studies_in(raw, allowed_tags=[name]))


def test_from_dicom_wants_one_study(tmp_path: Path) -> None:
    write(tmp_path, a=as_dicom(grey(1)), b=as_dicom(grey(1), study=2))
    with pytest.raises(ImageError, match="2 studies"):
        Study.from_dicom(tmp_path)
    given = Study.from_dicom(tmp_path / "a", id="case-1", group="g", question=Question(text="?"))
    assert (given.id, given.group, given.question.text) == ("case-1", "g", "?")
    with pytest.raises(ImageError) as e:
        Study.from_dicom(tmp_path / "none")
    assert e.value.reason == "missing"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError) as e:
        Study.from_dicom(tmp_path / "empty")
    assert e.value.reason == "missing"


def test_an_unusable_study_says_why_wherever_it_is_asked() -> None:
    study = Study.unusable("case-1", ImageError("too_deep", "nested"))
    for ask in (study.instances[0].pixels, study.instances[0].digest, study.instances[0].values):
        with pytest.raises(ImageError) as e:
            ask()
        assert e.value.reason == "too_deep"
        assert e.value.unsafe


def test_a_study_without_tags_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ImageError("empty", "0 bytes")))  # noqa: S301  our own bytes
    assert (error.reason, error.message) == ("empty", "0 bytes")


def test_odd_names_links_and_pipes(tmp_path: Path) -> None:
    raw = as_dicom(grey(1))
    with Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.dcm")).open("wb") as f:
        f.write(raw)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to itself").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".hidden").write_bytes(b"litter")
    (study,), refusals = sorted_out(tmp_path)
    assert level(study.instances[0]) == 1
    assert sorted(r.reason for r in refusals) == ["missing", "wrong_type"]


def in_order(folder: Path) -> list[Path]:
    """Every file below a folder, as ``os.walk`` over sorted names gives them."""
    found = []
    for at, below, names in os.walk(folder):
        below.sort()
        found += [Path(at, n) for n in sorted(names)]
    return found


def test_how_far_it_is_is_told_as_it_goes(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=as_dicom(grey(1), number=1),
        b=as_dicom(grey(2), number=2),
        c=as_dicom(grey(1), study=2, PixelData=None),
        d=png(),
        e=b"",
        f__g=as_dicom(grey(1), study=3),
    )
    (tmp_path / "h.zip").write_bytes(zipped({"i.png": png(1), "j.png": png(2)}))
    (tmp_path / "k.zip").write_bytes(b"no archive")
    told: list[tuple[int, int]] = []
    studies, _ = sorted_out(tmp_path, looked=lambda *n: told.append(n))
    # files of a folder before the folders in it
    expected = [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3), (8, 4), (9, 4)]
    assert told == [*expected, (9, 5)]
    assert len(studies) == 5
    assert intake.count_in(tmp_path) == 9
    assert intake.count_in(tmp_path / "a") == 1


@pytest.mark.timeout(20)
def test_a_pipe_that_is_named_as_an_archive_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    assert intake.count_in(tmp_path) == 1
    studies, refusals = sorted_out(tmp_path)
    assert not studies
    assert [r.reason for r in refusals] == ["wrong_type"]


@pytest.mark.parametrize("at_a_time", [1, 3, 7, 1000])
def test_a_folder_is_listed_in_order_however_few_names_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(intake, "_LISTED", at_a_time)
    for i in range(14):
        write(tmp_path, **{f"{i * 5 % 14}": png(), f"f{i}__b": png(), f"f{i}__a__c": png()})
    (tmp_path / "f3" / "back").symlink_to(tmp_path)
    (tmp_path / "f4" / "one").symlink_to(tmp_path / "3")
    expected = [p for p in in_order(tmp_path) if p.name != "back"]
    assert [source for source, _, _ in intake.sources_in(tmp_path)] == expected
    assert len(expected) == 14 * 3 + 1


@pytest.fixture
def nothing_is_interned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths intern their parts, in a table of the whole process: where it must grow while memory
    is measured, which hangs on every test before, that alone is 4 MB."""
    monkeypatch.setattr(sys, "intern", str)


@pytest.mark.usefixtures("nothing_is_interned")
def test_names_of_a_large_folder_are_not_all_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_LISTED", 32)
    for i in range(4000):
        (tmp_path / f"{i:050d}").touch()
    tracemalloc.start()
    try:
        n = sum(1 for _ in intake.sources_in(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n == 4000
    # all of them at once are 400 kB and more
    assert peak < 100_000


def of_a_tree(n: int, source: Path) -> dict[str, Any]:
    """A header of one of n objects, as decoding gives it: a hundred a study, mixed."""
    i = int(source.name)
    place = [f"1.2.{i % (n // 100)}", f"1.3.{i % (n // 50)}", f"1.4.{i}"]
    return {
        "kind": "CT",
        "syntax": "Explicit VR Little Endian",
        **dict(zip(("study", "series", "uid"), place, strict=True)),
        "patient": place[0],
        "series_number": i % 2,
        "number": i,
        "frames": 1,
        "normal": [0.0, 0.0, 1.0],
        "positions": [-float(i)],
        "tags": {"Modality": "CT"},
        "unusable": None if i % 101 else ["truncated", "it is cut short"],
    }


@pytest.mark.usefixtures("nothing_is_interned")
def test_memory_does_not_grow_with_the_objects_of_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, names = {}, "{:08d}"
    for n in (1_000, 8_000):
        monkeypatch.setattr(intake, "look_at", lambda source, tags, n=n: of_a_tree(n, source))
        tree = ((Path("tree", names.format(i)), "tree", None) for i in range(n))
        monkeypatch.setattr(intake, "sources_in", lambda start, tree=tree: tree)
        tracemalloc.start()
        try:
            objects, lost = 0, 0
            for found in studies_in(Path()):
                if isinstance(found, Study):
                    assert len(found.series) == 2
                    numbers = [int(cast(Path, i.source).name) for i in found.series[0].instances]
                    assert numbers == sorted(numbers, reverse=True)
                    objects += len(found.instances)
                    lost += len(found.incomplete)
            _, peaks[n] = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (objects + lost, lost) == (n, len(range(0, n, 101)))
    # 750 bytes an object would be 5 MB more
    assert peaks[8_000] < peaks[1_000] + 200_000


def test_a_disk_without_room_for_the_objects_of_a_tree_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, **{f"{i}": as_dicom(grey(i), number=i) for i in range(3)})

    def full(self: Scratch, statement: str, *values: Any) -> int:
        raise StorageError("full", hint="free some space")

    monkeypatch.setattr(Scratch, "run", full)
    with pytest.raises(StorageError, match="full"):
        list(studies_in(tmp_path))


def test_where_an_id_lies_is_said_to_whoever_has_the_files_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = [as_dicom(grey(i), study=i // 2, number=i) for i in range(4)]
    files = {f"ct{i}": raw for i, raw in enumerate(objects)}
    write(tmp_path, **files, x__plain=png(), x__odd=b"words", z=zipped({"in/a.png": png(1)}))
    found = list(studies_in(tmp_path))
    places = [
        [Path(p).relative_to(tmp_path).as_posix() for p in places_of(tmp_path, f.id)] for f in found
    ]
    assert sorted(places) == [
        ["ct0", "ct1"],
        ["ct2", "ct3"],
        ["x/odd"],
        ["x/plain"],
        ["z:in/a.png"],
    ]
    assert places_of(tmp_path, "0" * 32) == [] == places_of(tmp_path / "x", found[-1].id)
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path / "another key"))
    assert not any(places_of(tmp_path / "x", f.id) for f in found)


def test_a_folder_that_cannot_be_read_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a=png(), b__c=png(), d__e=png())
    real = os.scandir

    def closed(folder: str) -> Any:
        if Path(folder).name == "b":
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", closed)
    studies, (refusal,) = sorted_out(tmp_path)
    assert len(studies) == 2
    assert (refusal.reason, "Permission denied" in refusal.message) == ("unreadable", True)
    assert str(tmp_path) not in refusal.message


def test_a_key_that_is_damaged_or_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "identity.key").write_bytes(b"short")
    with pytest.raises(StorageError, match="5 bytes"):
        keyed("study", "1.2")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CURBSIDE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StorageError, match="cannot be read or made"):
        keyed("study", "1.2")


def test_equal_values_of_two_kinds_have_two_names() -> None:
    assert keyed("study", "1.2") == keyed("study", "1.2")
    assert keyed("study", "1.2") != keyed("patient", "1.2")
    assert len(keyed("study", "")) == 32
