"""The ``vqa`` suite: closed and open questions about images, read by every agent of the fleet.

Questions are those of VQA-RAD's test split where it is at hand, else made of phantoms.  Embedded
agents choose among options, so they abstain on open questions; that is counted and never
scored: 0 of n answered is no score of 0.  Whoever answers in words is scored by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curbside.evals.statistics import draw_groups, interval
from curbside.evals.vqa import SCORES, scores
from curbside.home import corpus_manifest
from curbside.readings import Abstention, Reading
from curbside.study import Question, QuestionKind, Study

if TYPE_CHECKING:
    from curbside.cases import Cases
    from curbside.evals.suite import Cell, VqaRun
    from curbside.router.workspace import Workspace

__all__ = ["phantom_questions", "questions", "score_agent"]

_REPLICATES = 2000
#: A study, its true answer in words, and what it belongs with (its image).
Asked = tuple[Study, str, str]


def questions(
    workspace: Workspace, run: VqaRun, out: Path
) -> tuple[str, list[str], list[list[Cell]], list[str]]:
    """Every agent on every question, and the baseline that sees no image.

    A row an agent and kind of question; open ones only of agents that answered any.
    """
    from curbside.evals.importers import import_cases

    manifest = corpus_manifest()
    path = Path(run.path) if run.path else manifest.parent / "vqa" / "vqa-rad" if manifest else None
    train: dict[str, list[str]] = {"closed": [], "open": []}
    if path is not None and path.exists():
        found = import_cases("vqa-rad", path, out / "vqa-rad.jsonl")
        test = found.take(found.where(role="test"))
        asked = _of_manifest(test)
        for c in found.take(found.where(role="train")):
            train["closed" if c.options else "open"].append(c.attributes["answer"])
        about = "VQA-RAD, published test split, images not seen by the questions of role train"
    else:
        asked = phantom_questions(out)
        about = "questions about phantoms (no VQA-RAD at hand): they say that the machinery runs"
    asked = asked[: run.most]
    by_kind = {
        kind: [a for a in asked if bool(a[0].question.options) == (kind == "closed")]
        for kind in ("closed", "open")
    }
    rows: list[list[Cell]] = []
    silent: list[str] = []
    for name, agent in workspace.fleet().agents.items():
        for kind, own in by_kind.items():
            said = agent.read_batch([s for s, _, _ in own])
            failed = sum(not isinstance(r, Reading | Abstention) for r in said)
            if kind == "open" and own and not failed and not any(map(_answered, said)):
                silent.append(name)
            elif own:
                rows.append([name, kind, *score_agent(own, said), failed])
    for kind, own in by_kind.items():
        known = train[kind] or ["yes"] * (kind == "closed")
        if own and known:
            common = max(sorted(set(known)), key=known.count)
            baseline = [_reading(common, s) for s, _, _ in own]
            rows.append([f"always {common.lower()}", kind, *score_agent(own, baseline), 0])
    columns = ["agent", "questions", "n", "answered", "exact", "low", "high", *SCORES[1:], "all"]
    notes = [
        "exact, token F1, BLEU-1 and ROUGE-L are over what an agent answered; all: exact, where "
        "what it did not answer counts as not right; low, high: 95 % of exact, by image",
    ]
    if silent:
        notes.append(
            "agents that choose among options abstain on every open question, so they have no "
            f"score on those and none is reported: {', '.join(silent)}"
        )
    counted = " and ".join(f"{len(own)} {kind}" for kind, own in by_kind.items())
    return f"{about}; {counted}", [*columns, "failed"], rows, notes


def _answered(response: object) -> bool:
    return isinstance(response, Reading)


def score_agent(asked: Sequence[Asked], said: Sequence[object]) -> list[Cell]:
    """How many, answered share, exact with its interval, the other scores, exact over all.

    Args:
        said: a response a question; of an open one the text is judged.
    """
    right = [(i, r.answer) for i, r in enumerate(said) if isinstance(r, Reading)]
    n = len(asked)
    if not right:
        return [n, 0.0 if n else None, *[None] * (3 + len(SCORES))]
    at = np.array([i for i, _ in right], np.intp)
    truth = [asked[i][1] for i in at]
    found = scores([a for _, a in right], truth)
    groups = np.unique([asked[i][2] for i in at], return_inverse=True)[1]
    exact, low, high = _interval(found["exact_match"], groups)
    rest: list[Cell] = [float(found[k].mean()) for k in SCORES[1:]]
    return [n, len(at) / n, exact, low, high, *rest, float(found["exact_match"].sum()) / n]


def phantom_questions(out: Path) -> list[Asked]:
    """Two questions a phantom: is there the finding (closed), and what is shown (open)."""
    from curbside.cases import read_cases
    from curbside.phantoms import write_phantoms

    folder = out / "phantoms"
    manifest = folder / "manifest.csv"
    cases = read_cases(manifest if manifest.is_file() else write_phantoms(folder, scale=0.12))
    asked: list[Asked] = []
    for i, c in enumerate(c for c in cases if c.role == "test" and c.label and c.options):
        # every second question is about a finding that is not there
        named = c.label if i % 2 == 0 else next(o for o in c.options if o != c.label)
        text = f"Is this {str(named).replace('_', ' ')}?"
        closed = Question(("yes", "no"), text, QuestionKind.VQA_CLOSED)
        study = c.study()
        answer = "yes" if named == c.label else "no"
        asked.append((replace(study, question=closed), answer, c.group or c.id))
        what = Question((), "What is shown?", QuestionKind.VQA_OPEN)
        asked.append((replace(study, id=f"{study.id}-open", question=what), str(c.label), c.group))
    return asked


def _of_manifest(cases: Cases) -> list[Asked]:
    out: list[Asked] = []
    for c in cases:
        study = c.study()
        kind = QuestionKind.VQA_CLOSED if c.options else QuestionKind.VQA_OPEN
        asked = replace(study, question=replace(study.question, kind=kind))
        out.append((asked, c.attributes["answer"], c.group or c.id))
    return out


def _reading(answer: str, study: Study) -> Reading | None:
    options = study.question.options
    if not options:
        return Reading(
            agent="", fingerprint="", options=(), probabilities=(), confidence=1.0, text=answer
        )
    if answer.lower() not in options:
        return None
    p = tuple(float(o == answer.lower()) for o in options)
    return Reading(agent="", fingerprint="", options=options, probabilities=p, confidence=1.0)


def _interval(values: NDArray[np.float32], groups: NDArray[np.intp]) -> tuple[float, float, float]:
    counts = draw_groups(int(groups.max()) + 1, _REPLICATES, 0)[:, groups]
    drawn = (counts @ values) / np.maximum(counts.sum(axis=1), 1)
    return interval(np.asarray(drawn, np.float32))
