"""The HTTP server's API key, limits (request rate, size and time) and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from explllm.app.errors import RequestError

_MAX_CLIENTS = 10_000
"""Maximum number of clients whose rate is tracked; beyond it, the least recently active client is dropped."""

_MAX_DISCARDED = 256_000_000
"""Maximum number of bytes of a rejected body to read before the connection is closed."""

_OPEN = ("/health",)
"""Paths that need no key and have no rate limit."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request."""

    max_bytes: int
    """Maximum size of a body."""
    read_seconds: float
    """Maximum time to receive a body."""
    per_minute: int | None
    """Requests per minute per client, plus an initial burst of up to the same number; None for no limit."""


class Connection(H11Protocol):
    """A connection that closes if the headers of a request do not arrive in time.

    uvicorn would wait forever for them, and it rejects all clients when `limit_concurrency` connections are open.
    """

    seconds: ClassVar[float]
    """Maximum time to receive the headers."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the timer for the first request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.seconds, self._close)

    def data_received(self, data: bytes) -> None:
        """Start the timer when a request begins, and stop it when the request's headers have arrived."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._close)
        elif not waiting:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        self.transport.close()


class Guard:
    """ASGI middleware that enforces the limits before any work is done on a request, and counts all requests.

    A body is read completely, within the limits, before the application sees it.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, key: str | None, paths: frozenset[str], registry: CollectorRegistry
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            limits: The limits.
            key: The API key that clients must send as a bearer token; None for no key.
            paths: The paths with separate metrics; all other paths are counted as ``other``.
            registry: Receives the metrics.
        """
        self.app, self.limits, self.paths = app, limits, paths
        self._key = None if key is None else key.encode()
        self._clients: OrderedDict[str, _Rate] = OrderedDict()
        labels = ("path", "status")
        self._requests = Counter("explllm_requests", "Requests by path and status.", labels, registry=registry)
        self._seconds = Histogram(
            "explllm_request_seconds", "Time from a request to the end of its response.", ("path",), registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or reject a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()  # unless a response starts
        arriving = _Arriving(receive)

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            body = await self._read(arriving)
            await self.app(scope, _replay(body, receive), watch)
        except RequestError as error:
            # A client that waits for "100 Continue" has not sent its body, which leaves nothing to discard.
            if error.status != 408 and (arriving.begun or not _expects_continue(scope)):
                await arriving.discard(self.limits.read_seconds)
            await _refuse(error, watch)
        except _Gone:
            status = 499
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self._requests.labels(path, str(status)).inc()
            self._seconds.labels(path).observe(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        if scope["path"] in _OPEN:
            return
        headers = dict(scope["headers"])
        sent = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if self._key is not None and not hmac.compare_digest(sent, self._key):
            raise RequestError(401, "The API key is missing or wrong.", "invalid_api_key")
        if self.limits.per_minute is not None and not self._limiter(scope).take():
            message = f"More than {self.limits.per_minute} requests per minute."
            seconds = max(1, round(60 / self.limits.per_minute))
            raise RequestError(429, message, "rate_limit_exceeded", {"Retry-After": str(seconds)})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.max_bytes:
            raise self._too_large()

    def _limiter(self, scope: Scope) -> _Rate:
        address = (scope.get("client") or ("", 0))[0]
        limiter = self._clients.pop(address, None) or _Rate(self.limits.per_minute or 1)
        self._clients[address] = limiter
        if len(self._clients) > _MAX_CLIENTS:
            self._clients.popitem(last=False)
        return limiter

    def _too_large(self) -> RequestError:
        return RequestError(413, f"The body has more than {self.limits.max_bytes:,} bytes.", "request_too_large")

    async def _read(self, arriving: _Arriving) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                while not arriving.ended:
                    body += await arriving.next()
                    if len(body) > self.limits.max_bytes:
                        raise self._too_large()
                return bytes(body)
        except TimeoutError as error:
            reason = f"The body did not arrive within {self.limits.read_seconds:g} seconds."
            raise RequestError(408, reason, "request_timeout") from error


class _Arriving:
    """The body of a request."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.begun, self.ended = receive, False, False

    async def next(self) -> bytes:
        """Return the next part of the body."""
        self.begun = True
        message = await self.receive()
        if message["type"] == "http.disconnect":
            self.ended = True
            raise _Gone
        self.ended = not message.get("more_body")
        return message.get("body", b"")

    async def discard(self, seconds: float) -> None:
        """Read and discard the rest: otherwise, a client still sending would get a closed connection and no answer."""
        remaining = _MAX_DISCARDED
        with contextlib.suppress(TimeoutError, _Gone):
            async with asyncio.timeout(seconds):
                while not self.ended and remaining > 0:
                    remaining -= len(await self.next())


def _expects_continue(scope: Scope) -> bool:
    return dict(scope["headers"]).get(b"expect", b"").lower() == b"100-continue"


class _Gone(Exception):
    """The client closed the connection."""


class _Rate:
    """Token bucket of one client: N requests per minute, plus an initial burst of up to N."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute, self.tokens, self.updated = per_minute, float(per_minute), time.monotonic()

    def take(self) -> bool:
        """Take a token if one is available; return whether one was."""
        now = time.monotonic()
        self.tokens = min(self.per_minute, self.tokens + (now - self.updated) * self.per_minute / 60)
        self.updated = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI receive function that replays the body that was read, then waits for the disconnect."""
    sent = False

    async def next_message() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def _refuse(error: RequestError, send: Send) -> None:
    # Close the connection, because unread parts of the body would be interpreted as the next request.
    headers = {"content-type": "application/json", "connection": "close", **error.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": json.dumps(error.body).encode()})
