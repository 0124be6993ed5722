"""A connection on which we ask, in HTTP/1.1: one request after another, and each answer read strictly, bounded in size and time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Final

import h11

from enforcer.wire.head import FRAMING, MAX_HEAD
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError, Unavailable

_PART: Final = 64 << 10
_ASKED: Final = h11.Request(method="POST", target="/", headers=[("Host", "x")])
_END: Final = h11.EndOfMessage()
"""What h11, which reads the answer, is told of the request; what leaves is written here, of headers that were looked at."""
_USUAL: Final = (("Content-Type", "application/json"), ("Accept-Encoding", "identity"))
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z", re.ASCII)
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z", re.ASCII)
_MOST_BEFORE: Final = 4
"""Informational answers (RFC 9110 15.2) before one that counts."""


class Client:
    """Asks on `stream`, of what the errors call `what`. What breaks HTTP leaves it unfit: `ready` says whether it can be asked again."""

    def __init__(self, stream: Stream, what: str, host: str) -> None:
        self._stream, self._what, self._host = stream, what, host
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self.sent = self.received = 0

    @property
    def ready(self) -> bool:
        """Whether the answer before was read whole, and nothing has come after it unasked."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        fresh = self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE
        try:
            return fresh and not self._http.trailing_data[0] and self._stream.come(1) is None
        except OSError:
            return False

    def post(self, path: str, headers: Sequence[tuple[str, str]], body: bytes, end: float) -> tuple[int, dict[str, str]]:
        """`body` is sent, before `end` on the monotonic clock. Status and headers of the answer, each once, its name in small letters.

        Raises OSError, Unavailable, FormatError.
        """
        whole = [("Host", self._host), ("Content-Length", str(len(body))), *_USUAL, *headers]
        if fault := next((name for name, value in whole if not _NAME.match(name) or not _VALUE.match(value)), None):
            raise FormatError(f"{self._what}, header {fault}"[:80], "what a header can hold", "something else")
        head = "".join(f"{name}: {value}\r\n" for name, value in whole)
        data = f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body
        self._http.send(_ASKED)
        self._http.send(_END)
        self._stream.sendall(data, end - time.monotonic())
        self.sent += len(data)
        for _ in range(_MOST_BEFORE):
            event = self._event(end)
            if isinstance(event, h11.Response):
                return event.status_code, self._headers(event)
            if not isinstance(event, h11.InformationalResponse) or event.status_code == 101:
                break
        raise FormatError(self._what, "an answer of HTTP/1.1", "another")

    def part(self, end: float) -> bytes | None:
        """What comes next of the answer's content, None at its end. Raises as `post`; after TimeoutError it can be asked again."""
        event = self._event(end)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if not isinstance(event, h11.EndOfMessage) or list(event.headers):
            raise FormatError(self._what, "a content, and nothing after it", type(event).__name__)
        return None

    def parts(self, end: float) -> Iterator[bytes]:
        """The content of the answer, as it comes, to its end. Raises as `post`."""
        while (part := self.part(end)) is not None:
            yield part

    def over(self, within: float) -> bool:
        """Whether the answer ends within so many seconds, and nothing more comes of it."""
        try:
            return not any(self.parts(time.monotonic() + within))
        except (OSError, Unavailable, FormatError):
            return False

    def _event(self, end: float) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    break
                self._http.receive_data(self._come(end))
            except h11.RemoteProtocolError as error:
                raise FormatError(self._what, "an answer of HTTP/1.1", str(error)[:80]) from None
        if not isinstance(event, h11.Event):
            raise Unavailable(self._what, "it ended")
        return event

    def _come(self, end: float) -> bytes:
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError
        self._stream.settimeout(left)
        part = self._stream.recv(_PART)
        self.received += len(part)
        return part

    def _headers(self, answer: h11.Response) -> dict[str, str]:
        """1. HTTP/1.1, whose length is said in one way. 2. Each header once, but for those that are ours not to read."""
        found: dict[str, str] = {}
        for name, value in answer.headers:
            key = name.decode("ascii").lower()
            if key in found and key in ("content-type", "content-encoding", "mcp-session-id", "location"):
                raise FormatError(self._what, f"one header {key}", "two")
            found[key] = value.decode("latin-1")
        if answer.http_version != b"1.1" or len(FRAMING & {name.encode() for name in found}) > 1:
            raise FormatError(self._what, "an answer of HTTP/1.1, with a length or chunks", "another, or both")
        return found
