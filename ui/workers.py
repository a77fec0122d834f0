"""The console's worker: one process of its own that holds the models, behind a queue.

A rerun of a page never infers: it hands a job in, and a fragment polls what became of it.
The process is started by the first job, so that the first paint waits for no model; a worker
that dies fails the jobs it held, in words, and the next job starts another.  Jobs and answers
are JSON lines over pipes; pixels stay in files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

__all__ = ["Job", "State", "Worker"]

State = Literal["waiting", "running", "done", "failed"]
_COMMAND = (sys.executable, "-m", "curbside.ui.worker_process")
#: Ended jobs that are remembered.
_KEPT = 200


@dataclass(frozen=True)
class Job:
    """One job and what became of it.

    Args:
        done, total: progress, where the job reports it.
        result: plain JSON types, once done.
        error, hint: in words, once failed; they name no path and no person.
    """

    id: str
    kind: str
    title: str
    state: State = "waiting"
    done: int = 0
    total: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    hint: str = ""
    since: float = field(default_factory=time.time)

    @property
    def ended(self) -> bool:
        """Done or failed."""
        return self.state in ("done", "failed")


class Worker:
    """Hands jobs to the process and keeps what it says of them; safe to use from any thread.

    Args:
        command: the process to start; it reads jobs and writes answers as JSON lines.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = tuple(command)
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._process: subprocess.Popen[str] | None = None

    def submit(self, kind: str, title: str, **payload: Any) -> str:
        """Hand a job in; returns its id at once."""
        job = Job(uuid.uuid4().hex[:12], kind, title)
        line = json.dumps({"job": job.id, "kind": kind, "payload": payload}) + "\n"
        with self._lock:
            self._jobs[job.id] = job
            self._forget()
            try:
                process = self._running()
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
            except OSError as e:
                self._set(job.id, state="failed", error=f"the worker cannot start ({e.strerror})")
        return job.id

    def get(self, job: str) -> Job | None:
        """A job by id; None where it is not remembered."""
        with self._lock:
            return self._jobs.get(job)

    def jobs(self, kind: str | None = None) -> list[Job]:
        """Jobs, newest first."""
        with self._lock:
            found = [j for j in self._jobs.values() if kind is None or j.kind == kind]
        return sorted(found, key=lambda j: -j.since)

    def close(self) -> None:
        """End the process; what it still held fails."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            listen = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
            listen.start()
        return self._process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                said = json.loads(line)
                self._set(str(said.pop("job")), **said)
            except (ValueError, TypeError, KeyError):
                continue  # not a line of ours
        process.wait()
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()
        with self._lock:
            if self._process is process or self._process is None:
                for job in list(self._jobs.values()):
                    if not job.ended:
                        self._set(
                            job.id,
                            state="failed",
                            error="the worker stopped before this was done",
                            hint="hand it in again; what was finished is in the ledger",
                        )

    def _set(self, job: str, **changes: Any) -> None:
        with self._lock:
            if job in self._jobs:
                self._jobs[job] = replace(self._jobs[job], **changes)

    def _forget(self) -> None:
        ended = sorted((j for j in self._jobs.values() if j.ended), key=lambda j: j.since)
        for job in ended[: max(0, len(ended) - _KEPT)]:
            del self._jobs[job.id]
