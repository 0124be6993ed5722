"""HTTP/1.1 for a service of few paths, and nothing that those do not need: no framework, no chunked bodies, no second spelling.

Where a request's end is in doubt it is answered and the connection closed, so nothing behind it is taken for another request. A request has
`SECONDS` to begin, for its head, for every `SMALL` bytes of its body and to be judged, each; a connection `MOST_REQUESTS`, the service
`MOST_CONNECTIONS`; whoever comes beyond waits in the kernel's queue. A body of more than `SMALL` bytes is read once the head has shown that
the service takes it, `MOST_LARGE` at a time and `MOST_OF_ONE` of one sender: whom the service does not know holds no such place.

Source: RFC 9112 sections 2.2, 3, 5, 6; RFC 9110 section 10.1.1 (Expect).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from writ.service import observe

PLAIN: Final = "text/plain; charset=utf-8"

MAX_HEAD: Final = 8192
SECONDS: Final = 10.0
MOST_REQUESTS: Final = 1000
MOST_CONNECTIONS: Final = 256
SMALL: Final = 128 << 10
MOST_LARGE: Final = 32
MOST_OF_ONE: Final = 2
"""Of one sender: one that is under way, and one whose connection is dead."""
LINGER: Final = 1.0
"""Seconds in which a sender may finish behind its last answer, so that it reads that and not a reset."""

_REQUEST = re.compile(r"([A-Z]{1,16}) (/[!-~]{0,1023}) HTTP/1\.([01])\Z")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([!-~](?:[ \t!-~]*[!-~])?|)[ \t]*\Z")
_LENGTH = re.compile(r"[0-9]{1,9}\Z")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*\Z")
_ONCE: Final = ("host", "content-length", "transfer-encoding", "expect", "dpop")
_PHRASES: Final = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict",
    411: "Length Required", 413: "Content Too Large", 417: "Expectation Failed", 422: "Unprocessable Content",
    431: "Request Header Fields Too Large", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip

_log = observe.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: int
    content_type: str
    body: bytes
    allow: str = ""


def said(status: int, text: str) -> Answer:
    """One line of text."""
    return Answer(status, PLAIN, f"{text}\n".encode())


NOTHING: Final = said(404, "nothing is there")


def only(method: str) -> Answer:
    """What is behind the path takes `method` and no other."""
    return Answer(405, PLAIN, f"expected {method}\n".encode(), allow=method)


Work = Callable[[bytes], Answer]
"""From the body of a request to the answer. Blocks; raises nothing of ours."""


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a request whose head was taken. `sender` is who sends it, where the head proved that, and "" for anybody."""

    work: Work
    sender: str = ""


class Service(Protocol):
    """What is behind the paths."""

    @property
    def most(self) -> int:
        """Bytes of a body at most."""

    def find(self, method: str, path: str, proof: str) -> Route | Answer:
        """What answers this head, or the answer at once, without a body. `path` is without the prefix, `proof` the field DPoP, or "".

        Does not block; raises nothing of ours.
        """


class _DoubtError(Exception):
    """Where this request ends is not known, it is none, or its body was not read: it is answered, and the connection closed."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        super().__init__(answer.status)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request, understood."""

    method: str
    path: str
    length: int
    goes_on: bool
    waits: bool
    """The sender wants to hear `100 Continue` before the body."""
    proof: str = ""
    """The field DPoP, as it came."""


def is_prefix(text: str) -> bool:
    """Whether `text` may stand before the paths: empty, or segments each after a slash, without one at the end."""
    return _PREFIX.match(text) is not None


