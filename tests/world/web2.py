"""HTTP/2 on both ends of a gate: a server, and a client that says whatever a test wants said."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from tests.world.network import Server
from tests.world.web import site

Fields = list[tuple[str, str]]
POURED = 8 << 20
MOST = 100
"""Requests at once."""


@dataclass
class Said:
    """What came on one stream so far."""

    fields: Fields = field(default_factory=list)
    data: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(dict(self.fields).get(":status", "0"))


def newest(connection: socket.socket, server: Server) -> None:
    """What was agreed upon."""
    if isinstance(connection, ssl.SSLSocket) and connection.selected_alpn_protocol() == "h2":
        site2(connection, server)
    else:
        site(connection, server)


def site2(connection: socket.socket, server: Server) -> None:
    """Each request is answered `METHOD TARGET BODY`, or as its path says. What it was asked is kept."""
    one = _Site(connection, server)
    one.h2.initiate_connection()
    one.flush()
    while part := connection.recv(65536):
        for event in one.h2.receive_data(part):
            one.event(event)
        one.flush()


class _Site:
    def __init__(self, connection: socket.socket, server: Server) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings[3] = MOST
        self.h2.local_settings.acknowledge()
        self._connection, self._server = connection, server
        self._said: dict[int, Said] = defaultdict(Said)
        self._pouring: dict[int, memoryview] = {}

    def flush(self) -> None:
        self._connection.sendall(self.h2.data_to_send())

    def event(self, event: Event) -> None:
        number = getattr(event, "stream_id", 0)
        said = self._said[number]
        if isinstance(event, RequestReceived):
            said.fields = [(str(name), str(value)) for name, value in event.headers]
            self._server.heard += " ".join(f"{name}={value}" for name, value in said.fields).encode() + b"\n"
            self._begin(number, dict(said.fields)[":path"])
        elif isinstance(event, DataReceived):
            said.data += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            if dict(said.fields)[":path"] == "/grpc/echo":
                self.h2.send_data(number, event.data)
        elif isinstance(event, TrailersReceived):
            said.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            self._end(number, said)
        elif isinstance(event, StreamReset):
            self._server.errors.append(f"reset {event.error_code!r}")
            self._pouring.pop(number, None)
        if isinstance(event, WindowUpdated | RequestReceived):
            for one in list(self._pouring):
                self._pour(one)

    def _begin(self, number: int, path: str) -> None:
        if path == "/grpc/echo":
            self.h2.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        elif path == "/early":
            self.h2.send_headers(number, [(":status", "413"), ("content-length", "5")])
            self.h2.send_data(number, b"early", end_stream=True)
            self.h2.reset_stream(number, ErrorCodes.NO_ERROR)
        elif path == "/reset":
            self.h2.reset_stream(number, ErrorCodes.REFUSED_STREAM)
        elif path == "/pour":
            self.h2.send_headers(number, [(":status", "200")])
            self._pouring[number] = memoryview(b"x" * POURED)
        elif path == "/push":
            self.h2.remote_settings[2] = 1
            self.h2.remote_settings.acknowledge()
            self.h2.push_stream(number, self.h2.get_next_available_stream_id(), [
                (":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/pushed"),
            ])  # fmt: skip

    def _end(self, number: int, said: Said) -> None:
        named = dict(said.fields)
        path, method = named[":path"], named[":method"]
        if path == "/grpc/echo":
            self.h2.send_headers(number, [("grpc-status", "0"), *said.trailers], end_stream=True)
        elif path == "/grpc/none":
            self.h2.send_headers(number, [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")], end_stream=True)
        elif path == "/v1/grpc-status":
            self.h2.send_headers(number, [(":status", "200"), ("grpc-status", "7")], end_stream=True)
        elif path == "/short":
            self.h2.send_headers(number, [(":status", "200"), ("content-length", "9")])
            self.h2.send_data(number, b"abc")
            self.h2.send_headers(number, [("x", "y")], end_stream=True)
        elif path == "/v1/unended":
            self.h2.send_headers(number, [(":status", "200"), ("content-length", "3")])
            self.h2.send_data(number, b"abc")
        elif path == "/v1/nothing":
            self.h2.send_headers(number, [(":status", "200"), ("content-length", "9")], end_stream=True)
        elif path == "/v1/304":
            self.h2.send_headers(number, [(":status", "304"), ("content-length", "9")], end_stream=True)
        elif path == "/status":
            self.h2.config.validate_outbound_headers = False
            self.h2.send_headers(number, [(":status", "abc")], end_stream=True)
        elif path not in ("/early", "/reset", "/pour", "/push", "/never"):
            body = b"" if method == "HEAD" else f"{method} {path} ".encode() + said.data
            self.h2.send_headers(number, [(":status", "200"), ("content-length", str(len(body)))])
            self._pouring[number] = memoryview(body)
            self._pour(number)
            if path == "/goaway":
                self.flush()
                self.h2.close_connection()

    def _pour(self, number: int) -> None:
        while left := self._pouring[number]:
            size = min(len(left), self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if size <= 0:
                return
            self.h2.send_data(number, left[:size])
            self._pouring[number] = left[size:]
        del self._pouring[number]
        self.h2.end_stream(number)


class Client:
    """Speaks HTTP/2 on `connection`, to `authority`; with `lax` also what h2 would not say."""

    def __init__(self, connection: socket.socket, authority: str, *, lax: bool = False) -> None:
        self.connection, self.authority = connection, authority
        self.h2 = H2Connection(
            H2Configuration(header_encoding="utf-8", validate_outbound_headers=not lax, normalize_outbound_headers=not lax)
        )  # fmt: skip
        self.said: dict[int, Said] = defaultdict(Said)
        self.terminated: int | None = None
        self.takes = True
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """What h2 has to say is said."""
        self.connection.sendall(self.h2.data_to_send())

    def head(self, path: str, *more: tuple[str, str], method: str = "GET") -> Fields:
        """Fields of a request."""
        return [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path), *more]

    def ask(self, path: str, *more: tuple[str, str], method: str = "GET", data: bytes | None = None) -> int:
        """A request that has ended, and its stream."""
        return self.send(self.head(path, *more, method=method), data=data)

    def send(self, fields: Fields, *, data: bytes | None = None, end: bool = True) -> int:
        """As `ask`, with these fields."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, fields, end_stream=end and data is None)
        if data is not None:
            self.h2.send_data(number, data, end_stream=end)
        self.flush()
        return number

    def until(self, holds: Callable[[], object]) -> None:
        """What comes is heard until that holds. Raises AssertionError where it ends before."""
        while not holds():
            part = self.connection.recv(65536)
            assert part, "what was waited for"
            for event in self.h2.receive_data(part):
                self._event(event)
            self.flush()

    def answer(self, number: int) -> Said:
        """All of it."""
        said = self.said[number]
        self.until(lambda: said.ended or said.reset is not None)
        return said

    def end(self) -> int | None:
        """The code that it was ended with, None where it was without."""
        with contextlib.suppress(AssertionError, OSError):
            self.until(lambda: self.terminated is not None)
        return self.terminated

    def _event(self, event: Event) -> None:
        said = self.said[getattr(event, "stream_id", 0)]
        if isinstance(event, ResponseReceived):
            said.fields = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, DataReceived):
            said.data += event.data
            if self.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            said.trailers = [(str(name), str(value)) for name, value in event.headers]
        elif isinstance(event, StreamEnded):
            said.ended = True
        elif isinstance(event, StreamReset):
            said.reset = int(event.error_code)
        elif isinstance(event, ConnectionTerminated):
            self.terminated = int(event.error_code or 0)
