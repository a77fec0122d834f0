"""What the worker does: draws the index's map; routes uploads; asks agents.  Runs in its process.

Models are opened by the first job that needs them and kept.  Results go to the ledger; what
comes back to the page is small and plain: ids, reasons and numbers, no file name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from curbside.agents.contract import Agent, AnyResponse
from curbside.config import Config, load_config
from curbside.errors import UserError
from curbside.home import home
from curbside.intake import Refusal, studies_in
from curbside.readings import CaseRecord, Outcome, Reading, Reason, Status
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.review import Kind
from curbside.router.sources import SourceStore, open_sources
from curbside.study import Question, QuestionKind, Series, Study
from curbside.ui.pictures import slices_of
from curbside.ui.worker_process import Handler

__all__ = ["Desk", "handlers", "rerouted"]

Progress = Callable[[int, int], None]
_BLOCK = 32


class Desk:
    """Opens router, fleet, ledger and sources of one home, each when first needed."""

    def __init__(self, where: Path) -> None:
        self.home = where

    @cached_property
    def config(self) -> Config:
        """Read once a worker."""
        return load_config(self.home / "curbside.yaml")

    @cached_property
    def ledger(self) -> Ledger:
        """Where everything ends up."""
        return open_ledger(self.home, self.config.stores.ledger)

    @cached_property
    def sources(self) -> SourceStore | None:
        """Which files cases came from, where that may be kept."""
        return open_sources(self.home, self.config)

    @cached_property
    def router(self) -> Any:
        """The router; loads the models."""
        from curbside.router.api import Router

        return Router.from_config(home=self.home)

    @cached_property
    def fleet(self) -> Any:
        """The fleet that serves; loads its agents."""
        from curbside.router.workspace import Workspace

        return Workspace(self.home, self.config).fleet()

    @cached_property
    def agents(self) -> Mapping[str, Agent]:
        """The fleet's agents by name."""
        agents: Mapping[str, Agent] = self.fleet.agents
        return agents


def handlers(where: Path | None = None) -> Mapping[str, Handler]:
    """Kind of job → what does it."""
    desk = Desk(where or home())

    def with_desk(work: Callable[[Desk, dict[str, Any], Progress], dict[str, Any]]) -> Handler:
        return lambda payload, progress: work(desk, payload, progress)

    return {
        "map": with_desk(draw_map),
        "check": with_desk(check),
        "cards": with_desk(cards),
        "route": with_desk(route),
        "ask": with_desk(ask),
        "reroute": with_desk(reroute),
    }


