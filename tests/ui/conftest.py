"""A small home to look at: a real index, a fleet's own file, and a ledger of every status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "router"))

from tests_router_world import TASKS, World, make_world, picture, strange
from tests_ui_browser import browser, console, phantom_home, watched  # noqa: F401  fixtures

from curbside.config import Config, save_config
from curbside.router.ledger import Ledger, open_ledger
from curbside.router.versions import CASES_FILE, VersionFacts, VersionStore
from curbside.storage import write_bytes, write_text
from curbside.study import Question, Study
from curbside.ui.workers import Worker


class FakeWorker(Worker):
    """Keeps jobs and does none; a test says what became of them."""

    def __init__(self) -> None:
        super().__init__(("false",))
        self.handed: list[tuple[str, dict[str, Any]]] = []

    def submit(self, kind: str, title: str, **payload: Any) -> str:
        from curbside.ui.workers import Job

        self.handed.append((kind, payload))
        job = Job(f"job-{len(self.handed)}", kind, title)
        self._jobs[job.id] = job
        return job.id

    def end(self, job: str, **changes: Any) -> None:
        self._set(job, **changes)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world({"specialist-ct": lambda q: None})


@pytest.fixture
def home(curbside_home: Path, world: World) -> Path:
    """Six cases: two answered, two unlike any, one without an answer, one cut image."""
    config = Config(policy=world.config.policy)
    save_config(config, curbside_home / "curbside.yaml")
    store = VersionStore(curbside_home / config.stores.index)
    facts = VersionFacts(name="v1", parent=None, made_of="m", fleet="f", cases={"train": 84})
    with store.adding(facts) as folder:
        world.assessor.save(folder / "index")
        write_text(folder / CASES_FILE, "")
    store.serve("v1", "build")
    fleet = {
        "format": 2,
        "trunk": "t",
        "agents": [
            {"name": n, "folder": n, "sha256": "0", "modality": m}
            for n, m in (("specialist-xray", "xray"), ("specialist-ct", "ct"), ("generalist", None))
        ],
        "generalist": "generalist",
        "tasks": TASKS,
        "tasks_of": {},
    }
    write_text(curbside_home / config.stores.fleet / "fleet.json", json.dumps(fleet))
    raws = {
        "study-xray": picture("xray", 0, 5000),
        "study-ct": picture("ct", 1, 5001),
        "study-strange": strange(1),
        "study-stranger": strange(2),
        "study-skin": picture("photo", 0, 5002),
        "study-cut": picture("xray", 0, 5003)[:60],
    }
    tasks = {"study-xray": "bones", "study-ct": "lungs", "study-skin": "skin"}
    now = datetime.now(UTC)
    studies = []
    for i, (name, raw) in enumerate(raws.items()):
        path = curbside_home / "images" / f"{name}.png"
        write_bytes(path, raw)
        task = tasks.get(name, "bones")
        study = Study.from_image(path, id=name, question=Question(options=TASKS[task], task=task))
        studies.append(replace(study, received_at=now - timedelta(minutes=50 * i)))
    router = world.router(curbside_home)
    router.read_batch(studies)
    router.close()
    return curbside_home


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    book = open_ledger(home, "ledger.sqlite")
    yield book
    book.close()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """The worker that pages hand jobs to."""
    fake = FakeWorker()
    for module in ("serving", "views.case_ask", "views.fleet", "views.upload"):
        monkeypatch.setattr(f"curbside.ui.{module}.worker", lambda: fake)
    return fake


Opened = Callable[..., AppTest]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Runs the console with one page in front; ``reader`` is who acts, ``blind`` blind first."""

    def run(
        page: str, *, reader: str = "", blind: bool = False, **params: str | list[str]
    ) -> AppTest:
        monkeypatch.setenv("CURBSIDE_READER", reader)
        monkeypatch.setenv("CURBSIDE_DEBUG", "1")
        # AppTest signs everybody in as itself
        monkeypatch.setattr("curbside.ui.session.signed_in", lambda: "")
        app = AppTest.from_string(f"from curbside.ui.app import main\nmain({page!r})")
        app.default_timeout = 30
        if blind:
            app.session_state["cb_blind"] = True
        for name, value in params.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    yield run
    st.cache_data.clear()
    st.cache_resource.clear()
