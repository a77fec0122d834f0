"""Keeps servers up: starts them, says when they answer, starts again what dies, ends them all.

Each server leads a process group of its own, so that what it started goes with it: an engine
that outlives its server would keep the memory of the card.  Knows commands, no models.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from curbside.agents.serving import ServeCommand, check_ready
from curbside.errors import AgentUnavailable

__all__ = ["supervise"]

#: Deaths in a row after which a server that has answered before is given up ...
MOST_DEATHS = 5
#: ... and one that never has: what does not load once will not the next time either.
MOST_FIRST_DEATHS = 2
#: A server that answered for so long has begun anew: earlier deaths are forgotten.
STEADY_SECONDS = 60.0
#: What a server gets to end by itself.
GRACE_SECONDS = 20.0
#: How often a server that is still loading is mentioned.
_PATIENT_SECONDS = 60.0
#: Bytes at the end of a log in which the reason of a death is looked for.
_END_BYTES = 1 << 16
#: The last line of a traceback, alone or behind vLLM's "(EngineCore pid=7) ERROR ...] ".
_RAISED = re.compile(r"^(?:\([^)]*\) ERROR [^\]]*\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$")


def supervise(
    commands: Sequence[ServeCommand],
    logs: Path,
    *,
    say: Callable[[str], None],
    wait: float = 1.0,
    stop: threading.Event | None = None,
) -> None:
    """Start servers, start again those that die, and end all of them on the way out.

    Ends when interrupted, ended or hung up (SIGINT, SIGTERM, SIGHUP; a second one does not
    wait for servers to end by themselves).  Servers of one GPU start one after the other:
    each measures the memory that is left.  One that is given up leaves the others up.

    Args:
        logs: folder for one log file a server.
        wait: seconds between looks; the least between a death and the next start.
        stop: ends it as a signal would.

    Raises:
        UserError, ConfigError: as :func:`curbside.agents.serving.check_ready`.
        AgentUnavailable: a server was given up; raised when none is left, or at the end.
    """
    check_ready(commands)
    logs.mkdir(parents=True, exist_ok=True)
    servers = [_Server(c, logs / f"{c.endpoint}.log", say, wait) for c in commands]
    stop, at_once = stop or threading.Event(), threading.Event()
    with _signals(stop, at_once):
        try:
            while not stop.is_set() and not all(s.given_up for s in servers):
                starting = {s.gpu for s in servers if s.loading}
                for server in servers:
                    server.look(starting)
                stop.wait(wait)
        finally:
            _end(servers, at_once)
    lost = [s.given_up for s in servers if s.given_up]
    if lost:
        raise AgentUnavailable("; ".join(lost), hint=f"read the logs in {logs}")


class _Server:
    """One server through its starts and deaths."""

    def __init__(
        self, command: ServeCommand, log: Path, say: Callable[[str], None], wait: float
    ) -> None:
        self.command, self.log, self.say, self.wait = command, log, say, wait
        self.name = command.endpoint
        self.gpu = command.environment.get("CUDA_VISIBLE_DEVICES", "")
        self.process: subprocess.Popen[bytes] | None = None
        self.given_up = ""
        self.deaths = 0
        self.ever_answered = False
        self._answered: float | None = None
        self._due = self._started = self._mentioned = 0.0
        self._from = 0

    @property
    def loading(self) -> bool:
        """Whether it runs and does not answer yet."""
        return self.process is not None and self._answered is None

    def look(self, starting: set[str]) -> None:
        """Start it, see whether it answers, or see that it died.

        Args:
            starting: GPUs on which a server is loading; its own is added when it starts.
        """
        now = time.monotonic()
        if self.given_up:
            return
        if self.process is None:
            if now >= self._due and self.gpu not in starting:
                self._start(now)
                starting.add(self.gpu)
        elif self.process.poll() is not None:
            self._died(now, self.process)
        elif self._answered is None:
            if _answers(self.command):
                self._answered, self.ever_answered = now, True
                where = f"{self.command.host}:{self.command.port}"
                self.say(f"{self.name} answers at {where} after {now - self._started:.0f} s")
            elif now - self._mentioned >= _PATIENT_SECONDS:
                self._mentioned = now
                self.say(f"{self.name} is loading, {now - self._started:.0f} s; log: {self.log}")

    def _start(self, now: float) -> None:
        environment = os.environ | dict(self.command.environment)
        if self.command.key_variable:
            environment["VLLM_API_KEY"] = os.environ[self.command.key_variable]
        with self.log.open("ab") as out:
            self._from = out.tell()
            self.process = subprocess.Popen(
                self.command.arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._started = self._mentioned = now
        self._answered = None
        self.say(f"{self.name} started (process {self.process.pid}); log: {self.log}")

    def _died(self, now: float, process: subprocess.Popen[bytes]) -> None:
        _kill_group(process)
        steady = self._answered is not None and now - self._answered >= STEADY_SECONDS
        self.deaths = 1 if steady else self.deaths + 1
        self.process = self._answered = None
        self._due = now + self.wait * 2 ** (self.deaths - 1)
        why = f"{self.name} {_ending(process.returncode)}"
        reasons = _reasons(self.log, self._from)
        self.say("\n".join([f"{why}; its log says:", *(f"  {r}" for r in reasons)]))
        if self.deaths >= (MOST_DEATHS if self.ever_answered else MOST_FIRST_DEATHS):
            never = "" if self.ever_answered else " and never answered"
            last = f": {reasons[0]}" if reasons else ""
            self.given_up = f"endpoint {self.name} died {self.deaths} times in a row{never}{last}"
            self.say(f"{self.name} is given up")


def _answers(command: ServeCommand) -> bool:
    """Whether ``/health`` says 200; nothing secret is sent, so no certificate is looked at."""
    connection: http.client.HTTPConnection
    if command.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            command.host, command.port, timeout=2, context=context
        )
    else:
        connection = http.client.HTTPConnection(command.host, command.port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _ending(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with {code}"


def _reasons(log: Path, start: int) -> list[str]:
    """What was raised in a log since byte ``start``, the cause first; else its last lines."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _END_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [x for x in map(_plain, text.splitlines()) if x]
    raised = [found[1] for x in lines if (found := _RAISED.match(x))]
    return list(dict.fromkeys(raised))[:3] or lines[-5:]


def _plain(line: str) -> str:
    """Without colours and control characters, at most 300 characters."""
    line = re.sub(r"\x1b\[[0-9;]*m", "", line)
    return "".join(c for c in line if c.isprintable()).rstrip()[:300]


@contextmanager
def _signals(stop: threading.Event, at_once: threading.Event) -> Iterator[None]:
    """Signals set ``stop`` instead of ending this process, and then ``at_once``.

    A signal that is ignored stays so (nohup), and outside of the main thread none is heard.
    """

    def hear(_signal: int, _frame: FrameType | None) -> None:
        (at_once if stop.is_set() else stop).set()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is not signal.SIG_IGN:
                before[name] = signal.signal(name, hear)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _end(servers: Sequence[_Server], at_once: threading.Event) -> None:
    """Ask servers to end, and end what has not after a while, engines and all."""
    running = [(s, s.process) for s in servers if s.process is not None]
    for _, process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    while any(p.poll() is None for _, p in running):
        if time.monotonic() >= deadline or at_once.is_set():
            break
        time.sleep(0.05)
    for server, process in running:
        _kill_group(process)
        process.wait()
        server.say(f"{server.name} {_ending(process.returncode)}")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