def parse_head(data: bytes, most: int) -> Head:
    """Read a head and the empty line behind it; a body has `most` bytes. Raises `_DoubtError` for whatever has two readings, or none."""
    try:
        first, *lines, end, nothing = data.decode("ascii").split("\r\n")
    except ValueError:
        raise _DoubtError(said(400, "expected lines of ASCII")) from None
    if end or nothing:
        raise _DoubtError(said(400, "expected an empty line at the end"))
    asked = _REQUEST.match(first)
    if asked is None:
        raise _DoubtError(said(400, "expected METHOD /PATH HTTP/1.1"))
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.match(line)
        if field is None:
            raise _DoubtError(said(400, "expected fields as NAME: VALUE, each on one line"))
        name = field[1].lower()
        if name in fields and name in _ONCE:
            raise _DoubtError(said(400, f"expected one {name}, got two"))
        fields[name] = f"{fields[name]}, {field[2]}" if name in fields else field[2]
    if "transfer-encoding" in fields:
        raise _DoubtError(said(400 if "content-length" in fields else 411, "expected Content-Length and no Transfer-Encoding"))
    if asked[3] == "1" and "host" not in fields:
        raise _DoubtError(said(400, "expected a Host"))
    if fields.get("expect", "100-continue").lower() != "100-continue":
        raise _DoubtError(said(417, "expected no expectation but 100-continue"))
    options = {one.strip().lower() for one in fields.get("connection", "").split(",")}
    length = _length(fields.get("content-length"), asked[1], most)
    return Head(asked[1], asked[2], length, asked[3] == "1" and "close" not in options, "expect" in fields, fields.get("dpop", ""))


def _length(given: str | None, method: str, most: int) -> int:
    if given is None:
        if method == "POST":
            raise _DoubtError(said(411, "expected a Content-Length"))
        return 0
    if not _LENGTH.match(given):
        raise _DoubtError(said(400, "expected a Content-Length of digits"))
    if int(given) > most:
        raise _DoubtError(said(413, f"expected at most {most} bytes"))
    return int(given)


