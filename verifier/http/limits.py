"""Limits before any work is done: size, time, rate. Nobody who sends slowly, much, or often costs another anything.

The body is read whole, up to the route's bound and by a deadline, before the
application sees the request. A connection that never finishes its headers is closed.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from verifier.http.problems import problem
from writ.formats.reason import Reason
from writ.service.unsent import Taken

BODY_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 10.0
MAX_PEERS: Final = 8192
LOG: Final = "/log/"
"""Below it is the public log: who reads it whole takes nothing from the hosts at the same address."""


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """The bounds of one route: bytes of the body, and whether it answers in CBOR."""

    body: int
    cbor: bool


class Rate:
    """A token bucket for each peer: `burst` at once, `per_second` in the long run. Bounded; the peer unseen longest is forgotten."""

    def __init__(self, *, burst: int, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, peer: str) -> bool:
        """Whether the peer may send one more now."""
        now = self._clock()
        with self._lock:
            left, then = self._peers.pop(peer, (float(self._burst), now))
            left = min(float(self._burst), left + (now - then) * self._per_second)
            allowed = left >= 1
            self._peers[peer] = (left - 1 if allowed else left, now)
            if len(self._peers) > MAX_PEERS:
                self._peers.popitem(last=False)
        return allowed


class Limits:
    """ASGI middleware: refuses what is too large, too slow or too often, else hands on the whole body."""

    def __init__(self, app: ASGIApp, *, limit: Callable[[str, str], RouteLimit], rate: Rate) -> None:
        self._app = app
        self._limit = limit
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["method"], scope["path"])
        if any(ord(one) < 32 or ord(one) == 127 for one in scope["path"]):
            await _refuse(404, Reason("not-found", "path", "a path without control characters", "another"), limit, scope, receive, send)
            return
        peer = scope["client"][0] if scope.get("client") else "unknown"
        apart = "log " if scope["path"].startswith(LOG) else ""
        if not self._rate.take(apart + peer):
            reason = Reason("too-many-requests", "requests", "fewer requests from one address", "more")
            await _refuse(429, reason, limit, scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(_read(receive, limit.body), BODY_SECONDS)
        except TimeoutError:
            reason = Reason("unavailable", "body", f"the whole body within {BODY_SECONDS:g} s", "a part of it")
            await _refuse(408, reason, limit, scope, receive, send)
            return
        if body is None:
            await _refuse(413, Reason("too-large", "body", f"at most {limit.body} bytes", "more"), limit, scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body, or None where it is longer than `most`."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > most:
            return None
        parts.append(chunk)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(status: int, reason: Reason, limit: RouteLimit, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(status, (reason,), secrets.token_hex(8), cbor=limit.cbor, headers={"Connection": "close"})
    await response(scope, receive, send)


class DeadlineProtocol(Taken, HttpToolsProtocol):
    """uvicorn's HTTP/1.1, except that a connection is closed whose next request has begun but has no whole head in `HEAD_SECONDS`, or on
    which an answer is not taken (`service.unsent`).

    The first request counts as begun when the connection is made.
    """

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the deadline."""
        super().connection_made(transport)
        self._begin()

    def on_message_begin(self) -> None:
        """Another head has begun."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """The head is whole: the deadline is off."""
        self._end()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone by itself."""
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        if self._head is None:
            self._head = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
