"""Running a suite that ends in a table: leave one out, few shots, changes, wrong tags, questions.

All of it on role ``tune`` (whoever chooses by these numbers must not have seen ``test``), but
for the questions, which come with a test split of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside import __version__
from curbside.errors import UserError
from curbside.evals.suite import (
    Cell,
    FewShotRun,
    LeaveOneOutRun,
    PerturbationsRun,
    Suite,
    SuiteResult,
    TagNoiseRun,
    VqaRun,
)

if TYPE_CHECKING:
    from curbside.assessments import Assessments
    from curbside.cases import Cases
    from curbside.evals.arms import Arm
    from curbside.router.workspace import Workspace

__all__ = ["run_table_suite"]

Flags = NDArray[np.bool_]
Table = tuple[str, list[str], list[list[Cell]], list[str]]


def run_table_suite(suite: Suite, workspace: Workspace, out: Path) -> SuiteResult:
    """Run a suite whose result is a table.

    Args:
        out: where pictures and manifests that a suite makes are kept.

    Raises:
        NotBuilt: nothing was built.
        UserError: what was built has no case for this suite; says which.
    """
    run = suite.run
    if isinstance(run, LeaveOneOutRun):
        cases, columns, rows, notes = leave_one_out(workspace, run)
    elif isinstance(run, FewShotRun):
        cases, columns, rows, notes = few_shot(workspace, run)
    elif isinstance(run, PerturbationsRun):
        cases, columns, rows, notes = perturbations(workspace, run)
    elif isinstance(run, TagNoiseRun):
        cases, columns, rows, notes = tag_noise(workspace, run)
    elif isinstance(run, VqaRun):
        from curbside.evals.suite_vqa import questions

        cases, columns, rows, notes = questions(workspace, run, out)
    else:
        raise UserError(f"suite {suite.name} is a whole evaluation, no table")
    assessor = workspace.assessor()
    return SuiteResult(
        suite=suite,
        cases=cases,
        columns=columns,
        rows=rows,
        notes=notes,
        versions={
            "code": __version__,
            "config": workspace.config.digest,
            "embeddings": assessor.fingerprint,
            "index": assessor.index_digest,
            "calibration": assessor.calibration_digest,
            "cases": workspace.built_cases().digest,
        },
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def leave_one_out(workspace: Workspace, run: LeaveOneOutRun) -> Table:
    """Fit the index without one value at a time; what was left out should look novel.

    Held-out cases are those of role train and tune with the value; known ones are the other
    tune cases, for a label those of its modality (beside easier modalities it would look strange
    or familiar whatever the finding).  For a source, modalities stay known: there the share
    referred is harm.
    """
    from curbside.indexes.assess import Assessor
    from curbside.indexes.assess_fit import without_note

    cases = workspace.built_cases()
    features = workspace.features(cases)
    values = _values(cases, run.of)
    pool = np.isin(cases.roles, ("train", "tune")) & features.usable
    counts = Counter(v for v in values[pool].tolist() if v)
    chosen = [v for v, n in counts.most_common() if n >= run.minimum]
    if run.of == "source":
        # without its only source a modality would be novel: that is another suite's question
        chosen = [v for v in chosen if _modalities_stay(cases, values == v, run.minimum)]
    chosen = chosen[: run.most]
    if len(chosen) < 2:
        raise UserError(
            f"fewer than two values of {run.of} have {run.minimum} cases of role train and tune",
            hint="build from more cases, or lower run.minimum in a suite of your own",
        )
    alpha = workspace.config.policy.alpha or 0.05
    views = workspace.views(cases, features)
    rows: list[list[Cell]] = []
    for value in chosen:
        rest = values != value
        kept = np.flatnonzero(rest)
        with without_note():
            assessor = Assessor.fit(
                cases.take(kept),
                features.take(kept),
                workspace.config,
                None if views is None else views.among(kept),
            )
        out = np.flatnonzero(pool & ~rest)
        beside = (cases.roles == "tune") & features.usable & rest
        if run.of == "label":
            beside &= np.isin(cases.modalities, cases.modalities[out])
        known = np.flatnonzero(beside)
        a, b = assessor.assess(features.pooled[out]), assessor.assess(features.pooled[known])
        rows.append(
            [
                value.replace("\0", ": "),
                len(out),
                len(known),
                _auroc(a, b),
                float((a.p_value <= alpha).mean()),
                float((b.p_value <= alpha).mean()) if len(known) else None,
                _recognised(a, cases.modalities[out]) if run.of != "modality" else None,
            ]
        )
    numbers = [[float(v) if isinstance(v, float) else np.nan for v in r[3:]] for r in rows]
    mean: list[Cell] = [None if np.isnan(v) else float(v) for v in _means(numbers)]
    rows.append(["mean, in all", sum(_int(r[1]) for r in rows), None, *mean])
    columns = [run.of, "held out", "known", "AUROC", "referred", "known referred", "recognised"]
    notes = [
        f"referred: p-value at or below α = {alpha:g}; recognised: modality of held-out cases",
        "a held-out source is not novel: what is referred there is the price of another scanner"
        if run.of == "source"
        else f"a held-out {run.of} was never seen: what is not referred would be answered",
        "known: the other tune cases" + (" of the label's modality" if run.of == "label" else ""),
    ]
    return f"role train and tune, {len(chosen)} of {len(counts)} values", columns, rows, notes


def few_shot(workspace: Workspace, run: FewShotRun) -> Table:
    """Accuracy of linear heads by number of labelled cases a label."""
    from curbside.agents.heads import Head

    cases = workspace.built_cases()
    features = workspace.features(cases)
    asked = (cases.tasks != "") & (cases.labels != "") & features.usable
    train, tune = asked & (cases.roles == "train"), asked & (cases.roles == "tune")
    tasks = sorted(set(cases.tasks[train].tolist()) & set(cases.tasks[tune].tolist()))
    if not tasks:
        raise UserError("no task has labelled cases of role train and of role tune")
    rows: list[list[Cell]] = []
    for shots in run.shots:
        seeds = 1 if shots == "all" else run.seeds
        by_seed: list[float] = []
        labels = 0
        for seed in range(seeds):
            by_modality: dict[str, list[float]] = {}
            labels = 0
            for task in tasks:
                at = _few(np.flatnonzero(train & (cases.tasks == task)), cases, shots, seed)
                rest = np.flatnonzero(tune & (cases.tasks == task))
                head = Head.fit(features.pooled[at], cases.labels[at])
                labels += len(at)
                options = cases[int(rest[0])].options or head.labels
                top = head.probabilities(features.pooled[rest], options).argmax(axis=1)
                right = np.array(options)[top] == cases.labels[rest]
                for m in set(cases.modalities[rest].tolist()):
                    by_modality.setdefault(m, []).extend(right[cases.modalities[rest] == m])
            by_seed.append(float(np.mean([np.mean(v) for v in by_modality.values()])))
        spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
        rows.append([str(shots), labels, seeds, float(np.mean(by_seed)), spread])
    notes = [
        "accuracy is macro over modalities; linear heads on frozen features stand for the cost "
        "curve, the agents' own curves take a training run a point (curbside benchmark)",
    ]
    columns = ["cases a label", "labels", "draws", "accuracy", "sd over draws"]
    return f"trained on role train, role tune reported, {len(tasks)} tasks", columns, rows, notes


def perturbations(workspace: Workspace, run: PerturbationsRun) -> Table:
    """Share of cases whose outcome and route stay under every change of the image."""
    from curbside.evals.control_run import changed, route
    from curbside.evals.controls import sample_rows
    from curbside.indexes.perturbations import LARGER, SMALL
    from curbside.router.api import Router

    cases = workspace.built_cases()
    tune = np.flatnonzero(cases.roles == "tune")
    if not len(tune):
        raise UserError("what was built has no case of role tune")
    rows: list[list[Cell]] = []
    with closing(Router(workspace)) as router:
        studies = [cases[int(i)].study() for i in sample_rows(tune, run.sample)]
        records = router.decide_batch(studies)
        ok = [i for i, r in enumerate(records) if r.familiarity is not None]
        before = [route(records[i]) for i in ok]
        for size, limit, changes in (("small", 0.97, SMALL), ("larger", 0.90, LARGER)):
            every = 0.0
            for name, change in changes.items():
                after = router.decide_batch([changed(studies[i], change) for i in ok])
                same = np.array([route(r) == b for r, b in zip(after, before, strict=True)])
                every += float(same.mean())
                rows.append([name, size, len(ok), float(same.mean()), limit, _held(same, limit)])
            mean = every / len(changes)
            rows.append([f"all {size}", size, len(ok) * len(changes), mean, limit, "–"])
    columns = ["change", "size", "cases", "same route", "at least", "held"]
    notes = [
        "held: yes or no by the number itself; with few cases the interval is wide "
        f"(one case of {len(ok)} is {100 / len(ok):.1f} points)",
    ]
    return f"role tune, {len(ok)} cases", columns, rows, notes


def tag_noise(workspace: Workspace, run: TagNoiseRun) -> Table:
    """The ``tags`` arm with wrong body parts, and wrong modality codes held against pixels."""
    from curbside.evals.arms import outcomes, single, team
    from curbside.evals.frame import frame_of, label_counts
    from curbside.evals.metrics import Scorer
    from curbside.evals.protocol import GFULL, Part, Trained, roster_of
    from curbside.evals.runner import tune_cases
    from curbside.evals.tags import TAG_TABLE, tags_arm

    built = workspace.built_cases()
    tune = tune_cases(built)
    features = workspace.features(tune)
    fleet, assessor = workspace.fleet(), workspace.assessor()
    facts = assessor.assess(features.pooled)
    said = workspace.tune_responses()
    place = {c: i for i, c in enumerate(said.cases)}
    rows_at = np.array([i for i, c in enumerate(tune.ids.tolist()) if c in place], np.intp)
    tune, facts, features = tune.take(rows_at), facts.take(rows_at), features.take(rows_at)
    matrix = said.take(np.array([place[c] for c in tune.ids.tolist()], np.intp))
    frame = frame_of(tune, facts, features.usable, fleet.specialists, label_counts(built))
    part = Part(frame, facts, matrix)
    roster = roster_of(Trained(0, fleet.specialists, fleet.generalist, part, part))
    scorer = Scorer(frame, np.ones((1, frame.n_groups), np.float32))

    def accuracy(arm: Arm) -> float:
        return float(scorer.metric("accuracy", scorer.sums(outcomes(matrix, arm)))[0])

    pixels = accuracy(team(matrix, facts, roster))
    alone = accuracy(single(matrix, GFULL, "Gfull"))
    codes = np.array([TAG_TABLE.get(m, ("OT", ""))[0] for m in tune.modalities.tolist()])
    every = sorted({c for c, _ in TAG_TABLE.values()})
    rng = np.random.default_rng(0)
    other = np.array([rng.choice([c for c in every if c != code]) for code in codes.tolist()])
    draw = rng.random(len(tune))
    rows: list[list[Cell]] = []
    for rate in run.rates:
        wrong = draw < rate
        tags = np.where(wrong, other, codes).tolist()
        seen = assessor.assess(features.pooled, modality_tags=tags).tag_disagreement
        arm = tags_arm(frame.modality, matrix, fleet.specialists, GFULL, wrong=rate)
        rows.append(
            [
                f"{100 * rate:g} %",
                accuracy(arm),
                pixels,
                alone,
                float(seen[wrong].mean()) if wrong.any() else None,
                float(seen[~wrong].mean()) if (~wrong).any() else None,
            ]
        )
    columns = [
        "wrong",
        "by tags",
        "by pixels (S)",
        "Gfull",
        "wrong code seen",
        "right code doubted",
    ]
    notes = [
        "by tags: specialist by modality code and body part, wrong body part at the rate (exact "
        "expectation); wrong code seen: modality codes drawn wrong at the rate that disagree with "
        "the picture",
    ]
    return f"role tune, {len(tune)} cases; accuracy macro over modalities", columns, rows, notes


def _modalities_stay(cases: Cases, out: Flags, minimum: int) -> bool:
    """Whether each modality of the held-out cases keeps enough training cases without them."""
    train = cases.roles == "train"
    return all(
        int((train & ~out & (cases.modalities == m)).sum()) >= minimum
        for m in set(cases.modalities[out].tolist())
    )


def _values(cases: Cases, of: str) -> NDArray[np.str_]:
    if of == "modality":
        return cases.modalities
    if of == "label":
        keys = zip(cases.tasks.tolist(), cases.labels.tolist(), strict=True)
        return np.array([f"{t}\0{lab}" if t and lab else "" for t, lab in keys], np.str_)
    for column in ("source", "dataset"):
        found = np.array([c.attributes.get(column, "") for c in cases], np.str_)
        if (found != "").any():
            return found
    # a task comes from one source where the manifest names none
    return cases.tasks


def _few(rows: NDArray[np.intp], cases: Cases, shots: int | str, seed: int) -> NDArray[np.intp]:
    if shots == "all":
        return rows
    rng = np.random.default_rng(seed)
    by = [rows[cases.labels[rows] == lab] for lab in sorted(set(cases.labels[rows].tolist()))]
    return np.concatenate([rng.permutation(r)[: int(shots)] for r in by])


def _auroc(novel: Assessments, known: Assessments) -> float | None:
    from sklearn.metrics import roc_auc_score

    if not len(novel) or not len(known):
        return None
    truth = np.r_[np.ones(len(novel)), np.zeros(len(known))]
    return float(roc_auc_score(truth, np.r_[novel.novelty, known.novelty]))


def _recognised(facts: Assessments, modality: NDArray[np.str_]) -> float:
    return float((np.array(facts.modalities)[facts.modality] == modality).mean())


def _held(same: Flags, limit: float) -> str:
    return "yes" if same.mean() >= limit else "no"


def _means(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    table = np.array(rows, float)
    known = ~np.isnan(table)
    total = np.where(known, table, 0).sum(axis=0)
    n = known.sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _int(value: Cell) -> int:
    return int(value or 0)
