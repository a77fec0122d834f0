"""The worker's side of the pipe: reads jobs from stdin, does them in turn, writes answers.

Started by :class:`curbside.ui.workers.Worker` as ``python -m curbside.ui.worker_process``.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

from curbside.errors import CurbsideError

__all__ = ["Handler", "main", "serve"]

#: Gets the payload and a function that reports progress (done, total); returns plain types.
Handler = Callable[[dict[str, Any], Callable[[int, int], None]], dict[str, Any]]


def serve(jobs: TextIO, answers: TextIO, handlers: Mapping[str, Handler]) -> None:
    """Do every job of a stream of JSON lines; ends with it."""

    def say(job: str, **what: Any) -> None:
        answers.write(json.dumps({"job": job, **what}) + "\n")
        answers.flush()

    for line in jobs:
        try:
            asked = json.loads(line)
            job, kind, payload = str(asked["job"]), str(asked["kind"]), dict(asked["payload"])
        except (ValueError, KeyError, TypeError):
            continue  # nobody to answer

        def progress(done: int, total: int, job: str = job) -> None:
            say(job, done=done, total=total)

        say(job, state="running")
        try:
            say(job, state="done", result=handlers[kind](payload, progress))
        except CurbsideError as e:
            say(job, state="failed", error=e.message, hint=e.hint)
        except Exception as e:
            # a library's message may hold a path or a name
            if os.environ.get("CURBSIDE_DEBUG"):
                traceback.print_exc()
            say(
                job,
                state="failed",
                error=f"{type(e).__name__} inside curbside; this is a bug",
                hint="start the console again with CURBSIDE_DEBUG=1 and report the traceback",
            )


def main() -> None:
    """Serve the console's jobs on this process's own pipes."""
    from curbside.ui.jobs import handlers

    # the pages come first on a small machine
    with suppress(OSError):
        os.nice(5)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # whatever a library prints must not end up among the answers
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers, handlers())


if __name__ == "__main__":
    main()
