"""The Python API: open what was built, decide and read studies, answer what waits for a person.

``decide`` says whom the policy would ask and calls no agent; ``read`` runs the whole graph.
The batch forms do the same for many studies, a block at a time and without the graph's
steps in between; a study gets the same record either way.  Every reading goes to the
ledger, once: what it has is given and not read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from curbside import __version__
from curbside.agents.contract import Explains
from curbside.config import Config, PolicyConfig, load_config, model_digest
from curbside.errors import UserError
from curbside.home import home as default_home
from curbside.indexes.assess import Assessor
from curbside.indexes.conformal import smallest_stratum
from curbside.indexes.features import FeatureSource
from curbside.progress import Advance, bar
from curbside.readings import CaseRecord, Explanation, Reading, Status, Versions
from curbside.router.checkpoints import open_checkpoints
from curbside.router.desk import RouterDesk
from curbside.router.drift import suspended_strata
from curbside.router.flow import BLOCK, decided, read
from curbside.router.graph import build_graph
from curbside.router.ledger import open_ledger
from curbside.router.sources import open_sources
from curbside.router.verdicts import Serving
from curbside.router.worklist import View, page
from curbside.router.workspace import Workspace
from curbside.study import Study

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Router"]

_log = logging.getLogger(__name__)
Flow = Callable[[Iterable[Study]], Iterator[list[CaseRecord]]]
#: Studies from which a batch takes over two seconds and a bar is shown.
_SHOW_FROM = 64


class Router:
    """Routes studies; made by :meth:`from_config` or over an opened workspace.

    Args:
        workspace: built before.
        policy: instead of the configuration's.
    """

    def __init__(self, workspace: Workspace, *, policy: PolicyConfig | None = None) -> None:
        fleet, assessor = workspace.fleet(), workspace.assessor()
        agents = {name: fleet.agents[name] for name in fleet.serving}
        self._agents = agents
        _say_blind(assessor, (policy or workspace.config.policy).alpha)
        serving = Serving(
            policy or workspace.config.policy,
            fleet.serving,
            fleet.generalist,
            {name: agent.card.cost for name, agent in agents.items()},
            suspended_strata(workspace.home, assessor.calibration_digest),
        )
        versions = Versions(
            code=__version__,
            encoder=workspace.source.fingerprint,
            index=assessor.index_digest,
            calibration=assessor.calibration_digest,
            policy=model_digest(serving.config),
            fleet=fleet.fingerprint,
        )
        self.tasks, self.versions = fleet.tasks, versions
        self.ledger = open_ledger(workspace.home, workspace.config.stores.ledger)
        self._sources = open_sources(workspace.home, workspace.config)
        self.ledger.stamp("policy", versions.policy, serving.config.model_dump_json())
        self.ledger.stamp("fleet", versions.fleet, serving.facts())
        self._parts = (assessor, agents, serving, fleet.tasks, fleet.tasks_of, versions)
        self._desk = self.desk_over(workspace.source)
        self._saver = open_checkpoints(workspace.home / workspace.config.stores.checkpoints)
        self._graph = build_graph(self._desk, self._saver)

    @classmethod
    def from_config(cls, path: str | Path | None = None, *, home: Path | None = None) -> Self:
        """Open what ``curbside build`` or ``make demo`` has built.

        Args:
            path: ``curbside.yaml``; default: the one in the home folder.
            home: default: ``CURBSIDE_HOME`` or ``.curbside``.

        Raises:
            ConfigError: the file is missing or wrong.
            NotBuilt, IndexMismatch, IndexCorrupt: what is stored cannot serve.
        """
        where = home or default_home()
        config: Config = load_config(Path(path) if path else where / "curbside.yaml")
        return cls(Workspace(where, config))

    def decide(self, study: Study) -> CaseRecord:
        """Whom the policy would ask, and why; no agent is called and nothing is recorded."""
        (record,) = self.decide_batch([study])
        return record

    @overload
    def decide_batch(self, studies: Sequence[Study]) -> list[CaseRecord]: ...
    @overload
    def decide_batch(self, studies: AsyncIterator[Study]) -> AsyncIterator[CaseRecord]: ...
    @overload
    def decide_batch(self, studies: Iterator[Study]) -> Iterator[CaseRecord]: ...
    @overload
    def decide_batch(self, studies: pd.DataFrame) -> pd.DataFrame: ...
    @overload
    def decide_batch(self, studies: pa.Table) -> pa.Table: ...
    def decide_batch(self, studies: Any) -> Any:
        """:meth:`decide` for many; takes and gives what :meth:`read_batch` does."""
        return self._batch(studies, lambda some: decided(self._desk, some))

    def read(self, study: Study) -> CaseRecord:
        """Run the graph on one study.  A case that needs a person waits in :meth:`pending`.

        Raises:
            StorageError: the ledger cannot be written.
        """
        try:
            self._desk.take_in([study])
            self._remember([study])
            key = self._desk.name([study.id])[0]
            known = self.ledger.of_keys([key])
            return known[key] if known else self._walk(study.id)
        finally:
            self._desk.clear([study.id])

    @overload
    def read_batch(self, studies: Sequence[Study], *, label: str = "") -> list[CaseRecord]: ...
    @overload
    def read_batch(
        self, studies: AsyncIterator[Study], *, label: str = ""
    ) -> AsyncIterator[CaseRecord]: ...
    @overload
    def read_batch(self, studies: Iterator[Study], *, label: str = "") -> Iterator[CaseRecord]: ...
    @overload
    def read_batch(self, studies: pd.DataFrame, *, label: str = "") -> pd.DataFrame: ...
    @overload
    def read_batch(self, studies: pa.Table, *, label: str = "") -> pa.Table: ...
    def read_batch(self, studies: Any, *, label: str = "") -> Any:
        """:meth:`read` for many.  What goes in comes out:

        - a sequence of studies: a list of records, in order;
        - an iterator or an asynchronous iterator: one of records, a few blocks under way at a
          time, in order but for cases that another process is at work on, which come later;
        - a pandas ``DataFrame`` or an Arrow ``Table`` with the columns of a manifest
          (docs/cases.md; paths relative to the working folder): the same with one row a
          case, columns as :data:`curbside.router.parts.SCHEMA`.

        Args:
            label: what the progress bar of a long sequence says; no bar without it.

        Raises:
            UserError: two studies have the same id, what is given is no study, or a table's rows
                are bad.
            StorageError: the ledger cannot be written; what it has is kept.
        """

        def flow(some: Iterable[Study]) -> Iterator[list[CaseRecord]]:
            return read(self._desk, self.ledger, self._remembered(some))

        if label and isinstance(studies, Sequence) and len(studies) >= _SHOW_FROM:
            with bar(label, len(studies)) as advance:
                return self._batch(studies, flow, advance)
        return self._batch(studies, flow)

    def desk_over(self, source: FeatureSource) -> RouterDesk:
        """A desk of its own over another source of the same encoder's features."""
        return RouterDesk(source, *self._parts, self.ledger)

    def explain(self, study: Study, record: CaseRecord) -> Explanation:
        """What in the images the reading behind a record rests on, as far as that is known.

        What the record holds; where it holds nothing (it was written before records did),
        the reader is asked.
        """
        reader = record.outcome.reader
        given = (r for r in record.responses if isinstance(r, Reading) and r.agent == reader)
        reading = next(given, None)
        if reading is None:
            return Explanation(kind="none", note="no explanation available: no model read it")
        if reading.explanation is not None:
            return reading.explanation
        agent = self._agents.get(reading.agent)
        if isinstance(agent, Explains) and reading.options:
            question = replace(study.question, options=reading.options, task=record.task)
            return agent.explain(replace(study, question=question), reading.answer)
        return Explanation(kind="none", note="no explanation available")

    def close(self) -> None:
        """Give back the connections to the stores."""
        self.ledger.close()
        if self._sources is not None:
            self._sources.close()
        self._saver.conn.close()

    def _batch(self, given: Any, flow: Flow, advance: Advance = lambda _: None) -> Any:
        if isinstance(given, AsyncIterator):
            return _asynchronous(given, flow)
        if isinstance(given, Iterator):
            return (record for block in flow(map(_study, given)) for record in block)
        if isinstance(given, Sequence):
            return _in_order([_study(s) for s in given], flow, advance)
        from curbside.router.parts import as_table, studies_of

        studies = studies_of(given)
        return as_table(_in_order(studies, flow, advance), like=given)

    def _remember(self, studies: Sequence[Study]) -> None:
        if self._sources is not None:
            self._sources.keep(studies)

    def _remembered(self, studies: Iterable[Study]) -> Iterator[Study]:
        source = iter(studies)
        while block := list(islice(source, BLOCK)):
            self._remember(block)
            yield from block

    def pending(self) -> list[CaseRecord]:
        """Cases that wait for a person, the most urgent first, whoever has routed them."""
        view = View(status=(str(Status.NEEDS_REVIEW),))
        found: list[CaseRecord] = []
        after: str | None = None
        while True:
            some = page(self.ledger, view, after=after, limit=500)
            found += [self.ledger.record(e.study, e.revision) for e in some.entries]
            after = some.after
            if after is None:
                return found

    def review(self, case: str, answer: str, *, reader: str = "person") -> CaseRecord:
        """A person's answer to a waiting case; the case ends with it.

        Raises:
            UserError: no such case waits, or the answer is none of its options.
            Conflict: another person has answered it; says who.
        """
        entry = self.ledger.get(case)
        if entry.status is not Status.NEEDS_REVIEW and entry.truth is None:
            raise UserError(
                f"case {case!r} does not wait for a person: it is {entry.status}",
                hint="curbside review list",
            )
        record = self.ledger.review(case, reader, answer=answer)
        if self._graph.get_state(_thread(case)).interrupts:
            from langgraph.types import Command

            said = {"answer": answer, "reader": reader}
            self._graph.invoke(Command(resume=said), _thread(case), durability="exit")
        self._saver.delete_thread(case)
        return record

    def _walk(self, case: str) -> CaseRecord:
        # a case that is read anew starts anew: what waited under its id is replaced
        if self._graph.get_state(_thread(case)).values:
            self._saver.delete_thread(case)
        final = self._graph.invoke({"case": case}, _thread(case), durability="exit")
        if "__interrupt__" not in final:
            self._saver.delete_thread(case)
        return CaseRecord.model_validate(final["record"])


