"""What is learned from, and every reason to refuse it: before a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from tests_finetuning_world import ITEM, rows, write

from curbside.agents.finetuning.material import Lesson, _few, _watched, material_of
from curbside.agents.report_draft import load_report
from curbside.cases import Case, Cases, read_cases
from curbside.errors import UserError
from curbside.study import QuestionKind

REPORT = load_report("chest-1")


def material(path: Path, **given: Any) -> Any:
    return material_of(read_cases(path), **{"report": REPORT} | given)


def test_every_kind_of_question_becomes_lessons(tmp_path: Path) -> None:
    found = material(write(tmp_path, rows()), held_out=0.0)
    assert found.by_task == {ITEM: 12, "open questions": 8, "shade": 24}
    kinds = {x.task: x.kind for x in found.train}
    assert kinds["open questions"] is QuestionKind.VQA_OPEN
    assert found.options == {"shade": ("ill", "well"), ITEM: ("yes", "no")}
    assert found.labels == 44 and found.unusable == 0


def test_groups_are_whole_and_some_are_watched(tmp_path: Path) -> None:
    path = write(tmp_path, rows(48))
    found = material(path, held_out=0.25)
    groups = [{found.cases[x.row].group for x in part} for part in (found.train, found.held_out)]
    assert not groups[0] & groups[1]
    assert len(groups[1]) == 3
    again = material(path, held_out=0.25)
    assert again.digest == found.digest
    assert material(path, held_out=0.25, seed=5).digest != found.digest


def test_too_few_groups_are_all_learned_from(tmp_path: Path) -> None:
    assert not material(write(tmp_path, rows(24)), held_out=0.25).held_out  # six groups


def test_shots_are_per_label_and_the_same_for_one_seed(tmp_path: Path) -> None:
    path = write(tmp_path, rows(48))
    found = material(path, shots=2, held_out=0.0)
    assert found.by_task == {ITEM: 4, "open questions": 2, "shade": 4}
    assert found.digest == material(path, shots=2, held_out=0.0).digest
    assert found.digest != material(path, shots=2, held_out=0.0, seed=1).digest


def test_a_folder_that_moves_is_the_same_material(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", rows()), write(tmp_path / "b", rows())
    assert material(one).digest == material(two).digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r | {"role": "tune"}, "no labelled case of role 'train'"),
        (lambda r: {**r, "label": ""} if "label" in r else r | {"role": ""}, "no labelled case"),
        (lambda r: r | {"label": "ill"} if "label" in r else r, "'shade' \\(only 'ill'\\)"),
        (lambda r: r | {"label": "dead"} if "label" in r else r, "none of the options ill|well"),
        (lambda r: r | {ITEM: "maybe"} if ITEM in r else r, "holds 'maybe'; valid: yes, no"),
        (lambda r: {k: v for k, v in r.items() if k != ITEM}, "columns named after the template"),
        (lambda r: r | {"kind": "essay"}, "kind 'essay' is unknown; valid: diagnosis"),
        (lambda r: r | {"kind": "vqa_open"} if "label" in r else r, "takes no options"),
        (lambda r: {**r, "options": [], "kind": "diagnosis"} if "label" in r else r, "needs opt"),
        (lambda r: r | {"image": f"x{r['image']}"}, "no image of the 44 cases of role 'train'"),
        (
            lambda r: r | {"role": "test"} if r["id"] == "c3" else r,
            "its group is in role|the very image",
        ),
        (
            lambda r: r | {"role": "test", "group": "t"} if r["id"] == "c3" else r,
            "role 'test' has the very image of line",
        ),
    ],
)  # fmt: skip
def test_bad_data_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = write(tmp_path, rows(), change)
    with pytest.raises(UserError, match=said) as e:
        material(path)
    assert e.value.hint
    assert str(tmp_path / "x") not in e.value.message


def test_encoders_pass_open_questions_by(tmp_path: Path) -> None:
    found = material(write(tmp_path, rows()), closed_only=True, held_out=0.0)
    assert found.passed_by == 8 and set(found.by_task) == {"shade", ITEM}
    opened = [r for r in rows() if r.get("kind") == "vqa_open"]
    with pytest.raises(UserError, match="no labelled case"):
        material(write(tmp_path / "open", opened), closed_only=True)


def test_images_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, rows())
    (tmp_path / "0.png").write_bytes(b"half")
    (tmp_path / "1.png").unlink()
    found = material(path, held_out=0.0)
    # three questions were asked of the first image, two of the second
    assert found.unusable == 5
    assert found.labels == 39


lessons = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.sampled_from(["x", "y", ""])),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(lessons, st.floats(0, 0.5), st.integers(0, 3))
def test_watching_never_takes_the_last_case_of_a_label(
    drawn: list[tuple[int, str, str]], share: float, seed: int
) -> None:
    cases = Cases(
        [Case(str(i), Path("x.png"), group=f"g{g}") for i, (g, _, _) in enumerate(drawn)], Path("m")
    )
    made = [
        Lesson(i, QuestionKind.DIAGNOSIS, t, "", ("x", "y") if a else (), a)
        for i, (_, t, a) in enumerate(drawn)
    ]
    watched = _watched(cases, made, share, seed)
    left = [x for x in made if cases[x.row].group not in watched]
    assert {(x.task, x.label) for x in left} == {(x.task, x.label) for x in made}
    assert len(watched) <= max(1, round(share * 31))
    few = _few(left, 2, seed)
    counts = [(x.task, x.label) for x in few]
    assert max(counts.count(c) for c in counts) <= 2
