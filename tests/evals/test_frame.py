"""What is evaluated and what each case is asked, from manifests of several forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curbside.cases import read_cases
from curbside.errors import CasesError
from curbside.evals.frame import (
    TaskBook,
    evaluated_rows,
    frame_of,
    label_counts,
    questions_for,
    truths_of,
)

HEADER = "image,modality,tier,role,group,task,label,options"
BOOK = TaskBook(
    tasks={"chest": ("sick", "well"), "eye": ("a", "b", "c")},
    commonest={"cxr": "chest", "fundus": "eye"},
    specialists={"cxr": "specialist-cxr", "fundus": "specialist-fundus"},
)


def manifest(tmp_path, *lines, header=HEADER):
    path = tmp_path / "m.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read_cases(path)


def facts(plant, predicted, posterior=None):
    """Assessments of as many cases as predicted modalities, over four known ones."""
    names = ("cxr", "fundus", "nuclear", "us_lung")
    a = plant(lambda *_: 0.5, per=12).assessments.take(np.arange(len(predicted)))
    post = np.full((len(predicted), 4), 0.1, np.float32)
    for i, p in enumerate(predicted):
        post[i, names.index(p)] = 0.7
    return replace(a, modalities=names, posterior=post if posterior is None else posterior)


def test_test_rows_else_rows_without_a_role(tmp_path):
    cases = manifest(tmp_path, "a.png,cxr,common,train,,,,", "b.png,cxr,common,test,,,,")
    assert evaluated_rows(cases).tolist() == [1]
    bare = manifest(tmp_path, "a.png", "b.png", header="image")
    assert evaluated_rows(bare).tolist() == [0, 1]
    only = manifest(tmp_path, "a.png,cxr,common,train,,,,")
    with pytest.raises(CasesError, match="no case to evaluate"):
        evaluated_rows(only)


def test_tier_is_read_or_derived(tmp_path, plant):
    cases = manifest(
        tmp_path,
        "a.png,cxr,,,,,,",
        "b.png,us_lung,,,,,,",
        "c.png,oct,,,,,,",
        "d.png,cxr,rare,,,,,",
        "e.png,,,,,,,",
    )
    a = facts(plant, ["cxr"] * 5)
    frame = frame_of(cases, a, np.ones(5, bool), BOOK.specialists, {})
    assert frame.tier.tolist() == ["common", "rare", "novel", "rare", ""]
    assert frame.asked.tolist() == [False, False, True, False, False]
    assert len(set(frame.group.tolist())) == 5  # without a column, each case for itself


def test_novel_cases_are_asked_the_commonest_task_of_what_they_look_like(tmp_path, plant):
    cases = manifest(
        tmp_path,
        "a.png,oct,novel,test,g1,beat,x,x|y",
        "b.png,oct,novel,test,g1,,,",
        "c.png,cxr,common,test,g2,chest,well,sick|well",
        "d.png,cxr,common,test,g3,,,",
        "e.png,ecg,novel,test,g4,,,",
    )
    posterior = np.array(
        [
            [0.1, 0.7, 0.1, 0.1],
            [0.7, 0.1, 0.1, 0.1],
            [0.7, 0.1, 0.1, 0.1],
            [0.7, 0.1, 0.1, 0.1],
            [0.1, 0.2, 0.6, 0.1],
        ],
        np.float32,
    )  # the last looks like nuclear, which has no task
    a = facts(plant, ["cxr"] * 5, posterior)
    frame = frame_of(cases, a, np.ones(5, bool), BOOK.specialists, {})
    studies = questions_for(cases, frame, a, BOOK)
    assert [s.question.task for s in studies] == ["eye", "chest", "chest", "eye"]
    assert studies[0].question.options == ("a", "b", "c")
    assert truths_of(frame) == [None, None, "well", None]
    assert frame.scored.tolist() == [False, False, True, False, False]
    assert frame.group[0] == frame.group[1]
    with pytest.raises(CasesError, match="knows no task"):
        questions_for(cases, frame, a, TaskBook({}, {}, {}))


def test_rare_findings_and_confounded_tasks(tmp_path, plant):
    lines = [f"t{i}.png,cxr,common,train,,chest,well,sick|well" for i in range(17)]
    lines += [f"u{i}.png,cxr,common,train,,chest,sick,sick|well" for i in range(16)]
    trained = label_counts(manifest(tmp_path, *lines))
    assert trained == {("chest", "well"): 17, ("chest", "sick"): 16}
    cases = manifest(
        tmp_path,
        "a.png,cxr,common,test,,chest,well,sick|well",
        "b.png,cxr,common,test,,chest,sick,sick|well",
        "c.png,us_lung,rare,test,,us_lung_pocus,sick,sick|well",
        "d.png,ct,common,test,,ct_chest_cancer,normal,normal|big",
        "e.png,ct,common,test,,ct_chest_cancer,big,normal|big",
    )
    a = facts(plant, ["cxr"] * 5)
    frame = frame_of(cases, a, np.ones(5, bool), BOOK.specialists, trained)
    assert frame.rare_finding.tolist() == [False, True, False, True, True]
    assert frame.confounded.tolist() == [False, False, True, True, False]


def test_options_without_a_task_make_one(tmp_path, plant):
    cases = manifest(tmp_path, "a.png,cxr,common,test,,,b,b|c")
    frame = frame_of(cases, facts(plant, ["cxr"]), np.ones(1, bool), BOOK.specialists, {})
    assert frame.task.tolist() == ["b|c"]
    assert frame.scored.all()
