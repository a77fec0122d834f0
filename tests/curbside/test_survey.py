"""What of a folder can be used: counted by kind, every object once."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from curbside import cli
from curbside.errors import IMAGE_REASONS
from curbside.intake import Refusal, studies_in
from curbside.phantom_dicom import as_dicom
from curbside.study import Study
from curbside.survey import USED, Kind, survey

GREY = np.zeros((4, 4), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "a": as_dicom(GREY, modality="US"),
        "b": as_dicom(GREY, modality="US", number=2),
        "c": as_dicom(GREY, modality="US", number=3, PixelData=None),
        "d": b"",
        "e": b"P5 2 2 255 abcd",
    }
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    return tmp_path


def test_every_object_is_counted_once(folder: Path) -> None:
    syntax = "Explicit VR Little Endian"
    assert survey(folder) == {
        Kind("US", syntax, USED): 2,
        Kind("US", syntax, "no_pixels"): 1,
        Kind("", "", "empty"): 1,
        Kind("", "plain image", USED): 1,
    }


def test_the_command_prints_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["curbside", "studies", str(folder)])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "5 objects"
    assert any(line.split()[0] == "2" and line.endswith("used") for line in lines)
    refused = next(f for f in studies_in(folder) if isinstance(f, Refusal) and f.reason == "empty")
    monkeypatch.setattr(sys, "argv", ["curbside", "studies", str(folder), "--find", refused.id])
    with pytest.raises(SystemExit) as e:
        cli.main()
    (place,) = capsys.readouterr().out.splitlines()
    assert not e.value.code and Path(place).parent == folder and not Path(place).read_bytes()
    monkeypatch.setattr(sys, "argv", ["curbside", "studies", str(folder), "--find", "0"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2 and "nothing there has the id '0'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["curbside", "studies", str(folder / "none")])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2


def test_objects_of_which_some_frames_are_broken(tmp_path: Path) -> None:
    # the RLE header of the second frame is cut off
    from pydicom.encaps import encapsulate

    plain = np.zeros((2, 8, 8), np.uint8)
    whole = b"\1\0\0\0\x40\0\0\0" + bytes(56) + b"\xc1\0"
    raw = as_dicom(
        plain, modality="US", frames=2, PixelData=encapsulate([whole, b"\1\0"], has_bot=False)
    )
    raw = raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    at = raw.index(b"\xe0\x7f\x10\x00OB") + 8
    raw = raw[:at] + b"\xff\xff\xff\xff" + raw[at + 4 :] + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (kind,) = survey(raw)
    assert kind.result.startswith("used in part: ")


def test_every_object_of_the_corpus_is_used_or_refused_with_a_reason(corpus: Path | None) -> None:
    if corpus is None:
        # the package's own test objects stand in
        from pydicom.data import get_testdata_file

        one = get_testdata_file("CT_small.dcm", download=False)
        assert isinstance(one, str)
        folder, n = Path(one).parent, None
    else:
        folder = corpus.parent / "dicom"
        with (folder / "manifest.csv").open(encoding="utf-8") as f:
            n = len(list(csv.DictReader(f)))
    counts = survey(folder)
    results = {k.result.removeprefix("used in part: ") for k in counts}
    assert results <= {USED, *IMAGE_REASONS}
    assert not results & {"crashed", "timeout", "missing"}
    if n is None:
        return
    # the manifest lies there too
    assert counts.total() == n + 1 == 127
    assert sum(c for k, c in counts.items() if k.result.startswith(USED)) == 87
    found = list(studies_in(folder))
    refused = [f for f in found if isinstance(f, Refusal)]
    studies = [f for f in found if isinstance(f, Study)]
    assert {r.reason for r in refused} <= set(IMAGE_REASONS)
    assert all(r.study in {s.id for s in studies} for r in refused if r.reason == "duplicate")
    assert len({s.id for s in studies}) == len(studies) == 56
