"""May an adapter join the fleet?  Read on ``tune``, judged by the gate's rules, then entered.

It must beat the commonest answer of each task, and lose no more than the margin against the
agent that it is held against; what cannot be assessed has not passed.  The fleet file is
changed last, in one write, by an entry added at the end of its agents: comments stay.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from curbside.agents.contract import Agent, AnyResponse
from curbside.agents.finetuning.card import AdapterCard
from curbside.agents.finetuning.material import Lesson, Material
from curbside.agents.fleet_spec import (
    AgentSpec,
    CardSpec,
    EncoderSpec,
    EndpointAgentSpec,
    FleetSpec,
    TransformersSpec,
    load_fleet_spec,
)
from curbside.errors import UserError
from curbside.evals.gate import Check, GateRules, sensitivity
from curbside.evals.statistics import draw_groups, interval
from curbside.evals.vqa import token_f1
from curbside.progress import bar
from curbside.readings import Reading
from curbside.storage import write_text
from curbside.study import Question, Study

__all__ = ["Measured", "entry_for", "judge_adapter", "measured", "with_entry", "write_entry"]

Float = NDArray[np.float32]
_BLOCK = 64


@dataclass(frozen=True)
class Measured:
    """What two agents made of the same lessons.

    Args:
        new, old: score of each lesson in [0, 1]: right or not, of open answers token F1.
        answered, answered_old: whether they answered it at all.
        commonest: whether the task's commonest answer in training is the truth.
        task, label, group: of each lesson.
    """

    new: Float
    old: Float
    answered: Float
    answered_old: Float
    commonest: Float
    task: NDArray[np.str_]
    label: NDArray[np.str_]
    group: NDArray[np.str_]


def measured(
    new: Agent, old: Agent, learned: Sequence[Lesson], tune: Material
) -> tuple[Measured, dict[str, float]]:
    """Both agents read ``tune``; also the adapter's accuracy by task.

    Args:
        learned: lessons of training, for the commonest answer of each task.
    """
    lessons = tune.train
    studies = [_asked(tune, x) for x in lessons]
    with bar("reading tune", 2 * len(studies)) as advance:
        said = [_read(a, studies, advance) for a in (new, old)]
    scores = [
        np.array([_score(r, x) for r, x in zip(s, lessons, strict=True)], np.float32) for s in said
    ]
    common = {
        task: Counter(x.answer for x in learned if x.task == task).most_common(1)[0][0]
        for task in {x.task for x in learned}
    }
    tasks = np.array([x.task for x in lessons], np.str_)
    found = Measured(
        new=scores[0],
        old=scores[1],
        answered=np.array([isinstance(r, Reading) for r in said[0]], np.float32),
        answered_old=np.array([isinstance(r, Reading) for r in said[1]], np.float32),
        commonest=np.array([_words(common.get(x.task, ""), x) for x in lessons], np.float32),
        task=tasks,
        label=np.array([x.answer for x in lessons], np.str_),
        group=np.array([tune.cases[x.row].own_group for x in lessons], np.str_),
    )
    by_task = {str(t): float(scores[0][tasks == t].mean()) for t in np.unique(tasks)}
    return found, by_task


def judge_adapter(
    found: Measured, against: str, rules: GateRules, *, replicates: int = 2000
) -> list[Check]:
    """Every check; an adapter joins when all have passed.

    Differences are macro over tasks, paired, and resampled by group.
    """
    beats, low_beats = _difference(found, found.new - found.commonest, replicates)
    quality, low = _difference(found, found.new - found.old, replicates)
    _, low_answers = _difference(found, found.answered - found.answered_old, replicates)
    missed = np.isin(found.label, rules.must_not_miss)
    checks = [
        Check(
            name="learned",
            passed=low_beats > 0,
            found=f"adapter − commonest answer = {_points(beats)} points, lower bound "
            f"{_points(low_beats)}, {len(found.new)} questions of tune",
            limit="above +0.0",
        ),
        Check(
            name="quality",
            passed=low > -rules.margin,
            found=f"adapter − {against} = {_points(quality)} points, lower bound {_points(low)}",
            limit=f"above {-100 * rules.margin:+.1f}",
        ),
        Check(
            name="answers",
            passed=low_answers > -rules.margin,
            found=f"answers {100 * found.answered.mean():.1f} % against "
            f"{100 * found.answered_old.mean():.1f} %, lower bound {_points(low_answers)}",
            limit=f"above {-100 * rules.margin:+.1f}",
        ),
    ]
    if missed.any():
        checks.append(
            sensitivity(
                found.label[missed],
                found.new[missed],
                found.old[missed],
                found.group[missed],
                rules,
                replicates,
            )
        )
    return checks


def entry_for(
    card: AdapterCard, adapter: Path, spec: FleetSpec, fleet_file: Path, base: str
) -> AgentSpec:
    """How the adapter is written into a fleet file: like the agent that it was made from.

    Args:
        base: what the entry names as its base where the fleet has no such agent.

    Raises:
        UserError: vLLM would serve it, and does not serve such adapters.
    """
    where = _relative(adapter, fleet_file.parent)
    if card.kind == "encoder":
        return EncoderSpec(
            kind="encoder",
            base=base,
            adapter=where,
            card=CardSpec(
                role="specialist" if len(card.modalities) == 1 else "generalist",
                modalities=card.modalities if len(card.modalities) == 1 else (),
                tasks=tuple(card.heads),
                limits=card.limits,
                runs_on=("cpu", "gpu", "site"),
            ),
        )
    own = spec.agents.get(card.agent)
    if isinstance(own, EndpointAgentSpec) and card.vllm:
        raise UserError(
            f"agent {card.agent} is served by vLLM, which does not serve this adapter: {card.vllm}",
            hint="--parts language, or make the agent one of kind transformers",
        )
    if isinstance(own, EndpointAgentSpec | TransformersSpec):
        return own.model_copy(update={"adapter": where})
    return TransformersSpec(
        kind="transformers",
        base=base,
        adapter=where,
        card=CardSpec(role="generalist", limits=card.limits, runs_on=("cpu", "gpu", "site")),
    )


def with_entry(text: str, name: str, entry: AgentSpec) -> str:
    """A fleet file's text with an agent more, after the last one of ``agents``.

    Raises:
        UserError: the file is not written in block style; the entry is shown.
    """
    body = entry.model_dump(mode="json", exclude_defaults=True)
    lines = text.splitlines()
    start = next((i for i, x in enumerate(lines) if x.split("#")[0].rstrip() == "agents:"), None)
    block = yaml.safe_dump({name: body}, sort_keys=False).rstrip().splitlines()
    if start is None:
        raise _by_hand(block)
    first = next((x for x in lines[start + 1 :] if x.strip() and not x.strip().startswith("#")), "")
    indent = first[: len(first) - len(first.lstrip())]
    if not indent:
        raise _by_hand(block)
    end = start + 1
    for i in range(start + 1, len(lines)):
        if lines[i].strip() and not lines[i].startswith((" ", "\t", "#")):
            break
        if lines[i].strip() and lines[i].startswith(indent):
            end = i + 1
    made = [*lines[:end], *(indent + x for x in block), *lines[end:]]
    return "\n".join(made) + "\n"


def write_entry(fleet_file: Path, name: str, entry: AgentSpec) -> None:
    """Add an agent to a fleet file; what results is read back and checked before it is there.

    Raises:
        UserError, ConfigError: it would not be a fleet any more; the file is as it was.
        StorageError: the disk is full; the file is as it was.
    """
    before = load_fleet_spec(fleet_file)
    if name in before.agents:
        raise UserError(f"{fleet_file} has an agent {name!r} already", hint="--name ANOTHER")
    text = with_entry(fleet_file.read_text(encoding="utf-8"), name, entry)
    trial = fleet_file.with_name(f".{fleet_file.name}.trial")
    try:
        write_text(trial, text)
        after = load_fleet_spec(trial)
    finally:
        trial.unlink(missing_ok=True)
    if after.agents != {**before.agents, name: entry}:
        raise _by_hand(yaml.safe_dump({name: entry.model_dump(mode="json")}).splitlines())
    write_text(fleet_file, text)


def _asked(material: Material, lesson: Lesson) -> Study:
    known = material.cases[lesson.row].task
    question = Question(lesson.options, lesson.question, lesson.kind, known)
    return replace(material.cases[lesson.row].study(), question=question)


def _read(
    agent: Agent, studies: Sequence[Study], advance: Callable[[int], None]
) -> list[AnyResponse]:
    out: list[AnyResponse] = []
    for start in range(0, len(studies), _BLOCK):
        block = studies[start : start + _BLOCK]
        out += agent.read_batch(block)
        advance(len(block))
    return out


def _score(response: AnyResponse, lesson: Lesson) -> float:
    """An abstention or a failure is no right answer."""
    if not isinstance(response, Reading):
        return 0.0
    return _words(response.answer if lesson.options else response.text, lesson)


def _words(said: str, lesson: Lesson) -> float:
    return float(said == lesson.answer) if lesson.options else token_f1(said, lesson.answer)


def _difference(found: Measured, values: Float, replicates: int) -> tuple[float, float]:
    """Mean, macro over tasks, and the lower bound of its 95 % interval."""
    groups, group = np.unique(found.group, return_inverse=True)
    counts = draw_groups(len(groups), replicates, 0)[:, group]
    drawn = []
    for task in np.unique(found.task):
        at = found.task == task
        n = counts[:, at].sum(axis=1)
        mean = np.full(len(counts), np.nan, np.float32)
        np.divide(counts[:, at] @ values[at], n, out=mean, where=n > 0)
        drawn.append(mean)
    macro = np.nanmean(np.stack(drawn), axis=0)
    estimate, low, _ = interval(np.asarray(macro, np.float32))
    return estimate, low


def _relative(adapter: Path, folder: Path) -> str:
    """Below or beside the fleet file by a relative path, so that both may move together."""
    away = Path(os.path.relpath(adapter.absolute(), folder.absolute()))
    return away.as_posix() if away.parts[:2] != ("..", "..") else str(adapter.absolute())


def _by_hand(block: Sequence[str]) -> UserError:
    shown = "\n".join(f"  {x}" for x in block)
    return UserError(
        f"the fleet file is written in a way that no entry can be added to by itself; add\n{shown}",
        hint="add it below agents: by hand",
    )


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
