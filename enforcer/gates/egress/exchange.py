"""One HTTP request and its answer, on two streams.

h11 reads each side and spells it anew for the other, so both sides see the same framing: there is nothing to smuggle in between.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import h11

from enforcer.gates.egress.request import end_to_end
from enforcer.gates.egress.stream import Stream
from enforcer.gates.egress.tunnel import Ended, Limits, Traffic, join
from writ.formats.errors import FormatError

_PART: Final = 64 << 10
_MOST_INTERIM: Final = 32
"""Answers with a status of 1xx before the answer, which pass nothing on and so cost the sender nothing."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""


class Exchange:
    """One request that may pass, between the agent's stream and that of the destination."""

    def __init__(self, near: Stream, reader: h11.Connection, far: Stream, limits: Limits, traffic: Traffic) -> None:
        """`reader` has read the head of the request, to which nothing was said yet. `switched` says that it is a WebSocket now."""
        self._near, self._reader, self._far, self._limits, self._traffic = near, reader, far, limits, traffic
        self._writer = h11.Connection(h11.CLIENT)
        self.switched = False

    def run(self, onward: h11.Request, *, keep: bool) -> bool:
        """`onward` goes to the destination, and its answer back, each as far as its bounds. True where the destination may take another.

        Where `keep` is False, the agent is told that this was the only one. Where a WebSocket is asked for and agreed to, what follows
        passes both ways until one side ends.

        Raises Ended, OSError, FormatError for an answer (or the rest of the request) that is no HTTP; nothing of it was passed on then,
        or the connection breaks off before the length that was announced.
        """
        self._near.settimeout(self._limits.idle)
        self._far.settimeout(self._limits.idle)
        try:
            self._request(onward)
            if self._answer(onward, keep=keep):
                self._near.unread(self._reader.trailing_data[0])
                self._far.unread(self._writer.trailing_data[0])
                self.switched = True
                join(self._near, self._far, self._limits, self._traffic, halves=False)
                return False
        except TimeoutError:
            raise Ended("idle") from None
        except h11.ProtocolError:  # its text quotes lines of the answer, and a host may say a secret in one that it was sent
            raise FormatError("http", "a request and an answer of HTTP/1.1", "another") from None
        return (self._writer.our_state, self._writer.their_state) == (h11.DONE, h11.DONE) and not self._writer.trailing_data[0]

    def _request(self, onward: h11.Request) -> None:
        self._far.sendall(_spelt(self._writer, onward))
        if self._reader.they_are_waiting_for_100_continue:
            self._near.sendall(_spelt(self._reader, h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
        while isinstance(event := _next(self._reader, self._near), h11.Data):
            self._traffic.sent += len(event.data)
            if self._traffic.sent > self._limits.sent:
                raise Ended("limit")
            self._far.sendall(_spelt(self._writer, event))
        self._far.sendall(_spelt(self._writer, h11.EndOfMessage()))

    def _answer(self, onward: h11.Request, *, keep: bool) -> bool:
        """True where both sides have switched to a WebSocket."""
        interim = 0
        while True:
            event = _next(self._writer, self._far)
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    self._switch(onward, event)
                    return True
                interim += 1
                if interim > _MOST_INTERIM:
                    raise Ended("limit")
            elif isinstance(event, h11.Response):
                headers = [*end_to_end(list(event.headers.raw_items())), *([] if keep else [(b"Connection", b"close")])]
                self._near.sendall(_spelt(self._reader, h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)))
            elif isinstance(event, h11.Data):
                self._traffic.received += len(event.data)
                if self._traffic.received > self._limits.received:
                    raise Ended("limit")
                self._near.sendall(_spelt(self._reader, event))
            else:
                self._near.sendall(_spelt(self._reader, h11.EndOfMessage()))
                return False

    def _switch(self, onward: h11.Request, event: h11.InformationalResponse) -> None:
        """The server's opening handshake answers this very request (RFC 6455 4.2.2). Raises FormatError."""
        key, named = dict(onward.headers).get(b"sec-websocket-key", b""), dict(event.headers)
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        if named.get(b"upgrade", b"").lower() != b"websocket" or named.get(b"sec-websocket-accept") != accept:
            raise FormatError("http", "the answer to a WebSocket's handshake", "another")
        headers = [*end_to_end(list(event.headers.raw_items())), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        self._near.sendall(_spelt(self._reader, h11.InformationalResponse(status_code=101, headers=headers, reason=event.reason)))


def _spelt(connection: h11.Connection, event: h11.Event) -> bytes:
    return connection.send(event) or b""


def _next(connection: h11.Connection, source: Stream) -> h11.Event:
    """The next event. Raises Ended where the other side ended before its time, h11.RemoteProtocolError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(source.recv(_PART))
    if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
        raise Ended("unanswered")
    return event
