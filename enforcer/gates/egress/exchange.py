"""One HTTP request and its answer, between two sides.

Each side is read, and spelt anew for the other, so both see the same framing: there is nothing to smuggle in between.

What is sent to the destination is `onward` and what the agent says after it. Where the near side has streams, an answer may come, and end,
while its request goes on; else it is read once the request has ended.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from typing import Final

import h11

from enforcer.gates.egress.request import end_to_end
from enforcer.gates.egress.side import Side
from enforcer.gates.egress.tunnel import Traffic, join
from enforcer.wire.limits import Ended, Limits
from writ.formats.errors import FormatError

_MOST_INTERIM: Final = 32
"""Answers with a status of 1xx before the answer, which pass nothing on and so cost the sender nothing."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""
_GRPC: Final = b"application/grpc"
_GRPC_STATUS: Final = re.compile(rb"[0-9]|1[0-6]")
"""grpc/doc/statuscodes.md; grpc/doc/PROTOCOL-HTTP2.md, Responses."""


class Spent:
    """What has passed on one connection of the agent, of all its exchanges. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._traffic, self._lock = limits, Traffic(), threading.Lock()

    def add(self, *, sent: int = 0, received: int = 0) -> None:
        """So many bytes more. Raises Ended above a bound."""
        with self._lock:
            self._traffic.sent += sent
            self._traffic.received += received
            if self._traffic.sent > self._limits.sent or self._traffic.received > self._limits.received:
                raise Ended("limit")


class Exchange:
    """One request that may pass, from the near side, of which its head is read and nothing answered, to the far one."""

    def __init__(self, near: Side, far: Side, limits: Limits, traffic: Traffic, spent: Spent) -> None:
        """`switched` says that it is a WebSocket now; `status` is what the agent was told, of gRPC its own once it came, else of HTTP."""
        self._near, self._far, self._limits, self._traffic, self._spent = near, far, limits, traffic, spent
        self._moved = time.monotonic()
        self._failed: Exception | None = None
        self._left: int | None = None
        self._sent = self.switched = self._grpc = False
        self.status: int | None = None
        self._request, self._answer = hashlib.sha256(), hashlib.sha256()

    @property
    def contents(self) -> dict[str, str]:
        """The digests of the two contents, as far as they were handed on."""
        return {"request": f"sha256:{self._request.hexdigest()}", "answer": f"sha256:{self._answer.hexdigest()}"}

    def run(self, onward: h11.Request) -> None:
        """`onward` goes to the destination, and its answer back, each as far as its bounds. An agent that has all of the length that was
        announced may go, also before it was told of the end.

        Where a WebSocket is asked for and agreed to, what follows passes both ways until one side ends.

        Raises Ended, OSError, FormatError for an answer (or the rest of the request) that is no HTTP; nothing of it was passed on then,
        or the connection breaks off before the length that was announced.
        """
        try:
            self._far.send(onward, last=self._near.over)
            if self._near.streams and not self._near.over:
                self._both(onward)
                return
            self._up()
            self._near.on_stop(self._far.stop)
            self._down(onward)
        except TimeoutError:
            raise Ended("idle") from None
        except (Ended, OSError):
            if self._left != 0:
                raise
        finally:
            self._near.on_stop(None)

    def _both(self, onward: h11.Request) -> None:
        """Once the answer is whole, or there will be none, the request goes no further either."""
        thread = threading.Thread(target=self._aside, name="egress-request", daemon=True)
        self._near.on_stop(self._far.stop)
        thread.start()
        try:
            self._down(onward)
        except (Ended, OSError, FormatError):
            if self._failed is not None:
                raise self._failed from None
            raise
        finally:
            self._near.on_stop(None)
            if not self._sent:
                self._near.ignore()
                self._far.stop()
            thread.join()

    def _aside(self) -> None:
        try:
            self._up()
        except (Ended, OSError, FormatError) as error:
            self._failed = Ended("idle") if isinstance(error, TimeoutError) else error
            self._far.stop()

    def _up(self) -> None:
        """The rest of the request. Where the answer is read beside it, what the destination does not take may be answered all the same."""
        self._near.proceed()
        while not self._sent:
            event = self._next(self._near)
            if isinstance(event, h11.Data):
                self._traffic.sent += len(event.data)
                self._spent.add(sent=len(event.data))
            try:
                self._far.send(event, last=isinstance(event, h11.Data) and self._near.over)
            except (Ended, OSError):
                if self._near.streams:
                    return
                raise
            if isinstance(event, h11.Data):
                self._request.update(event.data)
            self._sent = isinstance(event, h11.EndOfMessage)

    def _down(self, onward: h11.Request) -> None:
        """The answer."""
        interim = 0
        while not isinstance(event := self._next(self._far), h11.EndOfMessage):
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self._switch(onward, event)
                    return
                interim += 1
                if interim > _MOST_INTERIM:
                    raise Ended("limit")
            elif isinstance(event, h11.Response):
                headers = end_to_end(list(event.headers.raw_items()))
                head = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
                self._near.send(head, last=self._far.over)
                self._told(event)
                self._left = _length(onward, event)
            elif isinstance(event, h11.Data):
                self._traffic.received += len(event.data)
                self._spent.add(received=len(event.data))
                self._near.send(event, last=self._far.over)
                self._answer.update(event.data)
                self._left = None if self._left is None else self._left - len(event.data)
        self._near.send(event)
        self._told(event)

    def _told(self, event: h11.Response | h11.InformationalResponse | h11.EndOfMessage) -> None:
        """The agent has been told how it ended. gRPC says so behind the content, or with the head where there is none."""
        named = dict(event.headers)
        if not isinstance(event, h11.EndOfMessage):
            self.status, self._grpc = event.status_code, named.get(b"content-type", b"").startswith(_GRPC)
        if self._grpc and (said := _GRPC_STATUS.fullmatch(named.get(b"grpc-status", b""))) is not None:
            self.status = int(said[0])

    def _next(self, side: Side) -> h11.Event:
        """Raises TimeoutError where nothing moved in either direction for too long."""
        while True:
            try:
                event = side.next()
            except TimeoutError:
                if time.monotonic() - self._moved >= self._limits.idle:
                    raise
                continue
            self._moved = time.monotonic()
            return event

    def _switch(self, onward: h11.Request, event: h11.InformationalResponse) -> None:
        """The server's opening handshake answers this very request (RFC 6455 4.2.2). Raises FormatError."""
        key, named = dict(onward.headers).get(b"sec-websocket-key", b""), dict(event.headers)
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        if named.get(b"upgrade", b"").lower() != b"websocket" or named.get(b"sec-websocket-accept") != accept:
            raise FormatError("http", "the answer to a WebSocket's handshake", "another")
        headers = [*end_to_end(list(event.headers.raw_items())), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        self._near.send(h11.InformationalResponse(status_code=101, headers=headers, reason=event.reason))
        self._told(event)
        self.switched = True
        join(self._near.opened(), self._far.opened(), self._limits, self._traffic, halves=False)


def _length(onward: h11.Request, answer: h11.Response) -> int | None:
    """Bytes of content that are to come (RFC 9110 6.4.1), None where nobody said."""
    if onward.method == b"HEAD" or answer.status_code in (204, 304):
        return 0
    said = dict(answer.headers).get(b"content-length")
    return None if said is None else int(said)
