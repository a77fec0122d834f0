"""Readings that were made elsewhere: agents that curbside cannot call, from a file of answers.

One row a case and agent (CSV, JSONL or Parquet).  A team file says who is the generalist and
who the specialist of which modality; then the same arms, gates and verdict are replayed as for
agents that are called.  Every bad row is reported at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from curbside.agents.contract import AgentCard
from curbside.cases import read_table
from curbside.config import load_model
from curbside.errors import CasesError, ConfigError, RowProblem
from curbside.readings import Abstention, Failure, Reading
from curbside.storage import file_digest
from curbside.study import Study, content_hash

if TYPE_CHECKING:
    from curbside.agents.fleet import Fleet
    from curbside.cases import Case, Cases

__all__ = [
    "Readings",
    "RecordedAgent",
    "Team",
    "about_team",
    "load_team",
    "read_readings",
    "recorded_fleet",
]

COLUMNS = ("case", "image", "agent", "answer", "probabilities", "confidence", "status")
STATUSES = ("read", "abstained", "failed")
_HINT = "mend the file (docs/evaluate-your-own.md has its columns), then run it again"
_SHOWN = 10
_NO_IMAGE = "its image is not in the manifest (paths count from the manifest's folder)"
Response = Reading | Abstention | Failure


class Team(BaseModel):
    """Who is who among the agents of a file of readings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    generalist: str
    """The agent that reads everything; the arm ``Gfull``."""
    specialists: dict[str, str] = Field(min_length=1)
    """Modality → agent; together the arm ``S``."""
    few_shot: str | None = None
    """A generalist adapted with few cases a label, where there is one; the arm ``G16``."""


@dataclass(frozen=True)
class Readings:
    """What a file says: agent → case id → response."""

    by_agent: Mapping[str, Mapping[str, Response]]
    digest: str
    without_confidence: int

    @property
    def cases(self) -> set[str]:
        """Ids of all cases that some agent was asked about."""
        return {c for by in self.by_agent.values() for c in by}


class RecordedAgent:
    """An agent whose answers are known already.

    A case without a row is a failure of kind ``unavailable``: it never counts as an answer.
    """

    def __init__(self, card: AgentCard, said: Mapping[str, Response]) -> None:
        self.card = card
        self._said = said

    def read(self, study: Study) -> Response:
        """What was recorded of the study, put to the options that it is asked now."""
        found = self._said.get(study.id)
        if found is None:
            return Failure(
                agent=self.card.name,
                fingerprint=self.card.fingerprint,
                kind="unavailable",
                message="no reading of this case is recorded",
            )
        options = study.question.options
        if not isinstance(found, Reading) or found.options == options or not options:
            return found
        # a novel case is asked another question than the recorded one: nothing said of it is
        # right, and only that it was answered, and how surely, counts
        rest = (1 - found.confidence) / max(len(options) - 1, 1)
        p = (found.confidence, *[rest] * (len(options) - 1))
        return found.model_copy(update={"options": options, "probabilities": p})

    def read_batch(self, studies: Sequence[Study]) -> list[Response]:
        """:meth:`read` for many, in order."""
        return [self.read(s) for s in studies]


def load_team(path: Path) -> Team:
    """Read and check a team file.  Raises ConfigError."""
    return load_model(Team, path, hint=f"edit {path.name} (docs/evaluate-your-own.md), run again")


