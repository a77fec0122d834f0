"""A fake OpenAI-compatible server on the loopback: for tests, benchmarks and a first try.

It answers chat completions with any function of the request's body, and misbehaves on
purpose: slow, cut off, garbage, other JSON, a byte a second, too busy, gone.  Plain asyncio
on purpose: no framework stands between a test and the bytes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

__all__ = ["Behaviour", "FakeServer", "completion", "first_letter"]

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """How a request is answered.

    ``kind``: ``answer`` (what ``body`` says), ``drop`` (the connection closes), ``truncate``
    (half of the answer), ``garbage`` (bytes that are no JSON), ``other`` (JSON of another
    schema), ``drip`` (a byte a second), ``status`` (an HTTP error).
    """

    kind: Literal["answer", "drop", "truncate", "garbage", "other", "drip", "status"] = "answer"
    body: Mapping[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    status: int = 503
    retry_after: str = ""


def completion(content: str, alternatives: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A chat completion of one token, with the log-probabilities of its alternatives."""
    top = [{"token": t, "logprob": p, "bytes": None} for t, p in (alternatives or {}).items()]
    entry = {"token": content, "logprob": max((alternatives or {content: -0.1}).values())}
    return {
        "id": "fake",
        "object": "chat.completion",
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": content},
                "logprobs": {"content": [entry | {"top_logprobs": top}]},
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }


def letters_of(body: Body) -> list[str]:
    """The letters that a request is held to; empty for an open question."""
    if "structured_outputs" in body:
        return list(body["structured_outputs"]["choice"])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return list(schema.get("properties", {}).get("choice", {}).get("enum", []))


def first_letter(body: Body) -> Behaviour:
    """Always favours the option shown first, as such models tend to: 0.7 against the rest."""
    letters = letters_of(body)
    if not letters:
        answer = {"answer": "a round shadow", "evidence": ["shadow, upper left"]}
        return Behaviour(body=completion(json.dumps(answer)))
    import math

    rest = 0.3 / max(len(letters) - 1, 1)
    return Behaviour(
        body=completion(
            letters[0], {x: math.log(0.7 if i == 0 else rest) for i, x in enumerate(letters)}
        )
    )


class FakeServer:
    """Serves on 127.0.0.1 in a thread of its own; a context manager.

    Args:
        behave: from a request's JSON body to a behaviour; runs in the server's loop.
        models: names that ``/v1/models`` lists.
        version: what ``/version`` says, or None for 404.
    """

    def __init__(
        self,
        behave: Callable[[Body], Behaviour] = first_letter,
        *,
        models: tuple[str, ...] = ("fake",),
        version: str | None = "0.32.0",
        port: int = 0,
    ) -> None:
        self.behave, self.models, self.version, self.port = behave, models, version, port
        self.requests: list[dict[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Base address, with /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        asyncio.run_coroutine_threadsafe(self._end_tasks(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def stop(self) -> None:
        """Die: refuse new connections and cut those that are open."""
        asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, backlog=1024, limit=2**24
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _die(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _end_tasks(self) -> None:
        mine = asyncio.current_task()
        others = [t for t in asyncio.all_tasks() if t is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        # a transport that was closed says so to the loop a few turns later
        for _ in range(10):
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        length = next(
            (int(h.split(":")[1]) for h in head if h.lower().startswith("content-length:")), 0
        )
        raw = await reader.readexactly(length)
        if path.endswith("/models"):
            return await _reply(writer, {"data": [{"id": m} for m in self.models]})
        if path.endswith("/version"):
            if self.version is None:
                return await _reply(writer, {}, status=404)
            return await _reply(writer, {"version": self.version})
        body = json.loads(raw)
        self.requests.append(body)
        return await self._misbehave(self.behave(body), writer)

    async def _misbehave(self, how: Behaviour, writer: asyncio.StreamWriter) -> bool:
        if how.delay:
            await asyncio.sleep(how.delay)
        if how.kind == "drop":
            return False
        if how.kind == "status":
            extra = f"Retry-After: {how.retry_after}\r\n" if how.retry_after else ""
            return await _reply(writer, {"error": "no"}, status=how.status, extra=extra)
        if how.kind == "garbage":
            return await _reply(writer, b"\x00\xff<html>normal</html>")
        if how.kind == "other":
            return await _reply(writer, {"result": "normal", "choices": "normal"})
        if how.kind == "answer":
            return await _reply(writer, how.body)
        whole = _bytes(how.body or completion("A"))
        if how.kind == "truncate":
            writer.write(whole[: len(whole) - 20])
            await writer.drain()
            return False
        for i in range(len(whole)):
            writer.write(whole[i : i + 1])
            await writer.drain()
            await asyncio.sleep(1)
        return True


async def _reply(
    writer: asyncio.StreamWriter, body: Body | bytes, *, status: int = 200, extra: str = ""
) -> bool:
    writer.write(_bytes(body, status, extra))
    await writer.drain()
    return True


def _bytes(body: Body | bytes, status: int = 200, extra: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
