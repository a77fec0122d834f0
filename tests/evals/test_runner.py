"""From a manifest to a summary with fake agents over a real index: reuse, resumption, odd forms."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest

from curbside.agents.contract import AgentCard, FakeAgent
from curbside.agents.cost import BuildCost
from curbside.agents.fleet import Fleet
from curbside.cases import read_cases
from curbside.config import Config
from curbside.errors import ImageError, UserError
from curbside.evals.assessment_file import load_assessments
from curbside.evals.cards import read_cards
from curbside.evals.matrix import read_matrix
from curbside.evals.runner import Built, TunedFleet, evaluated, run_evaluation, tune_cases
from curbside.indexes.assess import Assessor
from curbside.indexes.competence import Competence
from curbside.indexes.features import Features
from curbside.indexes.outcomes import Outcomes

MODALITIES = {"cxr": "common", "fundus": "common", "us_lung": "rare"}
TASKS = {"chest": ("sick", "well"), "eye": ("a", "b", "c"), "lung": ("wet", "dry")}
TASK_OF = {"cxr": "chest", "fundus": "eye", "us_lung": "lung"}
NAMES = ("specialist-cxr", "specialist-fundus", "generalist-16", "generalist-full")


class Reader(FakeAgent):
    """Right about a share of the cases, by the case's id; counts its batches."""

    def __init__(self, name, share, truths, tasks=TASKS):
        card = AgentCard(name=name, kind="fake", role="generalist", fingerprint=name)
        super().__init__(card, lambda q: None)
        self.share, self.truths, self.tasks, self.batches = share, truths, tasks, 0

    def read_batch(self, studies):
        self.batches += 1
        return super().read_batch(studies)

    def read(self, study):
        q = study.question
        if q.options not in self.tasks.values():
            return super().read(study)
        lucky = (int(study.id[1:]) * 7919 + len(self.card.name)) % 100 < 100 * self.share
        truth = self.truths.get(study.id)
        at = q.options.index(truth) if lucky and truth in q.options else 0
        p = [0.2 / (len(q.options) - 1)] * len(q.options)
        p[at] = 0.8
        agent = FakeAgent(self.card, lambda _: p)
        return agent.read(study)


@pytest.fixture
def place(tmp_path):
    """Writes a manifest, reads it, and makes features that cluster by modality."""

    def make(rows, *, name="m", failed=()):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
        cases = read_cases(path)
        centres = ["cxr", "fundus", "us_lung", "oct"]
        rng = np.random.default_rng(3)
        pooled = np.zeros((len(cases), 12), np.float32)
        for i, row in enumerate(rows):
            c = centres.index(row.get("looks", row.get("modality", "cxr")))
            pooled[i] = rng.normal(0, 0.3, 12)
            pooled[i, c] += 4
            pooled[i, 4 + c] += 2
        failures = {i: ImageError("missing", "not there") for i in failed}
        for i in failed:
            pooled[i] = 0
        digests = tuple("" if i in failed else f"d{name}{i}" for i in range(len(cases)))
        return cases, Features(pooled, digests, MappingProxyType(failures), "encoder")

    return make


def row(i, modality, role, *, tier=True):
    task = TASK_OF[modality]
    options = TASKS[task]
    out = {
        "id": f"c{i:04d}",
        "image": f"{i}.png",
        "modality": modality,
        "role": role,
        "task": task,
        "options": list(options),
        "label": options[i % len(options)],
        "group": f"g{i // 2}-{role}",
    }
    return out | ({"tier": MODALITIES[modality]} if tier else {})


@pytest.fixture
def built(place):
    rows, i = [], 0
    for role, n in (("train", 40), ("tune", 16), ("calibration", 50)):
        for m in MODALITIES:
            for _ in range(n):
                rows.append(row(i, m, role))
                i += 1
    cases, features = place(rows, name="built")
    assessor = Assessor.fit(cases, features, Config())
    tune = tune_cases(cases)
    at = {c: j for j, c in enumerate(cases.ids.tolist())}
    return Built(assessor, cases, tune, features.take([at[c] for c in tune.ids.tolist()]))


def fleet_of(built, tmp_path, test_rows):
    truths = {r["id"]: r["label"] for r in test_rows if r.get("label")}
    truths |= dict(zip(built.tune.ids.tolist(), built.tune.labels.tolist(), strict=True))
    agents = {n: Reader(n, s, truths) for n, s in zip(NAMES, (0.9, 0.8, 0.5, 0.7), strict=True)}
    fleet = Fleet(
        agents=agents,
        specialists={"cxr": "specialist-cxr", "fundus": "specialist-fundus"},
        generalist="generalist-full",
        tasks=TASKS,
        tasks_of={m: (t,) for m, t in TASK_OF.items()},
        build_cost={n: BuildCost(10, 5, 1.0, 50.0) for n in NAMES},
        fingerprint="fleet",
    )
    tune = read_matrix(
        agents,
        built.tune.studies(),
        [c.label for c in built.tune],
        images=built.tune_features.digests,
        folder=tmp_path / "tune",
    )
    for a in agents.values():
        a.batches = 0
    return TunedFleet(0, fleet, tune)


def rows_of_test():
    rows = [row(1000 + i, m, "test") for i, m in enumerate([*MODALITIES] * 20)]
    novel = {"modality": "oct", "tier": "novel", "role": "test"}
    rows += [{"id": f"c{2000 + i}", "image": f"n{i}.png", **novel} for i in range(12)]
    routing_only = {"modality": "us_lung", "tier": "rare", "role": "test"}
    return [*rows, {"id": "c3000", "image": "r.png", **routing_only}]


def go(built, tuned, cases, features, out, **kwargs):
    kwargs.setdefault("replicates", 100)
    return run_evaluation(built, [tuned], cases, features, Config(), out, **kwargs)


