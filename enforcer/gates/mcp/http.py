"""Streamable HTTP for the agent's clients of the Model Context Protocol, at a fixed port within its sandbox: one endpoint a server.

    > POST /mcp/notes HTTP/1.1
    > Host: 127.0.0.1:3129
    > Content-Type: application/json
    > Accept: application/json, text/event-stream
    > MCP-Protocol-Version: 2026-07-28
    > Mcp-Method: tools/call
    > Mcp-Name: read
    >
    > {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read", "arguments": {…}, "_meta": {…}}}
    < HTTP/1.1 200 OK

An answer is one JSON object, unless progress of it comes first, or it is held (`subscriptions/listen`): then it is a stream of events,
the last of which is the answer. There is no session, and nothing that a server could say of itself. The listener is in the network
namespace of the agent's sandbox, where nobody else is; Host and Origin are judged all the same, for a browser in there.

Source: Model Context Protocol 2026-07-28, basic/transports/streamable-http; RFC 9110, RFC 9112.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import h11

from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.mcp.desk import Desk, Tell
from enforcer.gates.mcp.refusal import bad
from enforcer.launch.netns import ADDRESS
from enforcer.wire.head import head_of, read_request
from enforcer.wire.limits import Ended, Limits
from enforcer.wire.line import ListeningLine
from enforcer.wire.stream import LINGER, TELL_WITHIN, Stream
from writ.formats.errors import FormatError
from writ.formats.forward import MCP_PORT
from writ.formats.mcp.events import event
from writ.formats.mcp.headers import check_headers, check_parameters
from writ.formats.mcp.protocol import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_MESSAGE,
    METHOD_NOT_FOUND,
    MODERN,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    BadMessage,
)
from writ.formats.mcp.request import Call, Note, parse_message
from writ.formats.trace import HEADER, parse_traceparent

PATH: Final = "/mcp/"
URL: Final = f"http://{ADDRESS}:{MCP_PORT}/mcp"
CONNECTIONS: Final = 16
_PART: Final = 65536
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nX-Accel-Buffering: no\r\n"
    b"X-Content-Type-Options: nosniff\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_STATUS: Final = {
    PARSE_ERROR: 400, INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404, INVALID_PARAMS: 400, HEADER_MISMATCH: 400,
    UNSUPPORTED_VERSION: 400,
}  # fmt: skip
"""Of what is no request. One that is has 200, also where it is refused: its error is what a client's model is to read."""
_WORDS: Final = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
    413: "Content Too Large", 415: "Unsupported Media Type",
}  # fmt: skip
_MANY: Final = frozenset({b"accept", HEADER})
"""Headers that may come twice; a trace that does is none."""


class _Wrong(Exception):
    """What is wrong with a request before its body is looked at, and its status."""

    def __init__(self, status: int, error: FormatError) -> None:
        super().__init__(status)
        self.status, self.error = status, error


class McpHttpGate:
    """The endpoints of one instance. They can be cut and mended, and closed for good."""

    def __init__(self, server: socket.socket, desks: Mapping[str, Desk], gatekeeper: Gatekeeper, limits: Limits | None = None) -> None:
        """`server` listens on a port that it was told, and is ours from now on."""
        self._desks, self._limits = desks, limits or Limits(connections=CONNECTIONS)
        self._hosts = tuple(f"{host}:{server.getsockname()[1]}" for host in (ADDRESS, "localhost"))
        self._line = ListeningLine(server, self._serve, threading.BoundedSemaphore(self._limits.connections), self._limits)
        self._line.begin(gatekeeper)
        self.close = self._line.close

    def _serve(self, raw: socket.socket, era: int) -> None:
        near = Stream(raw)
        while not self._line.is_cut_since(era) and self._one(near):
            pass

    def _one(self, near: Stream) -> bool:
        """One request is answered. Whether another may follow: not after what is no HTTP, nor after a body that was not read.

        1. The head, strictly, each header once.
        2. For us: Host, Origin, method, path, kinds of content.
        3. The body, whole, bounded in size and time.
        4. The message, and what the headers say of it.
        5. What the desk says.
        """
        try:
            # 1
            data = head_of(near, self._limits.head_within, self._limits.idle)
            if not data:
                return False
            request, reader, _ = read_request(data)
            headers = _once(request.headers)
            # 2
            desk = self._addressed(request, headers)
            # 3
            body = _body(near, reader, time.monotonic() + self._limits.head_within)
        except FormatError as error:
            _tell(near, 400, bad(BadMessage(error, INVALID_REQUEST)), keep=False)
            return False
        except _Wrong as wrong:
            _tell(near, wrong.status, bad(BadMessage(wrong.error, INVALID_REQUEST)), keep=False)
            return False
        keep = request.http_version == b"1.1" and headers.get("connection", "").lower() in ("", "keep-alive")
        events = _Events(near) if request.http_version == b"1.1" and "text/event-stream" in headers.get("accept", "") else None
        status, answer = _answer(desk, body, headers, None if events is None else events.tell)
        if events is not None and events.begun:
            return events.end(answer) and keep
        _tell(near, status, answer, keep=keep)
        return keep

    def _addressed(self, request: h11.Request, headers: Mapping[str, str]) -> Desk:
        if headers.get("host") not in self._hosts:
            raise _Wrong(403, FormatError("header Host", " or ".join(self._hosts), repr(headers.get("host"))[:80]))
        origin = headers.get("origin")
        if origin is not None and origin not in [f"http://{host}" for host in self._hosts]:
            raise _Wrong(403, FormatError("header Origin", f"none, or http://{self._hosts[0]}", repr(origin)[:80]))
        target = request.target.decode("ascii")
        desk = self._desks.get(target.removeprefix(PATH)) if target.startswith(PATH) else None
        if desk is None:
            raise _Wrong(404, FormatError("request.target", " or ".join(PATH + name for name in self._desks)[:180], repr(target)[:80]))
        if request.method != b"POST":
            raise _Wrong(405, FormatError("request.method", "POST", repr(request.method.decode("ascii"))[:40]))
        kind = headers.get("content-type", "").lower().replace(" ", "")
        if kind not in ("application/json", "application/json;charset=utf-8") or headers.get("content-encoding", "identity") != "identity":
            raise _Wrong(415, FormatError("header Content-Type", "application/json, not encoded", repr(kind)[:80]))
        accepted = {word.partition(";")[0].strip().lower() for word in headers.get("accept", "*/*").split(",")}
        if not accepted & {"application/json", "application/*", "*/*"}:
            raise _Wrong(406, FormatError("header Accept", "application/json", repr(sorted(accepted))[:80]))
        if "expect" in headers:
            raise FormatError("header Expect", "none", repr(headers["expect"])[:40])
        return desk