def read_readings(path: Path, manifests: Sequence[Cases]) -> Readings:
    """Read a file of readings of some manifests' cases.

    Args:
        manifests: all of their rows, whatever the role; they give each case's options.  An
            ``image`` counts relative to the first one's folder, as in the manifest itself.

    Raises:
        CasesError: it cannot be read, lacks columns or has bad rows: all of them are named.
    """
    rows = read_table(path)
    have = {c for _, row in rows for c in row if c}
    if "agent" not in have or not {"case", "image"} & have:
        raise CasesError(
            f"{path} needs the columns 'agent' and 'case' (or 'image'); "
            f"its columns: {', '.join(sorted(have)) or 'none'}",
            hint=_HINT,
        )
    by_id = {c.id: c for cases in reversed(manifests) for c in cases}
    folder = manifests[0].path.parent
    by_image = {c.image.resolve(): c for c in by_id.values()} if "image" in have else {}
    said: dict[str, dict[str, Response]] = {}
    problems: list[RowProblem] = []
    unsure = 0
    for line, row in rows:
        agent = str(row.get("agent") or "").strip()
        case = by_id.get(str(row.get("case") or "")) or by_image.get(
            (folder / str(row.get("image") or "")).resolve()
        )
        if case is None or not agent:
            problems.append(RowProblem(line, "no agent" if not agent else _unknown(row)))
            continue
        try:
            response, surely = _response(agent, case, row)
        except ValueError as e:
            problems.append(RowProblem(line, str(e)))
            continue
        unsure += not surely
        if case.id in said.setdefault(agent, {}):
            problems.append(RowProblem(line, f"agent {agent!r} has a second row of this case"))
        said[agent][case.id] = response
    if problems:
        shown = [f"line {p.line}: {p.reason}" for p in problems[:_SHOWN]]
        more = [f"… and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise CasesError(
            f"{path} has {len(problems)} problem(s) in {len(rows)} row(s):\n  "
            + "\n  ".join(shown + more),
            problems=problems,
            hint=_HINT,
        )
    return Readings(said, file_digest(path), unsure)


