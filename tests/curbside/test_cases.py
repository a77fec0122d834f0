"""Manifests of three kinds say the same; every bad row is named, all at once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curbside.case_stream import CaseStream
from curbside.cases import ROLES, TIERS, Case, Cases, read_cases
from curbside.errors import CasesError, ImageError
from curbside.phantom_dicom import as_dicom
from curbside.phantoms import write_phantoms

Row = Mapping[str, Any]
GOOD: list[dict[str, str]] = [
    {
        "id": "one",
        "image": "a/1.png",
        "modality": "cxr",
        "label": "yes",
        "task": "t",
        "options": "yes|no",
        "question": "Is it?",
        "role": "train",
        "tier": "common",
        "group": "g1",
        "site": "north",
    },
    {
        "id": "two",
        "image": "2.png",
        "modality": "oct",
        "label": "",
        "task": "",
        "options": "",
        "question": "",
        "role": "test",
        "tier": "novel",
        "group": "",
        "site": "",
    },
]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    names = list(dict.fromkeys(k for r in rows for k in r))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def write_jsonl(rows: Sequence[Row], path: Path) -> None:
    path.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Sequence[Row], Path], None]] = {
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}


def written(rows: Sequence[Row], folder: Path, suffix: str = ".csv") -> Path:
    path = folder / f"manifest{suffix}"
    WRITERS[suffix](rows, path)
    return path


def problems(rows: Sequence[Row], folder: Path, suffix: str = ".csv") -> list[tuple[int, str]]:
    with pytest.raises(CasesError) as e:
        read_cases(written(rows, folder, suffix))
    return [(p.line, p.reason) for p in e.value.problems]


# -- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
def test_three_kinds_say_the_same(tmp_path: Path, suffix: str) -> None:
    cases = read_cases(written(GOOD, tmp_path, suffix))
    one, two = cases
    assert one == Case(
        id="one",
        image=tmp_path / "a" / "1.png",
        modality="cxr",
        label="yes",
        task="t",
        options=("yes", "no"),
        question="Is it?",
        role="train",
        tier="common",
        group="g1",
        attributes={"site": "north"},
        line=one.line,
    )
    assert (two.label, two.task, two.options, two.question, two.group) == (None, None, (), "", "")
    assert dict(two.attributes) == {}
    assert cases.digest == read_cases(written(GOOD, tmp_path)).digest
    assert [one.line, two.line] == ([2, 3] if suffix == ".csv" else [1, 2])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_options_may_be_a_list(tmp_path: Path, suffix: str) -> None:
    rows = [{"image": "1", "label": "a|b", "options": ["a|b", "c"]}]
    assert read_cases(written(rows, tmp_path, suffix))[0].options == ("a|b", "c")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_null_and_not_a_number_are_absent(tmp_path: Path, suffix: str) -> None:
    rows: list[Row] = [
        {"image": "1", "label": None, "age": 61.5},
        {"image": "2", "label": "x", "age": float("nan")},
    ]
    one, two = read_cases(written(rows, tmp_path, suffix))
    assert one.label is None
    assert dict(one.attributes) == {"age": "61.5"}
    assert dict(two.attributes) == {}


def test_a_study_column_stands_for_the_image(tmp_path: Path) -> None:
    rows = [{"study": "folder"}, {"study": "", "image": "1.png"}]
    assert [c.image.name for c in read_cases(written(rows, tmp_path))] == ["folder", "1.png"]


def test_only_an_image_is_needed(tmp_path: Path) -> None:
    (case,) = read_cases(written([{"image": "1.png"}], tmp_path))
    assert len(case.id) == 16
    assert set(case.id) <= set("0123456789abcdef")
    assert case.role is None


def test_a_missing_image_is_no_error_here(tmp_path: Path) -> None:
    (case,) = read_cases(written([{"image": "gone.png"}], tmp_path))
    assert not case.image.exists()
    assert case.study().id == case.id


def test_spaces_a_byte_order_mark_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufeffimage , label,options\n\n 1.png , yes , yes | no \n\n", encoding="utf-8")
    (case,) = read_cases(path)
    assert (case.image.name, case.label, case.options) == ("1.png", "yes", ("yes", "no"))
    path = tmp_path / "m.jsonl"
    path.write_text('\ufeff\n{"image": "1"}\n\n{"image": "2"}\n', encoding="utf-8")
    assert [c.line for c in read_cases(path)] == [2, 4]


def test_a_field_may_hold_lines(tmp_path: Path) -> None:
    rows = [{"image": "1", "question": "Is it?\nReally?"}, {"image": "2", "question": ""}]
    cases = read_cases(written(rows, tmp_path))
    assert cases[0].question == "Is it?\nReally?"
    assert cases[1].line == 4


def test_the_study_carries_the_question_and_no_truth(tmp_path: Path) -> None:
    study = read_cases(written(GOOD, tmp_path))[0].study()
    assert (study.id, study.group) == ("one", "g1")
    assert study.question.options == ("yes", "no")
    assert (study.question.task, study.question.text) == ("t", "Is it?")
    assert "1.png" not in repr(read_cases(written(GOOD, tmp_path))[0])


def test_columns_rows_and_slices(tmp_path: Path) -> None:
    rows = [
        {"image": f"{i}", "role": ROLES[i % 4], "tier": TIERS[i % 3], "modality": f"m{i % 2}"}
        for i in range(12)
    ]
    cases = read_cases(written(rows, tmp_path))
    assert cases.roles.tolist() == [r["role"] for r in rows]
    assert cases.labels.tolist() == cases.tasks.tolist() == cases.groups.tolist() == [""] * 12
    assert cases.where(role="train").tolist() == [0, 4, 8]
    assert cases.where(role=("train", "tune"), tier="common").tolist() == [0, 9]
    assert cases.where(modality="m1", tier=["rare", "novel"]).tolist() == [1, 5, 7, 11]
    assert cases.where(role="nobody").tolist() == []
    taken = cases.take(cases.where(tier="novel")[::-1])
    assert taken.ids.tolist() == cases.ids[[11, 8, 5, 2]].tolist()
    assert cases.take(cases.tiers == "rare").tiers.tolist() == ["rare"] * 4
    assert [c.id for c in cases[2:4]] == cases.ids[2:4].tolist()
    assert len(cases.take([]).modalities) == 0
    assert [s.id for s in cases.studies()] == cases.ids.tolist()
    assert repr(cases) == "Cases(12 from manifest.csv)"


def test_the_digest_is_of_every_row_and_not_of_the_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "x", tmp_path / "y"]
    for folder in folders:
        folder.mkdir()
    one, two = (read_cases(written(GOOD, f)).digest for f in folders)
    assert one == two
    for column in GOOD[0]:
        value = {"options": "yes|no|x", "role": "tune", "tier": "rare", "label": "no"}
        other = [{**GOOD[0], column: value.get(column, "changed")}, GOOD[1]]
        assert read_cases(written(other, tmp_path)).digest != one, column


# -- what is refused -------------------------------------------------------------------------

BAD_ROWS: dict[str, tuple[list[dict[str, str]], int, str]] = {
    "role": ([{"image": "1", "role": "validation"}], 2, "valid: train, tune, calibration, test"),
    "tier": ([{"image": "1", "tier": "odd"}], 2, "valid: common, rare, novel"),
    "no image": ([{"image": "1"}, {"image": " "}], 3, "image is empty"),
    "no study": ([{"study": "1"}, {"study": ""}], 3, "study is empty"),
    "label": ([{"image": "1", "label": "c", "options": "a|b"}], 2, "'c' is none of the options"),
    "one option": ([{"image": "1", "options": "a"}], 2, "at least two"),
    "option twice": ([{"image": "1", "options": "a|b|a"}], 2, "an option is repeated"),
    "empty option": ([{"image": "1", "options": "a||b"}], 2, "an option is empty"),
    "same id": ([{"id": "x", "image": "1"}, {"id": "x", "image": "2"}], 3, "same id as line 2"),
    "same image": ([{"image": "1"}, {"image": "1"}], 3, "needs ids"),
    "group": (
        [
            {"image": "1", "group": "g", "role": "train"},
            {"image": "2", "group": "g", "role": "test"},
        ],
        3,
        "its group is in role 'test' here and 'train' on line 2",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_by_line_and_reason(tmp_path: Path, name: str) -> None:
    rows, line, reason = BAD_ROWS[name]
    ((found, said),) = problems(rows, tmp_path)
    assert found == line
    assert reason in said


@pytest.mark.parametrize(("row", "reason"), [("1,yes,more", "more fields"), ("1", "fewer fields")])
def test_a_row_of_another_length(tmp_path: Path, row: str, reason: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"image,label\n0,yes\n{row}\n")
    with pytest.raises(CasesError, match=rf"line 3: {reason} than the header has columns"):
        read_cases(path)


def test_a_nested_value(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"image": "1", "site": {"a": 1}},
        {"image": ["2"]},
        {"image": "3", "options": {"a": 1}},
    ]
    assert {line for line, _ in problems(rows, tmp_path, ".jsonl")} == {1, 2, 3}


def test_what_json_can_write_and_utf_8_cannot(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"image": "1", "id": "a\ud800"},
        {"image": "2\udcff.png"},
        {"image": "3", "options": ["a", "\ud800"]},
        {"image": "4", "site\ud800": "north", "id": "\U0001f600"},
    ]
    why = "{} holds a lone surrogate, which is no text"
    columns = ("'id'", "'image'", "'options'", r"'site\ud800'")
    expected = [(i, why.format(column)) for i, column in enumerate(columns, 1)]
    assert problems(rows, tmp_path, ".jsonl") == expected
    with pytest.raises(CasesError) as e:
        CaseStream(written(rows, tmp_path, ".jsonl"))
    assert [(p.line, p.reason) for p in e.value.problems] == expected
    str(e.value).encode()


def test_all_at_once_and_the_first_ten_shown(tmp_path: Path) -> None:
    rows = [{"image": f"{i}", "role": "x", "tier": "y"} for i in range(9)] + [{"image": "good"}]
    with pytest.raises(CasesError) as e:
        read_cases(written(rows, tmp_path))
    assert len(e.value.problems) == 18
    text = str(e.value)
    assert "18 problem(s) in 9 of 10 row(s)" in text
    assert text.count("line ") == 10
    assert "… and 8 more" in text
    assert "docs/cases.md" in text
    assert e.value.exit_code == 2


def _raw(name: str, raw: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(raw)
        return folder / name

    return write


def _folder(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "no.csv", "does not exist"),
    "a folder": (lambda f: f, "valid endings: .csv, .jsonl, .parquet"),
    "a folder named so": (_folder("d.csv"), "cannot be read"),
    "another suffix": (_raw("m.xlsx", b"x"), "valid endings: .csv, .jsonl, .parquet"),
    "empty": (_raw("m.csv", b""), "no case"),
    "header alone": (_raw("m.csv", b"image,label\n"), "no case"),
    "empty lines": (_raw("m.jsonl", b"\n\n"), "no case"),
    "no image column": (_raw("m.csv", b"img,label\n1,2\n"), "its columns: img, label"),
    "no image key": (_raw("m.jsonl", b'{"img": 1}\n{}\n'), "its columns: img"),
    "column twice": (_raw("m.csv", b"image,label,label\n1,2,3\n"), "column twice: label"),
    "latin-1": (_raw("m.csv", "image\nä.png\n".encode("latin-1")), "not UTF-8"),
    "latin-1 jsonl": (_raw("m.jsonl", '{"image": "ä"}'.encode("latin-1")), "not UTF-8"),
    "open quote": (_raw("m.csv", b'image\n"1\n'), "not CSV"),
    "open quote in the header": (_raw("m.csv", b'"image\n1\n'), "not CSV"),
    "not json": (_raw("m.jsonl", b'{"image": 1}\nimage\n[1]\n'), "2 line(s) that are no JSON"),
    "not parquet": (_raw("m.parquet", b"PAR1 but no"), "not Parquet"),
    "empty parquet": (_raw("m.parquet", b""), "not Parquet"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_manifest(tmp_path: Path, name: str) -> None:
    make, message = UNUSABLE[name]
    with pytest.raises(CasesError) as e:
        read_cases(make(tmp_path))
    assert message in str(e.value)
    assert e.value.hint


# -- what holds for all of them --------------------------------------------------------------

NAMES = st.text("abcäö ,\"'\n", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"image": NAMES, "modality": NAMES | st.just(""), "question": NAMES | st.just("")},
            optional={"options": st.lists(NAMES, min_size=2, max_size=4, unique=True)},
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda r: str(r["image"]),
    )
)
def test_every_kind_brings_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("cases")
    flat = [{**r, "options": "|".join(r.get("options", []))} for r in rows]
    digests = set()
    for suffix, given_rows in ((".csv", flat), (".jsonl", rows), (".parquet", flat)):
        cases = read_cases(written(given_rows, folder, suffix))
        assert [c.image for c in cases] == [folder / r["image"] for r in rows]
        assert [list(c.options) for c in cases] == [r.get("options", []) for r in rows]
        assert [c.question for c in cases] == [r["question"] for r in rows]
        digests.add(cases.digest)
    assert len(digests) == 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(list(WRITERS)))
def test_rubbish_is_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("rubbish") / f"m{suffix}"
    path.write_bytes(b"image\n" + raw if suffix == ".csv" else raw)
    try:
        assert isinstance(read_cases(path), Cases)
    except CasesError as e:
        assert e.hint


def test_the_corpus_or_the_phantoms_are_read_as_they_are(
    corpus: Path | None, tmp_path: Path
) -> None:
    manifest = corpus or write_phantoms(tmp_path / "phantoms", scale=0.05)
    cases = read_cases(manifest)
    assert set(cases.roles.tolist()) == set(ROLES)
    assert set(cases.tiers.tolist()) == set(TIERS)
    assert len(np.unique(cases.ids)) == len(cases)
    if corpus:
        assert len(cases) == 10_513
        assert len(set(cases.modalities.tolist())) == 24
        assert [int((cases.roles == r).sum()) for r in ROLES] == [4974, 737, 1470, 3332]


def test_a_study_may_be_a_dicom_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    for k in range(3):
        raw = as_dicom(np.full((4, 4), k, np.int16), number=k)
        (tmp_path / "ct" / f"{k}.dcm").write_bytes(raw)
    rows = [
        {"study": "ct", "id": "folder", "group": "g", "question": "Is it?"},
        {"study": "ct/1.dcm", "id": "file"},
        {"study": "gone.dcm", "id": "gone"},
    ]
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    folder, file, gone = read_cases(path).studies()
    assert (folder.id, folder.group, folder.question.text) == ("folder", "g", "Is it?")
    assert len(folder.instances) == 3
    assert file.tags == {"Modality": "CT"} and file.group
    with pytest.raises(ImageError, match="no such file"):
        gone.instances[0].pixels()
