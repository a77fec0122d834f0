"""The worker: jobs go through a real process, one that dies fails its jobs and starts again."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest

from curbside.errors import StorageError
from curbside.ui.worker_process import serve
from curbside.ui.workers import Worker

CHILD = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    def say(**what):
        print(json.dumps({"job": asked["job"], **what}), flush=True)
    print("a library prints this", flush=True)
    say(state="running")
    if asked["kind"] == "die":
        sys.exit(3)
    say(done=1, total=2)
    say(state="done", result=asked["payload"])
"""


def until(condition, seconds=20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the worker did not get there"
        time.sleep(0.01)


@pytest.fixture
def worker():
    made = Worker((sys.executable, "-c", CHILD))
    yield made
    made.close()


def test_a_job_is_handed_in_and_comes_back(worker):
    job = worker.submit("echo", "an echo", words=["a"])
    until(lambda: worker.get(job).ended)
    done = worker.get(job)
    assert (done.state, done.result, done.done, done.total) == ("done", {"words": ["a"]}, 1, 2)
    assert worker.jobs("echo") == [done] and not worker.jobs("other")


def test_a_worker_that_dies_fails_what_it_held_and_the_next_job_starts_another(worker):
    first = worker.submit("die", "the last of it")
    until(lambda: worker.get(first).ended)
    assert worker.get(first).state == "failed" and "stopped" in worker.get(first).error
    until(lambda: worker._process.poll() is not None)
    second = worker.submit("echo", "again")
    until(lambda: worker.get(second).ended)
    assert worker.get(second).state == "done"


def test_a_worker_that_cannot_start_fails_the_job(tmp_path):
    worker = Worker((str(tmp_path / "nothing"),))
    job = worker.get(worker.submit("echo", "an echo"))
    assert job.state == "failed" and "cannot start" in job.error
    assert str(tmp_path) not in job.error


def test_only_so_many_ended_jobs_are_remembered(worker, monkeypatch):
    monkeypatch.setattr("curbside.ui.workers._KEPT", 2)
    for i in range(5):
        job = worker.submit("echo", str(i))
        until(lambda job=job: worker.get(job).ended)
    assert len(worker.jobs()) == 3


def served(lines: list[str], handlers) -> list[dict]:
    answers = io.StringIO()
    serve(io.StringIO("\n".join(lines) + "\n"), answers, handlers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def asked(kind: str, **payload) -> str:
    return json.dumps({"job": "1", "kind": kind, "payload": payload})


def test_the_process_answers_each_job_and_ignores_noise():
    def double(payload, progress):
        progress(1, 2)
        return {"n": 2 * payload["n"]}

    said = served(["noise", "{}", asked("double", n=4)], {"double": double})
    assert said == [
        {"job": "1", "state": "running"},
        {"job": "1", "done": 1, "total": 2},
        {"job": "1", "state": "done", "result": {"n": 8}},
    ]


def test_errors_go_back_in_words_and_bugs_without_their_message():
    def full(payload, progress):
        raise StorageError("the disk is full", hint="free some space")

    def bug(payload, progress):
        raise ValueError("/home/Doe^John.dcm")

    handlers = {"full": full, "bug": bug}
    said = served([asked("full"), asked("bug"), asked("unknown")], handlers)
    failed = [s for s in said if s.get("state") == "failed"]
    assert failed[0]["error"] == "the disk is full" and failed[0]["hint"] == "free some space"
    assert "ValueError" in failed[1]["error"] and "Doe" not in json.dumps(failed[1])
    assert "KeyError" in failed[2]["error"]


def test_the_real_process_starts_and_fails_in_words_where_nothing_is_built(curbside_home: Path):
    worker = Worker()
    try:
        job = worker.submit("map", "Map of the index")
        until(lambda: worker.get(job).ended, 60)
        assert worker.get(job).state == "failed"
        assert "curbside" in worker.get(job).hint
    finally:
        worker.close()
