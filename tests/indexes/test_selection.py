"""Selection: what is left out, what it costs to look, and what is chosen by which rule."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from curbside.config import Config, ProjectionConfig
from curbside.errors import UserError
from curbside.indexes import selection
from curbside.indexes.features import Features
from curbside.indexes.selection import (
    PROJECTIONS,
    Fold,
    auroc,
    folds_of,
    leave_out,
)
from curbside.indexes.selection_report import configuration, write_selection
from curbside.indexes.standings import Standing, choose, standings
from curbside.indexes.views import Views

DOCS = Path(__file__).resolve().parents[2] / "docs"
FEW = {"lda": ProjectionConfig(dimensions=8, invariance=0.0), "none": PROJECTIONS["none"]}


@pytest.fixture
def known(world: Any) -> Any:
    """Train and tune cases, and where they come from: alpha has two sources, the others one."""
    rows = np.concatenate([world.rows("train"), world.rows("tune")])
    cases = world.cases.take(rows)
    second = (cases.modalities == "alpha") & (np.arange(len(rows)) % 3 == 0)
    sources = np.where(second, "clinic", np.char.add("hospital-", cases.modalities))
    return SimpleNamespace(cases=cases, features=world.features.take(rows), sources=sources)


def copies_of(known: Any, size: float = 0.5) -> Views:
    rng = np.random.default_rng(0)
    pooled = known.features.pooled + rng.normal(size=known.features.pooled.shape) * size
    n = len(pooled)
    return Views(np.arange(n), pooled.astype(np.float32))


def test_what_is_left_out(known: Any) -> None:
    folds = folds_of(known.cases, known.sources)
    by = {k: [f for f in folds if f.kind == k] for k in ("modality", "source", "label", "copies")}
    assert [f.modality for f in by["modality"]] == ["alpha", "beta", "gamma", "scarce"]
    # a modality with one source cannot lose it and still be known
    assert {(f.modality, f.name) for f in by["source"]} == {
        ("alpha", "clinic"),
        ("alpha", "hospital-alpha"),
    }
    assert {f.modality for f in by["label"]} == {"alpha", "beta", "gamma"}
    assert by["copies"] == [Fold("copies")]


@pytest.mark.parametrize("role", ["calibration", "test"])
def test_cases_that_judge_may_not_choose(world: Any, role: str) -> None:
    rows = np.concatenate([world.rows("train"), world.rows(role)[:1]])
    with pytest.raises(UserError, match=f"role '{role}'"):
        folds_of(world.cases.take(rows), np.full(len(rows), ""))


def test_too_few_modalities(known: Any) -> None:
    rows = np.flatnonzero(np.isin(known.cases.modalities, ["alpha", "beta"]))
    with pytest.raises(UserError, match="three or more, not 2"):
        folds_of(known.cases.take(rows), known.sources[rows])


def test_every_candidate_on_every_fold(known: Any, tmp_path: Path) -> None:
    done: list[int] = []
    results = leave_out(
        known.cases,
        known.features,
        known.sources,
        copies_of(known),
        projections=FEW,
        scores=("mahalanobis", "knn"),
        advance=done.append,
    )
    folds = folds_of(known.cases, known.sources)
    assert sum(done) == len(folds)
    # two projections, two scores and their pair
    assert len(results) == len(folds) * 2 * 3
    far = [r for r in results if r.fold.kind == "modality" and r.projection == "lda"]
    assert np.mean([r.auroc for r in far]) > 0.9
    assert all(r.modality_accuracy == 0 for r in far)
    shift = [r for r in results if r.fold.kind == "source" and r.projection == "lda"]
    # the clinic's cases are like the others: no more of them flagged than tune cases, by far
    assert np.mean([r.flagged for r in shift]) < 0.2
    assert np.mean([r.modality_accuracy for r in shift]) > 0.9
    assert all(r.unchanged > 0.8 for r in results if r.fold.kind == "copies")
    found = standings(results)
    assert [s.far for s in found] == sorted((s.far for s in found), reverse=True)
    choice = choose(found, FEW)
    assert choice.projection == FEW[choice.standing.projection]
    assert " + " not in choice.score
    write_selection(tmp_path, results, found, choice, {"cases": "planted"})
    body = json.loads((tmp_path / "selection.json").read_text())
    assert body["configuration"]["index"]["novelty"] == choice.score
    assert len(body["folds"]) == len(folds)
    text = (tmp_path / "selection.md").read_text()
    assert f"Chosen: **{choice.standing.projection}** with **{choice.score}**" in text
    assert text.count("| modality | ") == 5  # four folds and the head of the table
    assert "<html>" in (tmp_path / "selection.html").read_text()[:200]


def test_nothing_of_the_left_out_is_seen(known: Any) -> None:
    """Held-out cases that change places, train for tune, are the same set: had any been
    trained on, projection and scores would be others."""
    held = np.flatnonzero(known.cases.modalities == "alpha")
    pooled = known.features.pooled.copy()
    pooled[held] = pooled[np.random.default_rng(0).permutation(held)]
    f = known.features
    mixed = Features(pooled, f.digests, f.failures, f.fingerprint)
    one, two = (
        [
            r
            for r in leave_out(
                known.cases, x, known.sources, None, projections=FEW, scores=("mahalanobis",)
            )
            if r.fold == Fold("modality", "alpha")
        ]
        for x in (f, mixed)
    )
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert (a.auroc, a.fpr95, a.flagged) == pytest.approx((b.auroc, b.fpr95, b.flagged))


def test_without_copies_that_fold_is_empty(known: Any) -> None:
    results = leave_out(
        known.cases, known.features, known.sources, None, projections=FEW, scores=("knn",)
    )
    assert not [r for r in results if r.fold.kind == "copies"]
    assert np.isnan(standings(results)[0].unchanged)


def test_auroc_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 70).astype(float), rng.integers(3, 12, 40).astype(float)
    reference = roc_auc_score(np.repeat([0, 1], [70, 40]), np.concatenate([a, b]))
    assert auroc(a, b) == pytest.approx(reference)


def standing(
    score: str, far: float, unchanged: float, served: bool = True, worst: float = 0.5
) -> Standing:
    others = "far_fpr95 far_flagged near near_worst shift_flagged shift_worst"
    rest = dict.fromkeys([*others.split(), "shift_accuracy"], 0.5)
    return Standing(
        "lda-64", score, far=far, far_worst=worst, unchanged=unchanged, served=served, **rest
    )


def test_the_rule_far_novelty_first_then_stability() -> None:
    found = [
        standing("knn + msp", 0.999, 0.99, served=False),
        standing("knn", 0.9900, 0.95),
        standing("mahalanobis", 0.9885, 0.98),
        standing("energy", 0.9870, 0.99),
    ]
    choice = choose(found)
    assert choice.score == "mahalanobis"
    assert "98.0% unchanged" in choice.why
    assert "below 0.93, as of all of them" in choice.why
    # one that notices every modality goes before a stabler one that does not
    even = standing("residual", 0.9890, 0.90, worst=0.94)
    assert choose([*found, even]).score == "residual"
    with pytest.raises(UserError, match="no candidate"):
        choose(found[:1])


def test_a_fold_is_kept_as_it_ends(known: Any, tmp_path: Path) -> None:
    """A run that stops goes on; other scores, or another view of the cases, start afresh."""

    def run(scores: tuple[str, ...], stop: int | None = None, views: Views | None = None) -> Any:
        done: list[int] = []

        def advance(n: int) -> None:
            done.append(n)
            if len(done) == stop:
                raise KeyboardInterrupt

        return leave_out(
            known.cases,
            known.features,
            known.sources,
            views,
            projections=FEW,
            scores=scores,
            folder=tmp_path,
            advance=advance,
        )

    with pytest.raises(KeyboardInterrupt):
        run(("knn",), stop=2)
    kept = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(kept) == 2
    whole = run(("knn",))
    assert {n: (tmp_path / n).stat().st_mtime_ns for n in kept} == kept
    folds = len(list(tmp_path.iterdir()))
    assert folds == len(folds_of(known.cases, known.sources))
    again = run(("knn",))
    assert [(r.fold, r.auroc, r.n) for r in again] == [(r.fold, r.auroc, r.n) for r in whole]
    run(("mahalanobis",))
    assert len(list(tmp_path.iterdir())) == 2 * folds
    run(("knn",), views=copies_of(known))
    assert len(list(tmp_path.iterdir())) == 3 * folds


def test_wide_vectors_are_narrowed_to_principal_axes(
    known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted world has few axes that matter: eight of them rank strangers as all do."""

    def far() -> list[float]:
        results = leave_out(
            known.cases,
            known.features,
            known.sources,
            None,
            projections={"none": PROJECTIONS["none"]},
            scores=("knn",),
        )
        return [r.auroc for r in results if r.fold.kind == "modality"]

    wide = far()
    monkeypatch.setattr(selection, "_WIDEST", 24)
    assert far() == pytest.approx(wide, abs=0.05)
    monkeypatch.setattr(selection, "_WIDEST", 1)
    assert np.mean(far()) < np.mean(wide) - 0.1


def test_the_shipped_default_is_the_winner_of_the_evidence() -> None:
    """docs/selection.json is what the command wrote on the corpus; the rule is applied again."""
    evidence = json.loads((DOCS / "selection.json").read_text(encoding="utf-8"))
    found = []
    for row in evidence["standings"]:
        known: dict[str, Any] = {k: float("nan") if v is None else v for k, v in row.items()}
        found.append(Standing(**known))
    choice = choose(found)
    assert choice.projection == Config().encoder.projection
    assert choice.score == Config().index.novelty
    assert evidence["configuration"] == configuration(choice)
    assert len(evidence["folds"]) == int(evidence["provenance"]["folds"])
