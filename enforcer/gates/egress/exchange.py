"""One plain HTTP request and its answer, on two connections that serve nothing else.

h11 reads each side and spells it anew for the other, so both sides see the same framing: there is nothing to smuggle in between.
"""

from __future__ import annotations

import contextlib
import socket

import h11

from enforcer.gates.egress.request import end_to_end
from enforcer.gates.egress.tunnel import Ended, Limits, Traffic
from writ.formats.errors import FormatError

_PART = 64 << 10


def run(near: socket.socket, reader: h11.Connection, onward: h11.Request, far: socket.socket, limits: Limits, traffic: Traffic) -> None:
    """The request goes to `far`, and its answer to `near`, each as far as its bounds.

    Raises Ended, OSError, FormatError for an answer (or the rest of the request) that is no HTTP; nothing of it was passed on then,
    or the connection breaks off before the length that was announced.
    """
    near.settimeout(limits.idle)
    far.settimeout(limits.idle)
    writer = h11.Connection(h11.CLIENT)
    try:
        _request(near, reader, onward, far, writer, limits, traffic)
        _answer(near, reader, far, writer, limits, traffic)
    except TimeoutError:
        raise Ended("idle") from None
    except h11.ProtocolError as error:
        raise FormatError("http", "a request and an answer of HTTP/1.1", str(error)[:80]) from None


def _request(
    near: socket.socket, reader: h11.Connection, onward: h11.Request, far: socket.socket, writer: h11.Connection, limits: Limits,
    traffic: Traffic,
) -> None:  # fmt: skip
    far.sendall(_spelt(writer, onward))
    if reader.they_are_waiting_for_100_continue:
        near.sendall(_spelt(reader, h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
    while True:
        event = _next(reader, near)
        if isinstance(event, h11.Data):
            traffic.sent += len(event.data)
            if traffic.sent > limits.sent:
                raise Ended("limit")
            far.sendall(_spelt(writer, event))
        else:
            far.sendall(_spelt(writer, h11.EndOfMessage()))
            return


def _answer(
    near: socket.socket, reader: h11.Connection, far: socket.socket, writer: h11.Connection, limits: Limits, traffic: Traffic
) -> None:
    while True:
        event = _next(writer, far)
        if isinstance(event, h11.InformationalResponse):
            continue
        if isinstance(event, h11.Response):
            headers = [*end_to_end(list(event.headers.raw_items())), (b"Connection", b"close")]
            near.sendall(_spelt(reader, h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)))
        elif isinstance(event, h11.Data):
            traffic.received += len(event.data)
            if traffic.received > limits.received:
                raise Ended("limit")
            near.sendall(_spelt(reader, event))
        else:
            near.sendall(_spelt(reader, h11.EndOfMessage()))
            return


def _spelt(connection: h11.Connection, event: h11.Event) -> bytes:
    return connection.send(event) or b""


def _next(connection: h11.Connection, source: socket.socket) -> h11.Event:
    """The next event. Raises Ended where the other side ended before its time, h11.RemoteProtocolError."""
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(source.recv(_PART))
    if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
        raise Ended("unanswered")
    return event


def say(near: socket.socket, status: int, reason: str, body: bytes, *, linger: float = 1.0) -> None:
    """An answer of our own, and the end; what the agent still sends is read away for a moment, or it would not see the answer."""
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        near.settimeout(linger)
        near.sendall(head.encode("ascii") + body)
        near.shutdown(socket.SHUT_WR)
        for _ in range(64):
            if not near.recv(_PART):
                return