class Server:
    """Serves one service until it is stopped."""

    def __init__(self, service: Service, prefix: str, tls: ssl.SSLContext | None) -> None:
        self._service, self._prefix, self._tls = service, prefix, tls
        self._worker = ThreadPoolExecutor(1, "service")  # one request after another holds the state; the others wait here, not there
        self._large = asyncio.Semaphore(MOST_LARGE)
        self._under_way: Counter[str] = Counter()

    async def serve(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Serves what comes to `listener` until `stop` is set. What is under way is cut; what was stored stays, and is given again."""
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            await stop.wait()
        finally:
            accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await accepting
            self._worker.shutdown()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(MOST_CONNECTIONS)
        under_way: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            slots.release()

        try:
            while True:
                await slots.acquire()
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # no descriptors left, or the peer was gone before
                    slots.release()
                    _log.warning("accept", detail=error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                task = asyncio.create_task(self._attend(connection))
                under_way.add(task)
                task.add_done_callback(ended)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _attend(self, connection: socket.socket) -> None:
        """One connection, from its handshake to its end."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(MAX_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        within = SECONDS if self._tls is not None else None
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=within)
        except OSError:
            connection.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            for _ in range(MOST_REQUESTS):
                if not await self._one(reader, writer):
                    break
            await _linger(reader, writer)
        except OSError:
            pass  # it went away, or took no answer in time
        finally:
            transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request is answered. False where the connection is at its end."""
        try:
            async with asyncio.timeout(SECONDS):
                first = await reader.readexactly(1)
        except (TimeoutError, asyncio.IncompleteReadError):  # idle: whoever would send now must not take a 408 for its answer
            return False
        async with contextlib.AsyncExitStack() as room:
            return await self._whole(first, reader, writer, room)

    async def _whole(
        self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: contextlib.AsyncExitStack
    ) -> bool:
        try:
            head = await self._head(first, reader)
            found = self._found(head)
            body = await self._body(head, found, reader, writer, room)
        except asyncio.IncompleteReadError:
            return False
        except _DoubtError as doubt:
            await _send(writer, doubt.answer, goes_on=False)
            return False
        answer = found if isinstance(found, Answer) else await self._answer(found.work, body)
        await _send(writer, answer, goes_on=head.goes_on)
        return head.goes_on

    async def _head(self, first: bytes, reader: asyncio.StreamReader) -> Head:
        try:
            async with asyncio.timeout(SECONDS):
                return parse_head(first + await reader.readuntil(b"\r\n\r\n"), self._service.most)
        except asyncio.LimitOverrunError:
            raise _DoubtError(said(431, f"expected a head of at most {MAX_HEAD} bytes")) from None
        except TimeoutError:
            raise _DoubtError(said(408, f"expected a head within {SECONDS:g} s")) from None

    def _found(self, head: Head) -> Route | Answer:
        if not head.path.startswith(self._prefix):
            return NOTHING
        return self._service.find(head.method, head.path.removeprefix(self._prefix), head.proof)

    async def _body(
        self, head: Head, found: Route | Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: contextlib.AsyncExitStack
    ) -> bytes:
        """The whole body; what was answered already needs none, and is read for its end only, without being kept."""
        if isinstance(found, Answer):
            if head.waits and head.length:
                raise _DoubtError(found)
            await _forget(head.length, reader, found)
            return b""
        if head.length > SMALL:
            await room.enter_async_context(self._place(found.sender))
        if head.waits and head.length:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts: list[bytes] = []
        for at in range(0, head.length, SMALL):
            try:
                async with asyncio.timeout(SECONDS):
                    parts.append(await reader.readexactly(min(SMALL, head.length - at)))
            except TimeoutError:
                raise _DoubtError(said(408, f"expected {SMALL} bytes more within {SECONDS:g} s, or the end of the request")) from None
        return b"".join(parts)

    @contextlib.asynccontextmanager
    async def _place(self, sender: str) -> AsyncIterator[None]:
        """One of the places for large bodies, of those that this sender has."""
        if self._under_way[sender] >= MOST_OF_ONE:
            raise _busy(f"{MOST_OF_ONE} at once of one sender")
        self._under_way[sender] += 1
        try:
            try:
                async with asyncio.timeout(2 * SECONDS):  # longer than those that stall have theirs
                    await self._large.acquire()
            except TimeoutError:
                raise _busy(f"{MOST_LARGE} at once") from None
            try:
                yield
            finally:
                self._large.release()
        finally:
            self._under_way[sender] -= 1
            if not self._under_way[sender]:
                del self._under_way[sender]

    async def _answer(self, work: Work, body: bytes) -> Answer:
        """The service's word; where it has none in time, or fails as nobody foresaw, 503: nothing was said, and it may be asked again."""
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._worker, work, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, no signature leaves and nobody reads why
            _log.error("internal", exception=error)
            return said(503, "it could not: ask later")


def _busy(most: str) -> _DoubtError:
    return _DoubtError(said(503, f"expected requests of more than {SMALL} bytes {most}, got one more: ask later"))


async def _forget(length: int, reader: asyncio.StreamReader, answer: Answer) -> None:
    """A body of `length` has come and is forgotten, in `SECONDS` at most: behind its end the connection goes on."""
    try:
        async with asyncio.timeout(SECONDS):
            while length:
                part = await reader.read(min(SMALL, length))
                if not part:
                    raise asyncio.IncompleteReadError(b"", length)
                length -= len(part)
    except TimeoutError:
        raise _DoubtError(answer) from None


async def _send(writer: asyncio.StreamWriter, answer: Answer, *, goes_on: bool) -> None:
    lines = [
        f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        *([f"Allow: {answer.allow}"] if answer.allow else []),
        *([] if goes_on else ["Connection: close"]),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
    async with asyncio.timeout(SECONDS):
        await writer.drain()


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """No more is said; what the sender had still to say is read for a moment and forgotten, and what was said is delivered."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(MAX_HEAD):
                pass
            writer.close()
            await writer.wait_closed()
