"""Decoding in other processes, so that a file which kills a decoder kills no service.

A few workers (``curbside.decoding_worker``), started when first needed and kept.  Each has a
limit on memory that the system holds it to and each request a limit on time, after which its
worker is killed; the next request gets a new one.  What crosses the pipe is JSON and raw
bytes, never pickle: a worker that was taken over cannot make this process run anything.
"""

from __future__ import annotations

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from curbside.errors import ImageError
from curbside.windows import Window, window_values

__all__ = [
    "MEMORY",
    "SECONDS",
    "WORKERS",
    "header",
    "picture",
    "pixels",
    "receive",
    "send",
    "values",
]

#: Memory that a worker may take over what it has after its start, bytes.
MEMORY = 900 * 2**20
#: Longest time for one request, seconds.
SECONDS = 20.0
#: Most workers at a time.
WORKERS = max(1, min(4, os.cpu_count() or 1))
_SIZES = struct.Struct("<IQ")

Answer = tuple[dict[str, Any], bytes]


def header(source: Path | bytes, allowed_tags: Sequence[str]) -> dict[str, Any]:
    """What a DICOM object says of itself, as :class:`curbside.dicom.Header`'s fields.

    Raises:
        ImageError: nothing can be known of it.
    """
    if isinstance(source, bytes):
        return _ask({"do": "header", "tags": list(allowed_tags)}, source)[0]
    # surrogates: a file's name need not be text
    path = os.fsencode(source.absolute()).hex()
    return _ask({"do": "header", "tags": list(allowed_tags), "path": path})[0]


def pixels(raw: bytes, frame: int | None, window: Window) -> NDArray[np.uint8]:
    """One frame of a DICOM object as uint8 (height, width, 3).  Raises ImageError."""
    at = None if window is None else window_values(window)
    named = isinstance(window, str)
    return _array(_ask({"do": "pixels", "frame": frame, "window": at, "named": named}, raw))


def values(raw: bytes, frame: int | None) -> NDArray[np.float32]:
    """One grey frame in the modality's units as float32 (height, width).  Raises ImageError."""
    return _array(_ask({"do": "values", "frame": frame}, raw))


def picture(raw: bytes) -> NDArray[np.uint8]:
    """An image that is no DICOM object as uint8 (height, width, 3).  Raises ImageError."""
    return _array(_ask({"do": "picture"}, raw))


def send(stream: IO[bytes], message: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message: two lengths, JSON, raw bytes."""
    text = json.dumps(message).encode()
    stream.write(_SIZES.pack(len(text), len(payload)))
    stream.write(text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> Answer:
    """Read one message.  Raises EOFError where the other side is gone."""
    text, payload = _SIZES.unpack(_exactly(stream, _SIZES.size))
    return json.loads(_exactly(stream, text)), _exactly(stream, payload)


def _exactly(stream: IO[bytes], n: int) -> bytes:
    found = stream.read(n)
    if len(found) < n:
        raise EOFError
    return found


def _array(answer: Answer) -> NDArray[Any]:
    said, raw = answer
    return np.frombuffer(raw, np.dtype(said["dtype"])).reshape(said["shape"])


class _Worker:
    """One process and its pipes."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "curbside.decoding_worker", str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # libraries write there what a file says
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one, "PYTHONPATH": path},
        )
        self.served = 0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], payload: bytes, seconds: float) -> Answer:
        """One exchange.  Raises ImageError ``timeout`` or ``crashed``; the worker is gone then."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        try:
            send(self._process.stdin, request, payload)
            answer = receive(self._process.stdout)
        except (OSError, EOFError, ValueError):
            self.close()
            if late.is_set():
                raise ImageError(
                    "timeout", f"decoding was stopped after {seconds:g} seconds"
                ) from None
            raise ImageError("crashed", "the decoder died of this file") from None
        finally:
            timer.cancel()
        self.served += 1
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # what was not flushed has no reader any more
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


class _Pool:
    """Workers that wait, and a slot for each that may run; for one process, not its forks."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._slots = threading.BoundedSemaphore(WORKERS)
        self._idle: list[_Worker] = []

    def ask(self, request: Mapping[str, Any], payload: bytes) -> Answer:
        with self._slots:
            try:
                return self._once(request, payload)
            except ImageError as e:
                # a worker that is full of what came before, or was killed from outside, says
                # nothing about this file: a fresh one does
                if e.reason not in ("crashed", "out_of_memory"):
                    raise
                self.close_idle()
                return self._once(request, payload)

    def _once(self, request: Mapping[str, Any], payload: bytes) -> Answer:
        worker = self._take()
        answer, raw = worker.ask(request, payload, SECONDS)
        problem = answer.get("problem")
        if problem and problem[0] == "out_of_memory":
            worker.close()
        else:
            self._idle.append(worker)
        if problem:
            raise ImageError(*problem)
        return answer, raw

    def _take(self) -> _Worker:
        for worker in self._waiting():
            if worker.alive:
                return worker
            worker.close()
        return _Worker()

    def _waiting(self) -> Iterator[_Worker]:
        # several threads take from the list, which may be empty by the time of the look
        with suppress(IndexError):
            while True:
                yield self._idle.pop()

    def close_idle(self) -> None:
        for worker in self._waiting():
            worker.close()


_pool: _Pool | None = None
_making = threading.Lock()


def _ask(request: Mapping[str, Any], payload: bytes = b"") -> Answer:
    global _pool
    with _making:
        # after a fork the parent's pipes are not ours to use
        if _pool is None or _pool.process != os.getpid():
            _pool = _Pool()
    return _pool.ask(request, payload)


@atexit.register
def _close() -> None:
    if _pool is not None and _pool.process == os.getpid():
        _pool.close_idle()