def test_whole_way_and_reuse(built, place, tmp_path):
    rows = rows_of_test()
    cases, features = place(rows)
    tuned = fleet_of(built, tmp_path, rows)
    out = tmp_path / "out"
    summary, result = go(built, tuned, evaluated(cases), features, out)
    assert (summary.n_cases, summary.cases.n_scored, summary.cases.n_novel) == (73, 60, 12)
    assert summary.cases.n_routing_only == 1
    assert summary.modality.accuracy_common == 1
    assert summary.arms["S"].accuracy.per_modality["cxr"].value > 0.6
    assert "one few-shot draw" in summary.notes[0]
    assert result is not None and result.fallbacks[0] in NAMES[:2]
    assert (out / "responses.parquet").is_file()
    cards = read_cards(out)
    assert set(cards) == set(tuned.fleet.agents)
    assert "On the labelled cases that this evaluation asked" in cards["specialist-cxr"]
    assert "| all | 60 | 60 |" in cards["generalist-full"]
    assert read_cards(tmp_path) == {}
    known = load_assessments(out)
    assert len(known.assessments) == 72
    assert known.serving == ("specialist-cxr", "specialist-fundus", "generalist-full")

    again, nothing = go(built, tuned, evaluated(cases), features, out)
    assert nothing is None
    assert again == summary
    # another bootstrap is another evaluation, but nobody reads a case twice
    _, fresh = go(built, tuned, evaluated(cases), features, out, seed=1)
    assert fresh is not None
    assert {a.batches for a in tuned.fleet.agents.values()} == {1}


def test_a_broken_summary_is_made_again(built, place, tmp_path):
    rows = rows_of_test()
    cases, features = place(rows)
    tuned = fleet_of(built, tmp_path, rows)
    out = tmp_path / "out"
    summary, _ = go(built, tuned, cases, features, out)
    (out / "summary.json").write_text('{"schema_version": 1, "half"')
    again, result = go(built, tuned, cases, features, out)
    assert result is not None
    assert again.arms == summary.arms


def test_missing_images_are_failed_cases_and_no_crash(built, place, tmp_path):
    rows = rows_of_test()
    cases, features = place(rows, failed=(0, 60))  # one with a task, one novel
    tuned = fleet_of(built, tmp_path, rows)
    summary, _ = go(built, tuned, cases, features, tmp_path / "out")
    assert summary.cases.n_failed == 2
    assert any("2 images could not be read" in n for n in summary.notes)
    assert summary.novelty.per_modality["oct"].n == 11


def test_cases_kept_aside_without_tier_role_or_known_task(built, place, tmp_path):
    rows = [row(5000 + i, m, "", tier=False) for i, m in enumerate([*MODALITIES] * 8)]
    for r in rows:
        del r["role"], r["group"]
    rows += [
        {
            "id": f"c{6000 + i}",
            "image": f"k{i}.png",
            "modality": "cxr",
            "task": "new_task",
            "options": ["p", "q"],
            "label": "q",
        }
        for i in range(4)
    ]
    rows += [{"id": f"c{7000 + i}", "image": f"o{i}.png", "modality": "oct"} for i in range(6)]
    rows += [{"id": "c8000", "image": "u.png"}]
    cases, features = place(rows, name="aside")
    tuned = fleet_of(built, tmp_path, rows)
    summary, result = go(built, tuned, evaluated(cases), features, tmp_path / "out")
    assert result is not None
    tiers = set(summary.arms["S"].accuracy.per_tier)
    assert {"common", "rare", "novel"} <= tiers
    assert summary.novelty.novel_answered is not None
    assert summary.arms["S"].coverage.value < 1  # nobody here knows the new task
    assert summary.verdict


def test_competence_on_tune_is_learned_without_the_case_itself(built, place, tmp_path):
    rows = rows_of_test()
    cases, features = place(rows)
    tuned = fleet_of(built, tmp_path, rows)
    _, result = go(built, tuned, cases, features, tmp_path / "out")
    assert result is not None
    assert set(result.tune_accuracy) >= {"S", "Gfull", "E", "H-tier", "H-competence", "H-cascade"}


def test_a_version_is_judged_with_the_competence_that_it_would_serve(built, place, tmp_path):
    rows = rows_of_test()
    cases, features = place(rows)
    tuned = fleet_of(built, tmp_path, rows)
    plain = Competence.fit(built.assessor, built.tune, built.tune_features, tuned.tune)
    same = replace(tuned, competence=plain)
    # reviewed cases have shown that specialists are always wrong
    learned = Outcomes.of(built.tune, built.tune_features, tuned.tune)
    wrong = replace(learned, correct=learned.correct & [n == "generalist-full" for n in NAMES])
    other = replace(tuned, competence=Competence.learn(built.assessor, learned.joined(wrong)))
    by = replace(built, version="grown")

    def competence(what, team, name):
        summary, result = go(what, team, cases, features, tmp_path / name)
        assert summary.versions["index version"] == what.version
        assert result is not None
        return load_assessments(tmp_path / name).assessments.competence

    a = competence(built, tuned, "a")
    np.testing.assert_array_equal(a, competence(built, same, "b"))
    worse = competence(by, other, "c")
    assert np.nanmean(worse[:, 0]) < np.nanmean(a[:, 0]) - 0.1
    # another version is another evaluation, also where index and calibration are the same
    assert go(built, tuned, cases, features, tmp_path / "a")[1] is None
    assert go(by, tuned, cases, features, tmp_path / "a")[1] is not None


def test_no_tune_case_is_the_users_to_mend(place):
    cases, _ = place([row(1, "cxr", "train"), row(2, "cxr", "test")])
    with pytest.raises(UserError, match="no tune case"):
        tune_cases(cases)
