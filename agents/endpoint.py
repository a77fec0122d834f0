"""One OpenAI-compatible server: calls with deadlines, retries, a breaker and a bounded crowd.

Everything runs in one event loop in a thread of its own, so that a deadline can end a call
whatever the server does (a byte a second defeats any timeout of a single read).  httpx2's
transport sends; retries and limits are decided here, so no client with its own lies between.
Knows no study and no prompt: JSON goes out, a JSON object or a :class:`CallFailed` comes back,
and neither a message nor a log holds what was sent or received.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Literal, TypeVar

import httpx2
import orjson
import stamina

from curbside.agents.breaker import AdaptiveLimit, Breaker
from curbside.agents.fleet_spec import EndpointSpec
from curbside.errors import ConfigError

# a warning for every retry would drown what a command prints; failures are in the records
logging.getLogger("stamina").setLevel(logging.ERROR)

__all__ = ["CallFailed", "Endpoint", "together"]

T = TypeVar("T")
#: Most bytes of an answer.
MAX_ANSWER = 8 * 2**20


class CallFailed(Exception):
    """A call that gave nothing usable; ``kind`` as in :class:`curbside.readings.Failure`.

    Args:
        retry: worth another attempt: nothing was processed, or the server asks for it.
        wait: seconds that the server asks to wait.
        overloaded: the server has too much to do.
        broken: says that the endpoint itself does not work.
    """

    def __init__(
        self,
        kind: Literal["timeout", "unavailable", "invalid_answer", "internal"],
        message: str,
        *,
        retry: bool = False,
        wait: float | None = None,
        overloaded: bool = False,
        broken: bool = True,
    ) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message
        self.retry, self.wait, self.overloaded, self.broken = retry, wait, overloaded, broken


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="curbside-endpoints", daemon=True).start()
    return loop


def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side in the endpoints' loop, each from when it is given; results
    in order.

    Interrupting the caller, or an exception of one of them, cancels them all.
    """
    futures: list[Future[T]] = []
    try:
        futures.extend(asyncio.run_coroutine_threadsafe(call, _loop()) for call in calls)
        return [f.result() for f in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise


class Endpoint:
    """A server of a fleet file.  Nothing is opened until the first call.

    Raises:
        ConfigError: the variable that should hold the key is not set.
    """

    def __init__(self, name: str, spec: EndpointSpec) -> None:
        self.name, self.spec = name, spec
        patience = spec.patience
        self.breaker = Breaker(patience.open_after, patience.probe_seconds)
        self.limit = AdaptiveLimit(patience.concurrency)
        self._transport: httpx2.AsyncHTTPTransport | None = None
        self._urls: dict[str, httpx2.URL] = {}
        self._base = spec.url.rstrip("/")
        self._server: str | None = None
        self._asking = asyncio.Lock()
        key = os.environ.get(spec.key_variable) if spec.key_variable else "none"
        if not key:
            raise ConfigError(
                f"endpoint {name}: the environment variable {spec.key_variable} is not set",
                hint=f"export {spec.key_variable}=…, then: curbside fleet check",
            )
        self._headers = httpx2.Headers(
            {
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            }
        )

    # -- in the loop -----------------------------------------------------------------------

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON object; returns the JSON object that came back.

        Raises:
            CallFailed: whatever went wrong, within ``total_seconds`` of getting its turn.
        """
        await self.limit.acquire()
        started, overloaded = time.monotonic(), False
        try:
            ticket = self.breaker.admit()
            if ticket is None:
                message = f"endpoint {self.name} failed before and is left alone for now"
                raise CallFailed("unavailable", message)
            ok: bool | None = None
            try:
                found = await self._within_deadline(path, body)
                ok = True
                return found
            except CallFailed as e:
                overloaded, ok = e.overloaded, not e.broken
                raise
            finally:
                self.breaker.report(ticket, ok)
        finally:
            self.limit.release(overloaded=overloaded, seconds=time.monotonic() - started)

    async def _within_deadline(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        seconds = self.spec.patience.total_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._with_retries(path, body, time.monotonic() + seconds)
        except TimeoutError:
            raise CallFailed(
                "timeout", f"no answer within {seconds:g} s in all", overloaded=True
            ) from None

    async def _with_retries(
        self, path: str, body: dict[str, Any], deadline: float
    ) -> dict[str, Any]:
        patience = self.spec.patience
        if patience.attempts == 1:
            return await self._attempt(path, body)

        def again(error: Exception) -> bool | float:
            if not isinstance(error, CallFailed) or not error.retry:
                return False
            if error.wait is None:
                return True
            # the server's word, with jitter, unless there is no time left to keep to it
            wait = error.wait + random.uniform(0, 0.1 * error.wait + patience.wait_seconds / 4)
            return wait if time.monotonic() + wait < deadline else False

        try:
            return await self._attempt(path, body)
        except CallFailed as e:
            wait = again(e)
            if wait is False:
                raise
            first = patience.wait_seconds * random.uniform(0.5, 1.5)
            await asyncio.sleep(first if wait is True else wait)
        async for attempt in stamina.retry_context(
            on=again,
            attempts=patience.attempts - 1,
            timeout=None,
            wait_initial=2 * patience.wait_seconds,
            wait_max=max(30.0, 2 * patience.wait_seconds),
            wait_jitter=patience.wait_seconds,
        ):
            with attempt:
                return await self._attempt(path, body)
        raise AssertionError("unreachable")

    async def _attempt(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        seconds = self.spec.patience.attempt_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._send(path, body)
        except TimeoutError:
            message = f"no whole answer within {seconds:g} s"
            raise CallFailed("timeout", message, overloaded=True) from None

    async def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            status, headers, raw = await self._exchange("POST", self._base + path, body)
        except httpx2.ConnectError as e:
            message = f"the server cannot be reached ({type(e).__name__})"
            raise CallFailed("unavailable", message, retry=True) from None
        except httpx2.HTTPError as e:
            message = f"the connection broke off ({type(e).__name__})"
            raise CallFailed("unavailable", message) from None
        if status != 200:
            raise _refused(status, headers.get("retry-after"))
        try:
            found = orjson.loads(raw)
        except ValueError:
            raise CallFailed("invalid_answer", "the answer is not JSON") from None
        if not isinstance(found, dict):
            raise CallFailed("invalid_answer", "the answer is no JSON object")
        return found

    async def _exchange(
        self, method: str, address: str, body: dict[str, Any] | None = None
    ) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and bytes of one request.

        The transport alone: a client would look at cookies, redirects, proxies and hooks of
        which an endpoint has none, at a fifth of a call's processor time.
        """
        url = self._urls.get(address)
        if url is None:
            url = self._urls[address] = httpx2.URL(address)
        content = None if body is None else orjson.dumps(body)
        request = httpx2.Request(method, url, headers=self._headers, content=content)
        response = await self._connections().handle_async_request(request)
        try:
            parts, size = [], 0
            async for part in response.aiter_bytes():
                size += len(part)
                if size > MAX_ANSWER:
                    message = f"the answer has over {MAX_ANSWER:,} bytes"
                    raise CallFailed("invalid_answer", message)
                parts.append(part)
        finally:
            await response.aclose()
        return response.status_code, response.headers, b"".join(parts)

    async def server(self) -> str:
        """``vllm 0.32.0`` where the server tells, else ``unknown``; asked once."""
        if self._server is None:
            async with self._asking:
                if self._server is None:
                    self._server = await self._version()
        return self._server or "unknown"

    async def _version(self) -> str | None:
        """None where there was no answer: it is asked again with the next call."""
        root = self._base.removesuffix("/v1")
        try:
            async with asyncio.timeout(min(5.0, self.spec.patience.attempt_seconds)):
                status, _, raw = await self._exchange("GET", f"{root}/version")
            version = orjson.loads(raw)["version"] if status == 200 else ""
        except (KeyError, TypeError, ValueError):
            return ""
        except Exception:  # whatever happens to the connection, the reading is there already
            return None
        return f"vllm {version}" if isinstance(version, str) and 0 < len(version) < 64 else ""

    async def models(self) -> list[str]:
        """Names of the models and adapters that the server has loaded.

        Raises:
            CallFailed: it cannot be reached, or answers something else.
        """
        try:
            async with asyncio.timeout(self.spec.patience.attempt_seconds):
                status, _, raw = await self._exchange("GET", f"{self._base}/models")
        except TimeoutError:
            raise CallFailed("timeout", "no list of models in time") from None
        except httpx2.HTTPError as e:
            raise CallFailed(
                "unavailable", f"the server cannot be reached ({type(e).__name__})"
            ) from None
        if status != 200:
            raise _refused(status, None)
        try:
            return [str(m["id"]) for m in orjson.loads(raw)["data"]]
        except (ValueError, KeyError, TypeError):
            raise CallFailed("invalid_answer", "the list of models is none") from None

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _connections(self) -> httpx2.AsyncHTTPTransport:
        if self._transport is None:
            crowd = self.spec.patience.concurrency
            self._transport = httpx2.AsyncHTTPTransport(
                # images go to the address that is written down: no proxy of the environment
                trust_env=False,
                limits=httpx2.Limits(max_connections=crowd, max_keepalive_connections=crowd),
            )
            # an endpoint that nobody holds any more gives its connections back
            weakref.finalize(self, _close_later, self._transport).atexit = False
        return self._transport


def _close_later(transport: httpx2.AsyncHTTPTransport) -> None:
    asyncio.run_coroutine_threadsafe(transport.aclose(), _loop())


def _refused(status: int, retry_after: str | None) -> CallFailed:
    if status == 429 or status >= 500:
        busy = status in (429, 503)
        return CallFailed(
            "unavailable",
            f"HTTP {status}",
            retry=True,
            wait=_asked_to_wait(retry_after),
            overloaded=busy,
            broken=status != 429,
        )
    what = {
        401: "the key was refused",
        403: "the key was refused",
        404: "the server does not have this model or adapter",
        413: "the images are too large for the server",
    }.get(status, "the server refused the request")
    return CallFailed("unavailable", f"HTTP {status}: {what}", broken=False)


def _asked_to_wait(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, given so or as a date (RFC 9110, 10.2.3); None: not said."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - time.time()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), 3600.0)
