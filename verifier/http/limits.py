"""Limits before any work is done: size, time, rate, number. Nobody who sends slowly, much, or often costs another anything.

The body is read whole, up to the route's bound and by a deadline, before the
application sees the request. One beyond `LARGE` is read only of who has shown
in the head who he is, and while there is room for it among all that are held.
A connection that never finishes its headers is closed, and so is one too many.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from verifier.http.problems import answer, problem
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import Reason
from writ.service.unsent import Taken

BODY_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 10.0
MAX_PEERS: Final = 8192
LARGE: Final = 192 << 10
"""Bytes. Smaller bodies are bounded by the number of connections."""
BODIES_MOST: Final = 128 << 20
"""Bytes of larger ones that are held at once, until they are answered."""
BODIES_OF_ONE: Final = 64 << 20
"""And of one caller: a host, whatever proxy it comes by, or an address."""
LOG: Final = "/log/"
"""Below it is the public log: who reads it whole takes nothing from the hosts at the same address."""


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """The bounds of one route: bytes of the body, and whether it answers in CBOR. `caller` as its route states it."""

    body: int
    cbor: bool
    caller: str = "public"


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


class Shares:
    """So much of something, in all and for one of those who have of it. For one event loop."""

    def __init__(self, most: int, of_one: int) -> None:
        self._most, self._of_one = most, of_one
        self._taken: dict[str, int] = {}

    def take(self, one: str, amount: int = 1) -> bool:
        """Whether there is so much for him; then it is his, until he gives it back."""
        his = self._taken.get(one, 0) + amount
        if his > self._of_one or sum(self._taken.values()) + amount > self._most:
            return False
        self._taken[one] = his
        return True

    def give_back(self, one: str, amount: int = 1) -> None:
        """It is anybody's again."""
        self._taken[one] -= amount
        if self._taken[one] == 0:
            del self._taken[one]


Known = Callable[[str, Scope], Awaitable[str]]
"""Who asks, by the head alone, of those that a caller of that kind may be: a name of his own. Raises what `problems.answer` takes."""


class Limits:
    """ASGI middleware: refuses what is too large, too slow, too often or from nobody, else hands on the whole body."""

    def __init__(self, app: ASGIApp, *, limit: Callable[[str, str], RouteLimit], rate: Rate, known: Known, bodies: Shares) -> None:
        self._app = app
        self._limit = limit
        self._rate = rate
        self._known, self._bodies = known, bodies

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
        room = _stated(scope, limit)
        if room <= LARGE:
            await self._whole(limit, scope, receive, send)
            return
        try:
            one = await self._known(limit.caller, scope)
        except (Refused, FormatError, Unavailable) as error:
            await _discard(receive, limit.body)
            response = answer(error, cbor=limit.cbor)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        if not self._bodies.take(one, room):
            await _discard(receive, limit.body)
            await _refuse(503, Reason("unavailable", "body", "room for it beside others", "none now"), limit, scope, receive, send)
            return
        try:
            await self._whole(limit, scope, receive, send)
        finally:
            self._bodies.give_back(one, room)

    async def _whole(self, limit: RouteLimit, scope: Scope, receive: Receive, send: Send) -> None:
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


def _stated(scope: Scope, limit: RouteLimit) -> int:
    """Bytes that may have to be held of the body, by its head: those it states, and no more than the route takes."""
    stated = [value for name, value in scope["headers"] if name == b"content-length"]
    if len(stated) == 1 and stated[0].isdigit() and len(stated[0]) < 16:
        return min(int(stated[0]), limit.body)
    chunked = bool(stated) or any(name == b"transfer-encoding" for name, _ in scope["headers"])
    return limit.body if chunked else 0


async def _discard(receive: Receive, most: int) -> None:
    """What is refused by its head is sent first by most clients, and read of none: it is let go by as it comes, in time."""

    async def go_by() -> None:
        left, more = most, True
        while more and left >= 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)

    with suppress(TimeoutError):
        await asyncio.wait_for(go_by(), BODY_SECONDS)


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


TOO_MANY: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
KEPT_APART: Final = 64
"""Descriptors, at least, that are not for connections: ledger, log, keys, and the way out to witnesses."""


def connections_within(descriptors: int) -> Shares:
    """Connections for a process of so many descriptors: a quarter is kept apart, and one address has half of the rest."""
    most = max(8, descriptors - max(KEPT_APART, descriptors // 4))
    return Shares(most, most // 2)


class DeadlineProtocol(Taken, HttpToolsProtocol):
    """uvicorn's HTTP/1.1, except that a connection is closed whose next request has begun but has no whole head in `HEAD_SECONDS`, or on
    which an answer is not taken (`service.unsent`), and one beyond what `connections_of` has for its address.

    The first request counts as begun when the connection is made.
    """

    connections_of: Shares = Shares(1 << 20, 1 << 20)
    """How many there may be; `bounded` makes a class with others."""
    _head: asyncio.TimerHandle | None = None
    _leaves: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the deadline, unless it is one too many."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        peer = str(address[0]) if address else "unknown"
        if not self.connections_of.take(peer):
            transport.write(TOO_MANY)
            transport.close()
            return
        self._leaves = partial(self.connections_of.give_back, peer)
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
        if self._leaves is not None:
            self._leaves()
            self._leaves = None
        super().connection_lost(exc)

    def _begin(self) -> None:
        if self._head is None:
            self._head = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


def bounded(connections: Shares) -> type[DeadlineProtocol]:
    """The protocol of one server, whose connections those are."""
    return type("BoundedProtocol", (DeadlineProtocol,), {"connections_of": connections})
