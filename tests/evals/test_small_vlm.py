"""Judging a small VLM: controls that know nothing find nothing, planted skill is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curbside.cases import Case
from curbside.evals.small_vlm import judge_labels, judge_modality, judge_visual, temperature
from curbside.evals.small_vlm_answers import Labels, Modalities, Visual, kept
from curbside.evals.small_vlm_table import lines, write_report

OPTIONS = ("benign", "malignant")


def case(i: int, modality: str = "ct_chest", **more: Any) -> Case:
    given: dict[str, Any] = {
        "label": OPTIONS[i % 2],
        "task": f"{modality}_kind",
        "options": OPTIONS,
        **more,
    }
    return Case(id=f"c{i}", image=Path(f"{i}.png"), modality=modality, group=f"g{i // 2}", **given)


CASES = [case(i, "ct_chest" if i < 30 else "cxr") for i in range(40)]


def labels(right: float) -> Labels:
    """Says the truth of the first share of each modality's cases, else always benign."""
    said = []
    for i, c in enumerate(CASES):
        known = (i % 10) < 10 * right
        said.append([0.0, -3.0] if c.label == "benign" or not known else [-3.0, 0.0])
    same = {t: [0.0, -1.0] for t in ("ct_chest_kind", "cxr_kind")}
    return Labels(said, same, same)


def test_skill_is_found_where_it_was_planted() -> None:
    row = judge_labels(CASES, [labels(1.0), labels(0.9)], "label", beside={"G16": [True] * 40})
    assert row.seeds[0] == 1.0 and 0.9 < row.value[0] < 1.0
    assert row.controls["without"][0] == row.controls["blank"][0] == 0.5
    assert row.controls["shuffled"][0] < 0.55
    assert row.skill and row.over["G16"][0] <= 0
    assert (row.n, row.groups) == (40, 20)


def test_answering_always_the_same_is_no_skill() -> None:
    row = judge_labels(CASES, [labels(0.0)], "label")
    assert row.value[0] == row.controls["without"][0] == 0.5
    assert not row.skill
    assert row.over["without"] == (0, 0, 0)


def test_the_shuffled_control_is_the_exact_expectation() -> None:
    """Against a thousand real shuffles within each task."""
    import numpy as np

    said = labels(0.6)
    row = judge_labels(CASES, [said], "label")
    rng = np.random.default_rng(0)
    picked = np.array([int(np.argmax(s)) for s in said.said])
    truth = np.array([OPTIONS.index(c.label or "") for c in CASES])
    means = []
    for _ in range(1000):
        parts = []
        for some in (np.arange(30), np.arange(30, 40)):
            turn = rng.permutation(some)
            while (turn == some).any() and len(some) > 40:
                turn = rng.permutation(some)
            own = turn != some
            parts.append((picked[turn] == truth[some])[own].mean())
        means.append(np.mean(parts))
    assert row.controls["shuffled"][0] == pytest.approx(np.mean(means), abs=0.01)


def test_modality_is_matched_as_words_and_macro() -> None:
    said = Modalities(["CT chest."] * 30 + ["ct chest"] * 10, "ct chest", "")
    row = judge_modality(CASES, [said], "modality")
    assert row.value[0] == 0.5  # one modality of two, however many cases each has
    assert row.controls["without"][0] == 0.5 and row.controls["blank"][0] == 0
    assert not row.skill
    good = Modalities(["ct chest"] * 30 + ["cxr"] * 10, "ct chest", "")
    assert judge_modality(CASES, [good], "modality").skill


def test_visual_questions_count_evenly() -> None:
    asked = [
        Case(id=f"q{i}", image=Path("x.png"), group=f"g{i}", attributes={"answer": a})
        for i, a in enumerate(["yes", "no", "left lung", "pleural effusion"])
    ]
    said = Visual(
        ["Yes", "no", "the lung", "effusion"], ["no"] * 4, ["yes"] * 4, ["yes", "no", "x", "x"]
    )
    exact = judge_visual(asked, [said], "VQA")
    soft = judge_visual(asked, [said], "VQA", f1=True)
    assert exact.value[0] == 0.5 and exact.controls["without"][0] == 0.5
    assert soft.value[0] > exact.value[0]
    assert not exact.skill


def test_temperature_softens_what_is_too_sure() -> None:
    cases = [case(i) for i in range(40)]
    sure = [[0.0, -8.0] if i % 4 else [-8.0, 0.0] for i in range(40)]
    assert temperature(cases, sure) > 2
    right = [[0.0, -1.0] if c.label == "benign" else [-1.0, 0.0] for c in cases]
    assert temperature(cases, right) == pytest.approx(0.25, abs=0.01)


def test_answers_are_kept_with_what_gave_them(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    made: list[int] = []

    def make() -> dict[str, list[int]]:
        made.append(1)
        return {"said": made[:]}

    assert kept(path, "one", make) == kept(path, "one", make) == {"said": [1]}
    assert kept(path, "two", make) == {"said": [1, 1]}
    path.write_text("{", encoding="utf-8")
    assert kept(path, "two", make) == {"said": [1, 1, 1]}


def test_the_table_claims_no_skill_that_a_control_has_too(tmp_path: Path) -> None:
    rows = [
        judge_labels(CASES, [labels(1.0)], "label", beside={"G16": [True] * 40}),
        judge_labels(CASES, [labels(0.0)], "always benign"),
    ]
    head, first, second = lines(rows)
    assert head.startswith("question") and "G16 100.0" in first
    assert first.endswith("yes") and second.endswith("not shown")
    write_report(rows, {"language model": "tiny"}, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [r["skill"] for r in found["rows"]] == [True, False]
    assert "| label | 40 |" in (tmp_path / "results.md").read_text("utf-8")