def draw_map(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Two dimensions of the index, kept for the fleet page."""
    from curbside.indexes.assess import Assessor
    from curbside.ui.index_facts import index_facts, make_map, save_map, served_index

    folder = served_index(desk.home, desk.config)
    facts = index_facts(folder)
    assessor = Assessor.load(folder, encoder=facts.encoder)
    points = make_map(
        assessor.index.vectors(),
        assessor.ids.tolist(),
        assessor.neighbour_modalities.tolist(),
        assessor.labels.tolist(),
    )
    save_map(points, facts.digest, desk.home)
    return {"points": len(points.ids)}


def cards(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The model card of every agent and person, as Markdown."""
    from curbside.router.model_cards import model_cards
    from curbside.router.workspace import Workspace

    return {"cards": model_cards(Workspace(desk.home, desk.config), desk.fleet)}


def check(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Every agent is asked something: what works, what does not, what mends it."""
    from curbside.agents.checking import check_agent

    questions = tuple(Question(options=o, task=t) for t, o in desk.fleet.tasks.items())
    found: list[dict[str, Any]] = []
    for done, agent in enumerate(desk.agents.values(), 1):
        found += [asdict(f) for f in check_agent(agent, questions=questions)]
        progress(done, len(desk.agents))
    return {"findings": found}


# -- uploads ---------------------------------------------------------------------------------


def route(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Studies of an uploaded folder → read, recorded, or refused with a reason.

    The folder's own copies stay as the cases' sources where ``privacy.keep_sources`` allows;
    otherwise they are removed once everything is recorded.
    """
    folder = desk.home / "uploads" / str(payload["folder"])
    question = Question(
        options=tuple(payload.get("options", ())),
        text=str(payload.get("text", "")),
        task=payload.get("task") or None,
    )
    tags = desk.config.privacy.allowed_tags
    studies: list[Study] = []
    refused: list[Refusal] = []
    for found in studies_in(folder, question=question, allowed_tags=tags):
        if isinstance(found, Study):
            studies.append(found)
        else:
            refused.append(found)
        progress(0, len(studies))
    done: list[dict[str, str]] = []
    for start in range(0, len(studies), _BLOCK):
        block = studies[start : start + _BLOCK]
        # the router records each case and where its images are
        records = desk.router.read_batch(block)
        done += [_told(s, r) for s, r in zip(block, records, strict=True)]
        progress(len(done), len(studies))
    if not desk.config.privacy.keep_sources:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "studies": done,
        "refused": [
            {"id": r.id[:12], "reason": r.reason, "message": r.message, "kind": r.kind}
            for r in refused
        ],
    }


def _told(study: Study, record: CaseRecord) -> dict[str, str]:
    o = record.outcome
    return {
        "study": study.id,
        "status": str(o.status),
        "modality": record.modality or "",
        "said": o.answer or o.provisional or "",
        "images": str(len(study.instances)),
        "why": o.reasons[0].text if o.reasons else "",
        "incomplete": ", ".join(sorted(set(study.incomplete))),
    }


# -- agents ----------------------------------------------------------------------------------


def ask(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """One agent's answer to a question about a case; it changes nothing but the story."""
    case, agent, who = (str(payload[k]) for k in ("case", "agent", "who"))
    options, text = tuple(payload.get("options", ())), str(payload.get("text", ""))
    kind = QuestionKind.VQA_CLOSED if options else QuestionKind.VQA_OPEN
    said = _read(desk, case, agent, Question(options=options, text=text, kind=kind))
    asked = text or " | ".join(options)
    told = said.answer if isinstance(said, Reading) else _why(said)
    desk.ledger.add(case, Kind.ASK, who, text=f"{agent}: {asked} → {told}")
    return {"agent": agent, "asked": asked, "response": said.model_dump(mode="json")}


def reroute(desk: Desk, payload: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Another agent reads the case; its reading is provisional until a person settles it."""
    case, agent, who = (str(payload[k]) for k in ("case", "agent", "who"))
    revision = int(payload["revision"])
    record = desk.ledger.record(case, revision)
    question = Question(
        options=record.options, task=record.task, kind=QuestionKind(record.question_kind)
    )
    said = _read(desk, case, agent, question)
    after = rerouted(record, said, who)
    desk.ledger.add(case, Kind.REROUTE, who, text=agent, revision=revision, record=after)
    return {"agent": agent, "response": said.model_dump(mode="json")}


def rerouted(record: CaseRecord, said: AnyResponse, who: str) -> CaseRecord:
    """The record after another agent was asked by a person.

    A reading waits for the person; without one the case waits as it was, with the reason.
    """
    others = tuple(r for r in record.responses if r.agent != said.agent)
    o = record.outcome
    reading = isinstance(said, Reading)
    note = f"{who} sent it to {said.agent}."
    if not reading:
        note = f"{who} sent it to {said.agent}, which gave no reading: {_why(said)}."
    told = said.answer if isinstance(said, Reading) else o.provisional
    outcome = Outcome(
        status=Status.NEEDS_REVIEW,
        route=tuple(dict.fromkeys((*o.route, said.agent))),
        confidence=said.confidence if isinstance(said, Reading) else o.confidence,
        reader=said.agent if reading else o.reader,
        provisional=told,
        reasons=(*o.reasons, Reason(code="rerouted", text=note)),
        dissent=tuple(
            f"{r.agent}: {r.answer} ({r.confidence:.2f})"
            for r in others
            if isinstance(r, Reading) and r.answer != told
        ),
        counterfactuals=o.counterfactuals,
    )
    return record.model_copy(update={"responses": (*others, said), "outcome": outcome})


def _read(desk: Desk, case: str, agent: str, question: Question) -> AnyResponse:
    if agent not in desk.agents:
        raise UserError(f"there is no agent {agent!r}; there are: {', '.join(desk.agents)}")
    slices = slices_of(desk.sources.images(case) if desk.sources is not None else ())
    if not len(slices):
        raise UserError(
            f"where the images of case {case} are is not known here, so nobody can read them",
            hint="route the study again on this machine with privacy.keep_sources: true",
        )
    study = Study(case, tuple(map(Series, slices.series)), question=question)
    return desk.agents[agent].read(study)


def _why(said: AnyResponse) -> str:
    return said.reason if said.type == "abstention" else getattr(said, "message", "")