class _Events:
    """An answer that is a stream, from the first that is told before it."""

    def __init__(self, near: Stream) -> None:
        self._near, self.begun = near, False

    def tell(self, message: bytes) -> None:
        """One message, or a sign of life. Raises OSError, and from then on always."""
        data = event(message) if message else b":\n\n"
        before = b"" if self.begun else _STREAM
        self.begun = True
        self._near.sendall(before + b"%x\r\n%s\r\n" % (len(data), data), TELL_WITHIN)

    def end(self, answer: bytes) -> bool:
        """The answer is the last. Whether all of it has left."""
        with contextlib.suppress(OSError):
            self.tell(answer)
            self._near.sendall(b"0\r\n\r\n", TELL_WITHIN)
            return True
        return False


def _answer(desk: Desk, body: bytes, headers: Mapping[str, str], tell: Tell | None) -> tuple[int, bytes]:
    """Status and body."""
    try:
        # 4
        message = parse_message(body, said=headers.get("mcp-protocol-version"))
        check_headers(headers, message)
        if isinstance(message, Note):
            return 202, b""
        # 5
        call: Call = message if message.trace is not None else replace(message, trace=parse_traceparent(headers.get("traceparent")))
        if not call.modern:
            return 200, desk.answer(call, tell=tell)
        return 200, desk.answer(call, lambda definition: check_parameters(headers, definition, call), tell=tell, holds=tell is not None)
    except BadMessage as error:
        # A client of the older generation takes 404 for the end of a session
        old = error.code == METHOD_NOT_FOUND and not error.modern and headers.get("mcp-protocol-version") != MODERN
        return 200 if old and error.identifier is not None else _STATUS[error.code], bad(error)


def _once(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Each header by its name in small letters. Raises FormatError for one that comes twice, or is spelt as some would read another."""
    found: dict[str, str] = {}
    for raw, value in headers:
        name = raw.lower()
        if b"_" in name:
            raise FormatError("request", "no _ in the name of a header, which some take for -", repr(name)[:60])
        key, text = name.decode("ascii"), value.decode("ascii")
        if key in found and name not in _MANY:
            raise FormatError("request", f"one header {key}"[:100], "two")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _body(near: Stream, reader: h11.Connection, end: float) -> bytes:
    """The content, whole; what follows it is there for the next request. Raises FormatError, Ended, and _Wrong above the bound."""
    body = bytearray()
    while True:
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError as error:
            raise FormatError("content", "a content of HTTP/1.1", str(error)[:80]) from None
        if event is h11.NEED_DATA:
            near.settimeout(max(0.001, end - time.monotonic()))
            try:
                part = near.recv(_PART)
            except TimeoutError:
                raise Ended("idle") from None
            if not part:
                raise Ended("closed")
            reader.receive_data(part)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_MESSAGE:
                raise _Wrong(413, FormatError("content", f"at most {MAX_MESSAGE} bytes", "more"))
        elif isinstance(event, h11.EndOfMessage):
            if list(event.headers):
                raise FormatError("content", "nothing after it", "trailers")
            near.unread(reader.trailing_data[0])
            return bytes(body)
        else:
            raise FormatError("content", "a content of HTTP/1.1", type(event).__name__)


def _tell(near: Stream, status: int, body: bytes, *, keep: bool) -> None:
    head = [
        f"HTTP/1.1 {status} {_WORDS[status]}", *(["Content-Type: application/json", "X-Content-Type-Options: nosniff"] if body else []),
        f"Content-Length: {len(body)}", "Cache-Control: no-store", *(["Allow: POST"] if status == 405 else []),
        *([] if keep else ["Connection: close"]), "", "",
    ]  # fmt: skip
    near.sendall("\r\n".join(head).encode("ascii") + body, TELL_WITHIN)
    if not keep:
        near.end()
        near.linger(LINGER)
