"""The Python API: open what was built, decide and read studies, answer what waits for a person.

``decide`` says whom the policy would ask and calls no agent; ``read`` runs the whole graph.
The batch forms compute features, assessments and readings for many studies at once and then
walk the same graph, so a study gets the same record either way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from curbside import __version__
from curbside.config import Config, PolicyConfig, load_config, model_digest
from curbside.errors import StorageError, UserError
from curbside.home import home as default_home
from curbside.progress import bar
from curbside.readings import CaseRecord, Versions
from curbside.router.desk import RouterDesk
from curbside.router.explain import Serving
from curbside.router.graph import build_graph
from curbside.router.workspace import Workspace
from curbside.study import Study

__all__ = ["Router"]

_BLOCK = 256
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
        serving = Serving(
            policy or workspace.config.policy,
            fleet.serving,
            fleet.generalist,
            {name: agent.card.cost for name, agent in agents.items()},
        )
        versions = Versions(
            code=__version__,
            encoder=workspace.source.fingerprint,
            index=assessor.index_digest,
            calibration=assessor.calibration_digest,
            policy=model_digest(serving.config),
            fleet=fleet.fingerprint,
        )
        self.tasks = fleet.tasks
        self._desk = RouterDesk(
            workspace.source,
            assessor,
            agents,
            serving,
            fleet.tasks,
            fleet.tasks_of,
            versions,
        )
        self._saver = _open_checkpoints(workspace.home / workspace.config.stores.checkpoints)
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
        """Whom the policy would ask, and why; no agent is called."""
        return self.decide_batch([study])[0]

    def decide_batch(self, studies: Sequence[Study]) -> list[CaseRecord]:
        """:meth:`decide` for many; one record a study, in order."""
        records = []
        for start in range(0, len(studies), _BLOCK):
            block = studies[start : start + _BLOCK]
            cases = [s.id for s in block]
            try:
                self._desk.take_in(block)
                self._desk.prepare(cases)
                records += [self._desk.plan(c) for c in cases]
            finally:
                self._desk.clear(cases)
        return records

    def read(self, study: Study) -> CaseRecord:
        """Run the graph on one study.  A case that needs a person waits in :meth:`pending`."""
        try:
            self._desk.take_in([study])
            return self._walk(study.id)
        finally:
            self._desk.clear([study.id])

    def read_batch(self, studies: Sequence[Study], *, label: str = "") -> list[CaseRecord]:
        """:meth:`read` for many; one record a study, in order.

        Args:
            label: what the progress bar of a long batch says; no bar without it.
        """
        ids = [s.id for s in studies]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserError(
                f"two studies have the id {twice!r}; ids tell cases apart",
                hint="give every study an id of its own",
            )
        if label and len(studies) >= _SHOW_FROM:
            with bar(label, len(studies)) as advance:
                return self._read_blocks(studies, advance)
        return self._read_blocks(studies, lambda _: None)

    def _read_blocks(self, studies: Sequence[Study], advance: Any) -> list[CaseRecord]:
        records = []
        for start in range(0, len(studies), _BLOCK):
            block = studies[start : start + _BLOCK]
            cases = [s.id for s in block]
            try:
                self._desk.take_in(block)
                self._desk.prepare(cases)
                self._desk.read_ahead(cases)
                for case in cases:
                    records.append(self._walk(case))
                    advance(1)
            finally:
                self._desk.clear(cases)
        return records

    def pending(self) -> list[CaseRecord]:
        """Cases that wait for a person, of this and of earlier processes."""
        threads = sorted({c.config["configurable"]["thread_id"] for c in self._saver.list(None)})
        waiting = []
        for thread in threads:
            state = self._graph.get_state(_thread(thread))
            if state.interrupts and state.values.get("record"):
                waiting.append(CaseRecord.model_validate(state.values["record"]))
        return waiting

    def review(self, case: str, answer: str, *, reader: str = "person") -> CaseRecord:
        """A person's answer to a waiting case; the case ends with it.

        Raises:
            UserError: no such case waits, or the answer is none of its options.
        """
        state = self._graph.get_state(_thread(case))
        if not state.interrupts:
            waiting = [r.case for r in self.pending()][:10]
            raise UserError(
                f"case {case!r} does not wait for a person; waiting: {', '.join(waiting) or 'none'}"
            )
        options = state.values["question"]["options"]
        if options and answer not in options:
            raise UserError(f"{answer!r} is none of the options: {', '.join(options)}")
        from langgraph.types import Command

        final = self._graph.invoke(
            Command(resume={"answer": answer, "reader": reader}),
            _thread(case),
            durability="exit",
        )
        self._saver.delete_thread(case)
        return CaseRecord.model_validate(final["record"])

    def _walk(self, case: str) -> CaseRecord:
        # a case that is read anew starts anew: what waited under its id is replaced
        if self._graph.get_state(_thread(case)).values:
            self._saver.delete_thread(case)
        final = self._graph.invoke({"case": case}, _thread(case), durability="exit")
        if "__interrupt__" not in final:
            self._saver.delete_thread(case)
        return CaseRecord.model_validate(final["record"])


def _thread(case: str) -> Any:
    return {"configurable": {"thread_id": case}}


def _open_checkpoints(path: Path) -> Any:
    from langgraph.checkpoint.sqlite import SqliteSaver

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, check_same_thread=False)
        saver = SqliteSaver(connection)
        saver.setup()
        # the journal survives a killed process either way; a power cut may lose the last case
        connection.execute("PRAGMA synchronous=NORMAL")
    except (sqlite3.Error, OSError) as e:
        raise StorageError(
            f"the store of waiting cases {path} cannot be opened: {e}",
            hint="move it away, or set stores.checkpoints in curbside.yaml",
        ) from e
    return saver