def about_team(team: Team, readings: Readings, file: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the arms are made of, by arm; and what a reader of the numbers must know."""
    about = {"Gfull": f"{team.generalist}, as recorded in {file}"}
    if team.few_shot:
        about["G16"] = f"{team.few_shot}, as recorded in {file}"
    who = ", ".join(f"{m}: {a}" for m, a in sorted(team.specialists.items()))
    about["S"] = f"recorded specialist of the recognised modality ({who})"
    notes = [
        f"no agent was called: readings of {len(readings.by_agent)} agents come from {file}, "
        "latency and cost too (cost 1 where none is given)",
    ]
    if readings.without_confidence:
        notes.append(
            f"{readings.without_confidence} readings come without probabilities or confidence "
            "and count as sure: confidence gates and the cascade cannot tell them apart"
        )
    return about, tuple(notes)


def recorded_fleet(readings: Readings, team: Team, built: Cases) -> Fleet:
    """A fleet of recorded agents, under the names that the arms are made from.

    Args:
        built: the cases that the index was built from; gives tasks and their options.

    Raises:
        ConfigError: the team names an agent that the readings lack.
    """
    from curbside.agents.fleet import Fleet
    from curbside.evals.protocol import G16, GFULL

    named = {"generalist": team.generalist, "few_shot": team.few_shot}
    named |= {f"specialists.{m}": a for m, a in team.specialists.items()}
    for key, agent in named.items():
        if agent is not None and agent not in readings.by_agent:
            raise ConfigError(
                f"{key} = {agent!r} has no reading; agents of the file: "
                f"{', '.join(sorted(readings.by_agent))}",
                hint="name agents as the column 'agent' does",
            )
    role = {team.generalist: GFULL} | ({team.few_shot: G16} if team.few_shot else {})
    agents = {
        role.get(name, name): RecordedAgent(_card(name, team, readings), said)
        for name, said in sorted(readings.by_agent.items())
    }
    tasks, tasks_of = _tasks(built)
    return Fleet(
        agents=agents,
        specialists=dict(team.specialists),
        generalist=GFULL,
        tasks=tasks,
        tasks_of=tasks_of,
        build_cost={},
        fingerprint=content_hash("recorded", readings.digest, team.model_dump_json()),
    )


def _card(name: str, team: Team, readings: Readings) -> AgentCard:
    modalities = tuple(m for m, a in team.specialists.items() if a == name)
    return AgentCard(
        name=name,
        kind="recorded",
        role="specialist" if modalities else "generalist",
        modalities=modalities,
        fingerprint=content_hash("recorded", name, readings.digest),
    )


def _tasks(built: Cases) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Task → options, and modality → its tasks with most training cases first."""
    from collections import Counter

    options: dict[str, tuple[str, ...]] = {}
    count: dict[str, Counter[str]] = {}
    for c in built:
        if c.role == "train" and c.task and c.options and c.modality:
            options.setdefault(c.task, c.options)
            count.setdefault(c.modality, Counter())[c.task] += 1
    return options, {m: tuple(t for t, _ in by.most_common()) for m, by in count.items()}


def _response(agent: str, case: Case, row: Mapping[str, Any]) -> tuple[Response, bool]:
    """One row's response, and whether it says how sure it is.  Raises ValueError: why not."""
    status = str(row.get("status") or "read").strip()
    if status not in STATUSES:
        raise ValueError(f"status {status!r} is unknown; valid: {', '.join(STATUSES)}, or empty")
    if status == "failed":
        return Failure(agent=agent, kind="unavailable", message="recorded as failed"), True
    p = _probabilities(row.get("probabilities"))
    answer = str(row.get("answer") or "").strip()
    if status == "abstained" or (not p and not answer):
        return Abstention(agent=agent, reason="recorded as abstained"), True
    options = case.options
    confidence = _number(row, "confidence", high=1.0)
    numbers = {k: _number(row, k) or 0.0 for k in ("cost", "latency_ms")}
    if row.get("cost") in (None, ""):
        numbers["cost"] = 1.0
    if options and p and len(p) != len(options):
        raise ValueError(f"{len(p)} probabilities for {len(options)} options")
    if p and (min(p) < 0 or abs(sum(p) - 1) > 0.01):
        raise ValueError(f"probabilities must be at least 0 and sum to 1, not {sum(p):.3f}")
    if options and answer and answer not in options:
        raise ValueError(f"answer {answer!r} is none of the options {'|'.join(options)}")
    if options and p and answer and options[p.index(max(p))] != answer:
        raise ValueError(f"answer {answer!r} is not the option with the highest probability")
    surely = bool(p) or confidence is not None
    if options and not p:
        top = 1.0 if confidence is None else confidence
        # the answer stays the top option, however unsure it is
        shown = max(top, 1 / len(options) + 1e-3)
        p = [(1 - shown) / (len(options) - 1)] * len(options)
        p[options.index(answer)] = shown
    top = confidence if confidence is not None else (max(p) if p else 1.0)
    total = sum(p) or 1.0
    return (
        Reading(
            agent=agent,
            fingerprint=agent,
            options=options,
            probabilities=tuple(v / total for v in p) if options else (),
            text=answer,
            confidence=min(top, 1.0),
            **numbers,
        ),
        surely,
    )


def _unknown(row: Mapping[str, Any]) -> str:
    if row.get("case"):
        return "its case is not in the manifest (without a column 'id', give 'image' instead)"
    return _NO_IMAGE if row.get("image") else "no case"


def _probabilities(value: Any) -> list[float]:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return []
    parts = value if isinstance(value, list | tuple) else str(value).split("|")
    try:
        found = [float(v) for v in parts]
    except (TypeError, ValueError):
        raise ValueError("probabilities must be numbers joined by '|', or a list") from None
    if not all(math.isfinite(v) for v in found):
        raise ValueError("probabilities must be finite")
    return found


def _number(row: Mapping[str, Any], key: str, *, high: float = math.inf) -> float | None:
    value = row.get(key)
    if value is None or value == "" or value != value:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{key} {value!r} is no number") from None
    if not 0 <= found <= high:
        limit = f"between 0 and {high:g}" if math.isfinite(high) else "at least 0"
        raise ValueError(f"{key} {found:g} must be {limit}")
    return found