def _say_blind(assessor: Assessor, alpha: float) -> None:
    """Say where the policy's gate cannot hold anything: records say so too, case by case."""
    calibration = assessor.calibration
    blind = calibration.blind(alpha) if calibration is not None and alpha else ()
    if calibration is not None and blind:
        needed = smallest_stratum(alpha, calibration.confidence)
        _log.warning(
            "at alpha %g no case can be called novel in the calibration strata %s: they have "
            "fewer than %d cases; add calibration cases, or set index.stratum_minimum: %d in "
            "curbside.yaml, then: curbside build",
            alpha,
            ", ".join(blind),
            needed,
            needed,
        )


def _in_order(studies: Sequence[Study], flow: Flow, advance: Advance) -> list[CaseRecord]:
    ids = [s.id for s in studies]
    if len(set(ids)) < len(ids):
        twice = next(i for i, n in Counter(ids).items() if n > 1)
        raise UserError(
            f"two studies have the id {twice!r}; ids tell cases apart",
            hint="give every study an id of its own",
        )
    found: dict[str, CaseRecord] = {}
    for block in flow(studies):
        found |= {r.case: r for r in block}
        advance(len(block))
    return [found[i] for i in ids]


def _study(given: Any) -> Study:
    if isinstance(given, Study):
        return given
    # only what it is: a name may be a patient's
    raise UserError(
        f"a batch is of studies, not of {type(given).__name__}",
        hint="make one of each file: Study.from_image(PATH) or Study.from_dicom(PATH)",
    )


async def _asynchronous(studies: AsyncIterator[Study], flow: Flow) -> AsyncIterator[CaseRecord]:
    """A block at a time in a thread, so that the event loop goes on."""
    block: list[Study] = []
    async for study in studies:
        block.append(_study(study))
        if len(block) == BLOCK:
            for record in await asyncio.to_thread(_flat, flow, block):
                yield record
            block = []
    for record in await asyncio.to_thread(_flat, flow, block):
        yield record


def _flat(flow: Flow, studies: Sequence[Study]) -> list[CaseRecord]:
    return [record for block in flow(studies) for record in block]


def _thread(case: str) -> Any:
    return {"configurable": {"thread_id": case}}
