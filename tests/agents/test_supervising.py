"""The supervisor over real processes: a small HTTP server that obeys files stands in for vLLM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from curbside.agents import supervising
from curbside.agents.serving import ServeCommand
from curbside.agents.supervising import supervise
from curbside.errors import AgentUnavailable, UserError

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

#: Starts an "engine" of its own as vLLM does, writes both ids down, then answers /health.
SERVER = """
import http.server, os, signal, subprocess, sys, time
folder, name, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("hello of", name, flush=True)
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
with open(f"{folder}/{name}.ids", "a") as f:
    f.write(f"{os.getpid()} {engine.pid}\\n")
if os.path.exists(f"{folder}/{name}.breaks"):
    print("(Worker pid=7) ERROR 11-27 12:00 [x.py:9] \\x1b[31mlib.HeaderError: no header\\x1b[0m")
    print("Exception: WorkerProc failed")
    sys.exit(3)
if os.path.exists(f"{folder}/{name}.deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    def leave(*_):
        print("ended by itself", flush=True)
        os._exit(0)
    signal.signal(signal.SIGTERM, leave)
while os.path.exists(f"{folder}/{name}.loads"):
    time.sleep(0.02)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Stand:
    """Fake servers in a folder, a supervisor in a thread, and what it said."""

    folder: Path
    said: list[str] = field(default_factory=list)
    error: list[Exception] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def command(self, name: str, gpu: str = "", key: str = "") -> ServeCommand:
        environment: Mapping[str, str] = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        port = free_port()
        arguments = (sys.executable, "-c", SERVER, str(self.folder), name, str(port))
        return ServeCommand(
            name, arguments, environment, key, "http", "127.0.0.1", port, "m", {}, 8
        )

    def mark(self, name: str) -> Path:
        path = self.folder / name
        path.touch()
        return path

    def ids(self, name: str) -> list[tuple[int, int]]:
        """Process ids of a server and its engine, one pair a start."""
        lines = (self.folder / f"{name}.ids").read_text().splitlines()
        return [(int(a), int(b)) for a, b in (x.split() for x in lines)]

    def run(self, *commands: ServeCommand) -> threading.Thread:
        def work() -> None:
            try:
                logs = self.folder / "logs"
                supervise(commands, logs, say=self.said.append, wait=0.02, stop=self.stop)
            except Exception as e:
                self.error.append(e)

        self.thread = threading.Thread(target=work)
        self.thread.start()
        return self.thread

    def until(self, there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not there():
            assert time.monotonic() < deadline, f"{what} did not happen; said: {self.said}"
            time.sleep(0.01)

    def heard(self, part: str, times: int = 1) -> None:
        self.until(lambda: sum(part in s for s in self.said) >= times, f"{part!r} x{times}")

    def gone(self, *ids: int) -> None:
        self.until(lambda: not any(map(alive, ids)), f"the end of {ids}")


def alive(process: int) -> bool:
    """Whether it runs; a process that has ended and that nobody waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self").exists()
    return state != "Z"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.stop.set()
    if made.thread:
        made.thread.join(60)
    for path in tmp_path.glob("*.ids"):
        for pair in made.ids(path.stem):
            for process in pair:
                if alive(process):
                    os.kill(process, signal.SIGKILL)


def test_a_killed_server_is_started_again_and_its_engine_does_not_outlive_it(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = stand.command("e")
    thread = stand.run(command)
    stand.heard("e answers at 127.0.0.1:")
    server, engine = stand.ids("e")[0]
    os.kill(server, signal.SIGKILL)
    stand.heard("e answers", 2)
    stand.gone(server, engine)
    assert any(
        s.startswith("e was killed by SIGKILL; its log says:\n  hello of e") for s in stand.said
    )
    assert len(stand.ids("e")) == 2 and all(map(alive, stand.ids("e")[1]))
    assert thread.is_alive() and not stand.error


def test_what_never_loads_is_given_up_after_two_starts_with_the_cause(stand: Stand) -> None:
    stand.mark("e.breaks")
    stand.run(stand.command("e")).join(30)
    (error,) = stand.error
    assert isinstance(error, AgentUnavailable)
    said = "endpoint e died 2 times in a row and never answered: lib.HeaderError: no header"
    assert error.message == said and str(stand.folder / "logs") in error.hint
    assert (
        "e ended with 3; its log says:\n  lib.HeaderError: no header\n  Exception: Worker"
        in "\n".join(stand.said)
    )
    assert (stand.folder / "logs" / "e.log").read_text().count("hello of e") == 2
    stand.gone(*(i for pair in stand.ids("e") for i in pair))


def test_one_that_has_answered_is_given_more_starts(stand: Stand) -> None:
    thread = stand.run(stand.command("e"))
    stand.heard("e answers")
    stand.mark("e.breaks")
    os.kill(stand.ids("e")[0][0], signal.SIGKILL)
    thread.join(30)
    assert stand.error and "died 5 times in a row: " in str(stand.error[0])
    assert len(stand.ids("e")) == 5


def test_a_steady_server_begins_anew(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "STEADY_SECONDS", 0.0)
    stand.run(stand.command("e"))
    for n in range(1, 8):
        stand.heard("e answers", n)
        os.kill(stand.ids("e")[-1][0], signal.SIGKILL)
    stand.heard("e answers", 8)
    assert not stand.error


def test_one_that_is_given_up_leaves_the_others_up(stand: Stand) -> None:
    stand.mark("bad.breaks")
    thread = stand.run(stand.command("bad", "0"), stand.command("good", "1"))
    stand.heard("bad is given up")
    stand.heard("good answers")
    assert thread.is_alive() and not stand.error
    assert len(stand.ids("good")) == 1


def test_servers_of_one_gpu_start_one_after_the_other(stand: Stand) -> None:
    gate = stand.mark("a.loads")
    stand.run(stand.command("a", "0"), stand.command("b", "0"), stand.command("c", "1"))
    stand.heard("c answers")
    assert not (stand.folder / "b.ids").exists()
    gate.unlink()
    stand.heard("b answers")
    order = [s.split()[0] for s in stand.said if "answers" in s or s.startswith("b started")]
    assert order.index("a") < order.index("b")


def test_a_server_that_is_loading_is_mentioned(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "_PATIENT_SECONDS", 0.1)
    stand.mark("e.loads")
    stand.run(stand.command("e"))
    stand.heard("e is loading, 0 s; log: ", 2)
    assert not any("answers" in s for s in stand.said)


def test_servers_end_with_their_supervisor(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "GRACE_SECONDS", 0.3)
    stand.mark("deaf.deaf")
    thread = stand.run(stand.command("kind", "0"), stand.command("deaf", "1"))
    for name in ("kind", "deaf"):
        stand.heard(f"{name} answers")
    stand.stop.set()
    thread.join(30)
    assert not stand.error
    assert stand.said[-2:] == ["kind ended with 0", "deaf was killed by SIGKILL"]
    assert "ended by itself" in (stand.folder / "logs" / "kind.log").read_text()
    stand.gone(*stand.ids("kind")[0], *stand.ids("deaf")[0])


def test_a_key_reaches_the_server_and_no_log(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-9")
    stand.run(stand.command("e", key="MY_KEY"))
    stand.heard("e answers")
    own = Path(f"/proc/{stand.ids('e')[0][0]}/environ")
    if own.exists():
        assert b"VLLM_API_KEY=secret-9" in own.read_bytes()
    assert "secret" not in "".join(stand.said) + (stand.folder / "logs" / "e.log").read_text()


def test_nothing_is_started_where_one_cannot_be(stand: Stand) -> None:
    free, taken = stand.command("free"), stand.command("taken")
    with socket.socket() as s:
        s.bind(("127.0.0.1", taken.port))
        s.listen()
        stand.run(free, taken).join(30)
    (error,) = stand.error
    assert isinstance(error, UserError) and "endpoint taken" in error.message
    assert not stand.said and not (stand.folder / "free.ids").exists()


# -- signals: the supervisor in a process of its own -----------------------------------------------

PROGRAM = """
import signal, sys
for name in (signal.SIGINT, signal.SIGHUP):  # which whoever runs these tests may ignore
    signal.signal(name, signal.SIG_IGN if name == {ignored} else signal.SIG_DFL)
sys.path[:0] = {path!r}
from pathlib import Path
from test_supervising import Stand
from curbside.agents.supervising import supervise
stand = Stand(Path({folder!r}))
def say(line):
    print(line, flush=True)
supervise([stand.command("e")], stand.folder / "logs", say=say, wait=0.02)
print("returned", flush=True)
"""


def supervisor(stand: Stand, ignored: int = 0) -> subprocess.Popen[str]:
    path = [str(Path(__file__).parent), *sys.path]
    program = PROGRAM.format(path=path, folder=str(stand.folder), ignored=ignored)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        stand.said.append(line)
        if "answers" in line:
            return process
    raise AssertionError(stand.said)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_servers_and_engines_and_then_the_supervisor(
    stand: Stand, told: signal.Signals
) -> None:
    process = supervisor(stand)
    process.send_signal(told)
    rest, _ = process.communicate(timeout=30)
    assert rest == "e ended with 0\nreturned\n" and process.returncode == 0
    stand.gone(*stand.ids("e")[0])


def test_what_nohup_ignores_stays_ignored(stand: Stand) -> None:
    process = supervisor(stand, ignored=signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert rest.endswith("returned\n")


def test_a_second_signal_does_not_wait_for_a_server_that_will_not_end(stand: Stand) -> None:
    stand.mark("e.deaf")
    process = supervisor(stand)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=10)
    assert "e was killed by SIGKILL" in rest and process.returncode == 0
    stand.gone(*stand.ids("e")[0])
