"""Suites as files: strict, all that ship are valid, tables are whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from curbside.errors import ConfigError, UserError
from curbside.evals.suite import (
    SUITES,
    EvaluationRun,
    LeaveOneOutRun,
    Suite,
    SuiteResult,
    VqaRun,
    load_suite,
    suite_names,
    suite_schema,
    table_lines,
    write_result,
)
from curbside.evals.suite_cases import suite_cases
from curbside.evals.suite_vqa import phantom_questions, questions, score_agent
from curbside.evals.vqa import normalised
from curbside.readings import Abstention, Reading

DOCS = Path(__file__).resolve().parents[2] / "docs"
SHIPPED = (
    "corpus",
    "few-shot",
    "leave-one-label-out",
    "leave-one-modality-out",
    "leave-one-source-out",
    "perturbations",
    "phantoms",
    "tag-noise",
    "vqa",
)


def test_the_suites_that_ship() -> None:
    assert suite_names() == SHIPPED
    page = (DOCS / "suites.md").read_text(encoding="utf-8")
    for name in SHIPPED:
        suite, path = load_suite(name)
        assert (suite.name, path.parent) == (name, SUITES)
        assert f"`{name}`" in page


def test_a_file_of_ones_own_and_a_bad_one(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nabout: x\nrun: {kind: leave-one-out, of: modality}\n")
    suite, _ = load_suite(str(path))
    assert isinstance(suite.run, LeaveOneOutRun)
    path.write_text("name: mine\nabout: x\nrun: {kind: leave-one-out, of: scanner}\n")
    with pytest.raises(ConfigError, match="scanner"):
        load_suite(str(path))
    with pytest.raises(UserError, match="neither a suite nor a file; suites: corpus, few-shot"):
        load_suite("perturbation")


def test_the_schema_in_the_docs_is_the_one_generated() -> None:
    assert (DOCS / "suite.schema.json").read_text(encoding="utf-8") == suite_schema()


def result(rows) -> SuiteResult:
    run = LeaveOneOutRun(kind="leave-one-out", of="modality")
    return SuiteResult(
        suite=Suite(name="s", about="a", run=run),
        cases="role tune",
        columns=["modality", "n", "AUROC"],
        rows=rows,
        notes=["note"],
        versions={"code": "1"},
        generated_at="2026-11-24",
    )


def test_a_table_on_disk_and_for_people(tmp_path) -> None:
    r = result([["cxr", 3, 0.987], ["oct", 2, None]])
    text = "\n".join(table_lines(r))
    assert "98.7" in text
    assert "–" in text
    write_result(r, tmp_path)
    back = json.loads((tmp_path / "suite.json").read_text())
    assert back["rows"][1] == ["oct", 2, None]
    assert SuiteResult.model_validate(back) == r
    assert "| cxr | 3 | 98.7 |" in (tmp_path / "suite.md").read_text()


def test_the_corpus_suite_without_a_corpus_names_another(tmp_path) -> None:
    from curbside.config import Config
    from curbside.router.workspace import Workspace

    workspace = Workspace(tmp_path, Config())
    run = EvaluationRun(kind="evaluation", cases="corpus")
    with pytest.raises(UserError, match="eval run phantoms"):
        suite_cases(run, tmp_path / "x.yaml", workspace)
    own = EvaluationRun(kind="evaluation", cases="mine.csv")
    assert suite_cases(own, tmp_path / "x.yaml", workspace)[1:] == (tmp_path / "mine.csv", False)


@pytest.fixture(scope="module")
def asked_of_phantoms(tmp_path_factory):
    return phantom_questions(tmp_path_factory.mktemp("vqa"))


def said(answer: str) -> Reading:
    p = (1.0, 0.0) if answer == "yes" else (0.0, 1.0)
    return Reading(
        agent="a", fingerprint="f", options=("yes", "no"), probabilities=p, confidence=1.0
    )


def test_an_abstention_is_neither_right_nor_wrong_but_counted(asked_of_phantoms) -> None:
    asked = [a for a in asked_of_phantoms if a[0].question.options][:4]
    truth = [t for _, t, _ in asked]
    silent = [Abstention(agent="a", reason="x")] * 4
    assert score_agent(asked, silent) == [4, 0.0, *[None] * 7]
    half = [said(truth[0]), *silent[:3]]
    row = score_agent(asked, half)
    assert row[:3] == [4, 0.25, 1.0]
    assert row[-1] == 0.25


class Speaker:
    """Says yes to what is closed and one word to what is open."""

    def __init__(self, word: str, *, chooses: bool = False) -> None:
        self.word, self.chooses = word, chooses

    def read_batch(self, studies):
        return [self.read(s) for s in studies]

    def read(self, study):
        if study.question.options:
            return said("yes")
        if self.chooses:
            return Abstention(agent="a", reason="open")
        return Reading(agent="a", fingerprint="f", text=self.word, confidence=0.5)


def test_open_answers_are_scored_in_words_and_silence_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CURBSIDE_CORPUS", raising=False)
    asked = phantom_questions(tmp_path)
    truths = [t for s, t, _ in asked if not s.question.options]
    word = max(sorted(set(truths)), key=truths.count)
    fleet = SimpleNamespace(
        agents={"speaks": Speaker(f"the {word} sign"), "chooses": Speaker("", chooses=True)}
    )
    about, columns, rows, notes = questions(
        SimpleNamespace(fleet=lambda: fleet), VqaRun(kind="vqa"), tmp_path
    )
    by = {(r[0], r[1]): dict(zip(columns, r, strict=True)) for r in rows}
    assert set(by) == {("speaks", "closed"), ("speaks", "open"), ("chooses", "closed"),
                       ("always yes", "closed")}  # fmt: skip
    free = by["speaks", "open"]
    assert (free["n"], free["answered"], free["exact"]) == (len(truths), 1.0, 0.0)
    # of two words one is right where the word is: precision 1/2, recall 1
    share = truths.count(word) / len(truths)
    parts = len(normalised(word).split())
    assert free["token_f1"] == pytest.approx(share * 2 * parts / (2 * parts + 1), abs=0.05)
    assert free["bleu_1"] == pytest.approx(share * parts / (parts + 1), abs=0.05)
    assert f"{len(truths)} open" in about and "none is reported: chooses" in notes[-1]


def test_phantom_questions_are_balanced_and_some_are_open(asked_of_phantoms) -> None:
    asked = asked_of_phantoms
    closed = [t for s, t, _ in asked if s.question.options]
    assert 0.4 < np.mean([t == "yes" for t in closed]) < 0.6
    assert len(closed) == len(asked) / 2
    assert len({s.id for s, _, _ in asked}) == len(asked)
