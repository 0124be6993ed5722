"""A server of the Model Context Protocol on the network, over Streamable HTTP: asked by us, on connections of our own.

    > POST /mcp HTTP/1.1
    > MCP-Protocol-Version: 2026-07-28
    > Mcp-Method: tools/call
    > Mcp-Name: read
    >
    > {"id": 4, "jsonrpc": "2.0", "method": "tools/call", "params": {"name": "read", "arguments": {…}, "_meta": {…}}}
    < HTTP/1.1 200 OK
    < Content-Type: application/json                                       or text/event-stream, of which its last message is the answer

Its code is nobody's measurement: what binds it are the definitions that were approved, where it is, and TLS. An address that is not public
takes a grant of `net.reach`, and a secret in a header one of `secret.send`: each is asked for with the connection, and recorded. A name is
looked up once for each connection, and what is dialled is what was looked at. Redirects are not followed, no other generation is tried, and
what breaks the protocol ends the connection and fails the call.

Source: Model Context Protocol 2026-07-28 and 2025-11-25, basic/transports, Streamable HTTP.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from enforcer.credential import Held
from enforcer.gatekeeper import Ruling
from enforcer.tools.mcp_server import Fault, Hearing, McpServer, spelt
from enforcer.tools.tool import CALL_WITHIN, MAX_REPLY
from enforcer.wire.addresses import Resolver, is_public
from enforcer.wire.client import Client
from enforcer.wire.destination import HTTP, HTTPS, Address, Destination, at, parse_authority
from enforcer.wire.dial import addresses_of, dialled
from enforcer.wire.host_tls import H1
from enforcer.wire.limits import Ended
from enforcer.wire.line import OpenLine
from enforcer.wire.stream import Stream, TlsStream
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.mcp.answer import Answered, Said, parse_error, parse_said
from writ.formats.mcp.approved import ApprovedServer
from writ.formats.mcp.events import Events
from writ.formats.mcp.headers import request_headers
from writ.formats.mcp.protocol import MODERN
from writ.formats.mcp.request import NAMED
from writ.formats.strict import encode_json
from writ.service import observe

GATE: Final = "mcp"
REACH, SEND = "net.reach", "secret.send"
JSON, EVENTS = "application/json", "text/event-stream"
LIFE: Final = 60.0
"""Seconds after which a connection is asked no more: the next is decided anew."""
DIAL_WITHIN: Final = 10.0
MAX_ASKED: Final = 16
"""Requests of a server of the older generation to its client, beside one of ours."""
MAX_STREAM: Final = 4 << 20
"""Bytes of an answer that is a stream."""
_OVER_WITHIN: Final = 0.05
_SESSION: Final = re.compile(r"[\x21-\x7e]{1,256}\Z")
_LOG = observe.get_logger(__name__)


class Asks(Protocol):
    """Who decides and records: the gatekeeper."""

    def ask(self, action: Action, arguments: bytes, *, gate: str) -> Ruling:
        """Whether it may pass, recorded."""

    def outcome(self, ruling: Ruling, *, done: bool, result: bytes) -> bool:
        """What became of it is recorded."""


class Values(Protocol):
    """Where secrets are had: those of the instance."""

    def value(self, name: str, held: Held | None) -> bytes:
        """As `Secrets.value`."""


class _SessionOver(Exception):
    """The server says that it knows our session no more."""


@dataclass(slots=True)
class _Far:
    """A connection with it: what was permitted for it, and what is said of it in the end."""

    era: int
    client: Client
    kept: contextlib.ExitStack
    rulings: list[Ruling]
    address: str
    until: float
    held: dict[str, Ruling] = field(default_factory=dict)


class McpRemote(McpServer):
    """It can be cut and mended with everything else."""

    def __init__(
        self, name: str, approved: ApprovedServer, *, asks: Asks, resolver: Resolver, contexts: Mapping[str, ssl.SSLContext],
        secrets: Values,
    ) -> None:  # fmt: skip
        """`contexts` is how TLS is verified, by the version of HTTP; `secrets` are the instance's. Raises FormatError."""
        super().__init__(name, approved)
        if approved.remote is None:
            raise Misuse("a program's file")
        parts = urlsplit(approved.remote.url)
        self._what, self._path, self._secure = f"server {name}", parts.path, parts.scheme == "https"
        self._destination = parse_authority(parts.netloc, port=HTTPS if self._secure else HTTP)
        self._url = f"{parts.scheme}://{self._destination.authority}{parts.path}"
        self._arguments = encode_json({"url": self._url})
        self._remote, self._asks, self._resolver, self._contexts, self._secrets = approved.remote, asks, resolver, contexts, secrets
        self.line = OpenLine()
        self._lock = threading.RLock()
        self._far: _Far | None = None
        self._session: str | None = None
        self._next = 0
        self._came: float | None = None
        """When whoever has the turn began to wait for it."""
        self._unnamed: tuple[float, Unavailable] | None = None
        """When a look-up ended without an address, and why."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """As `Tool`: what is decided and what is forwarded are one after the other on our side, whatever others ask of the server."""
        came = time.monotonic()
        with self._lock:
            before = self._came
            self._came = came if before is None else before
            try:
                yield
            finally:
                self._came = before

    def leave(self, within: float) -> None:
        """A connection is opened anew by other code. Raises Unavailable where what is in flight does not end within `within` seconds."""
        self.line.cut()
        if not self._lock.acquire(timeout=within):
            raise Unavailable(self._what, "its call does not end")
        try:
            self._drop("closed")
        finally:
            self._lock.release()

    def close(self) -> None:
        """Nothing is asked any more. What is in flight fails."""
        self.line.cut()
        with self._lock:
            self._drop("closed")

    # --- a request -----------------------------------------------------------------------------------------------------------

    def _exchange(self, method: str, params: Mapping[str, Any], hearing: Hearing) -> Mapping[str, Any] | Fault:
        with self.turn():
            end = time.monotonic() + CALL_WITHIN
            try:
                try:
                    return self._in_session(method, params, hearing, end)
                except _SessionOver:
                    if method in NAMED:
                        raise Unavailable(self._what, "it forgot our session, and whether it did this is not known: ask again") from None
                    return self._in_session(method, params, hearing, end)
            except _SessionOver:
                raise Unavailable(self._what, "it knows no session of ours, however new") from None
            except (FormatError, Unavailable) as error:
                self._drop("malformed" if isinstance(error, FormatError) else "unavailable")
                raise
            except Ended as ended:
                self._drop(str(ended))
                raise Unavailable(self._what, "cut off") from None
            except TimeoutError:
                self._drop("idle")
                raise Unavailable(self._what, f"no answer within {CALL_WITHIN:.0f} s") from None
            except OSError as error:
                self._drop("reset")
                raise Unavailable(self._what, f"the connection ended: {type(error).__name__}") from None

    def _in_session(self, method: str, params: Mapping[str, Any], hearing: Hearing, end: float) -> Mapping[str, Any] | Fault:
        if self.approved.protocol != MODERN and not self._greeted:
            self._session = None
            greeting = Hearing()
            self._greeted_by(self._ask("initialize", self._greeting(), greeting, end))
            hearing.count(greeting)
            initialized = spelt({"jsonrpc": "2.0", "method": "notifications/initialized"})
            self._given(self._connected(end), initialized, "the end of the handshake", end)
            self._greeted = True
        return self._ask(method, params, hearing, end)

    def _ask(self, method: str, params: Mapping[str, Any], hearing: Hearing, end: float) -> Mapping[str, Any] | Fault:
        """1. The request goes. 2. Its status. 3. Messages, until one is the answer to it."""
        # 1
        self._next += 1
        far = self._connected(end)
        status, headers = far.client.post(
            self._path, self._headers(far, method, params), self._envelope(self._next, method, params, hearing), end
        )
        # 2
        kind = self._kind(headers)
        self._keep_session(headers, first=method == "initialize" and status == 200)
        if status == 404 and self._session is not None:
            self._greeted, self._session = False, None
            self._drop("closed")
            raise _SessionOver
        if status != 200:
            return self._error(far, self._next, status, kind, end)
        # 3
        for data in self._messages(far.client, kind, end):
            said = parse_said(data, self._what)
            if isinstance(said, Said):
                self._beside(said, hearing, kind, end)
                continue
            if said.identifier != self._next:
                raise FormatError(self._what, f"an answer to {self._next}", f"one to {said.identifier}")
            if kind == EVENTS and not far.client.over(_OVER_WITHIN):
                self._drop("closed")
            return _answered(said)
        raise Unavailable(self._what, "its stream ended without an answer")

    def _beside(self, said: Said, hearing: Hearing, kind: str, end: float) -> None:
        """A notification is heard. A request to us is declined on a stream of the older generation; elsewhere there must be none."""
        if said.identifier is None:
            hearing.hear(said, self._next)
        elif self.approved.protocol == MODERN or kind != EVENTS or hearing.asked >= MAX_ASKED:
            raise FormatError(self._what, "an answer, and no request of its own", repr(said.method)[:60])
        else:
            self._decline(said, hearing, end)

    def _decline(self, said: Said, hearing: Hearing, end: float) -> None:
        """It has its answer, on a connection of its own, while the stream goes on. Raises Unavailable, FormatError, Ended, OSError."""
        answer, ended = self._declining(said, hearing), "reset"
        try:
            far = self._dialled(end, self._came)
        except Refused as refused:  # by then the call is with the server: it was not refused
            raise Unavailable(self._what, f"its request cannot be declined: {refused.reasons[0]}") from None
        try:
            self._given(far, answer, "that its request is declined", end)
            ended = "closed"
        finally:
            self._end(far, ended)

    def _given(self, far: _Far, message: bytes, what: str, end: float) -> None:
        """A message of ours that has no answer is taken. Raises as `Client.post`."""
        status, headers = far.client.post(self._path, self._headers(far, "", {}), message, end)
        self._keep_session(headers, first=False)
        if status not in (200, 202, 204) or any(far.client.parts(end)):
            raise Unavailable(self._what, f"it did not take {what}: HTTP {status}")

    def _headers(self, far: _Far, method: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
        found = [("Accept", f"{JSON}, {EVENTS}")]
        if self.approved.protocol == MODERN:
            found += request_headers(method, params, MODERN, self._defined.get(str(params.get("name"))))
        elif method != "initialize":
            found.append(("MCP-Protocol-Version", self.approved.protocol))
        if self._session is not None:
            found.append(("Mcp-Session-Id", self._session))
        for called, text, secret in self._remote.headers:
            value = "" if secret is None else self._secret(secret, far)
            found.append((called, text + value))
        return found

    def _secret(self, name: str, far: _Far) -> str:
        try:
            return self._secrets.value(name, far.held[name].held).decode("ascii").removesuffix("\n")
        except (Unavailable, UnicodeDecodeError) as error:  # what it says of vaults, files and roles is for people of the host
            _LOG.warning("secret-missing", name=name, detail=str(error)[:200] if isinstance(error, Unavailable) else "not ASCII")
            raise Unavailable(f"secret {name}", "it cannot be had now") from None

    # --- a stream that is held ---------------------------------------------------------------------------------------------

    def listen(self, params: Mapping[str, Any], within: float) -> Generator[Said | Fault | None]:
        """What comes on a stream of its own for `subscriptions/listen`, to its end or an error; None each time so long has passed.

        The server acknowledges it first. Raises Unavailable, FormatError, Refused.
        """
        with self._lock:
            self._next += 1
            number = self._next
        method, end, ended = "subscriptions/listen", time.monotonic() + CALL_WITHIN, "closed"
        far = self._opened(end)
        try:
            body = self._envelope(number, method, params, Hearing())
            status, headers = far.client.post(self._path, self._headers(far, method, params), body, end)
            kind = self._kind(headers)
            if status != 200 or kind == JSON:
                yield self._error(far, number, status, kind, end)
                return
            if kind != EVENTS:
                raise FormatError(f"{self._what}, Content-Type", EVENTS, repr(kind)[:80])
            yield from self._held(far.client, number, within)
        except (FormatError, OSError, Unavailable, Ended) as error:
            ended = "malformed" if isinstance(error, FormatError) else "reset"
            raise error if isinstance(error, FormatError | Unavailable) else Unavailable(self._what, "the stream ended") from None
        finally:
            self._end(far, ended)

    def _held(self, client: Client, number: int, within: float) -> Iterator[Said | Fault | None]:
        events, acknowledged, looked = Events(MAX_REPLY), False, time.monotonic()
        while True:
            try:
                part = client.part(looked + within)
            except TimeoutError:
                looked = time.monotonic()
                yield None
                continue
            if part is None:
                raise Unavailable(self._what, "the stream ended")
            for data in events.feed(part):
                said = parse_said(data, self._what)
                if isinstance(said, Answered):
                    if said.identifier != number:
                        raise FormatError(self._what, f"an answer to {number}", f"one to {said.identifier}")
                    if said.error is not None:
                        yield Fault(*said.error)
                    return
                if said.identifier is not None or acknowledged == (said.method == "notifications/subscriptions/acknowledged"):
                    raise FormatError(self._what, "one acknowledgement, first, and no request", repr(said.method)[:60])
                acknowledged = True
                yield said

    def _opened(self, end: float) -> _Far:
        """A connection of its own. Raises as `_exchange`."""
        try:
            return self._dialled(end, None)
        except (Ended, OSError):
            raise Unavailable(self._what, "cut off") from None

    # --- what comes back -----------------------------------------------------------------------------------------------------

    def _kind(self, headers: Mapping[str, str]) -> str:
        """What kind of content it is: one of the two, or none. Raises FormatError for one in a coding."""
        if headers.get("content-encoding", "identity") != "identity":
            raise FormatError(self._what, "a content that is not encoded", repr(headers["content-encoding"])[:40])
        return headers.get("content-type", "").lower().replace(" ", "").removesuffix(";charset=utf-8")

    def _keep_session(self, headers: Mapping[str, str], *, first: bool) -> None:
        """The session of the older generation is the one that the handshake's answer named. Raises FormatError for another later."""
        said = headers.get("mcp-session-id")
        if self.approved.protocol == MODERN or said is None:
            return
        if not _SESSION.match(said) or (not first and said != self._session):
            raise FormatError(self._what, "the session that the handshake named" if not first else "a session id", "another")
        self._session = said

    def _error(self, far: _Far, number: int, status: int, kind: str, end: float) -> Fault:
        """What is said with a status that is no answer. Raises FormatError, Unavailable."""
        if 300 <= status < 400:
            raise FormatError(self._what, "an answer, and no redirect", f"HTTP {status}")
        if kind != JSON or status in (401, 403, 407):  # these may repeat what we were known by, and the agent would hear of it
            raise Unavailable(self._what, f"HTTP {status}")
        data = _whole(far.client.parts(end), self._what)
        try:
            return Fault(*parse_error(data, self._what, number))
        except FormatError:
            raise Unavailable(self._what, f"HTTP {status}") from None

    def _messages(self, client: Client, kind: str, end: float) -> Iterator[bytes]:
        """One in an object, or as many as there are in a stream. Raises FormatError for any other kind of content."""
        if kind == JSON:
            yield _whole(client.parts(end), self._what)
        elif kind == EVENTS:
            events, size = Events(MAX_REPLY), 0
            for part in client.parts(end):
                if (size := size + len(part)) > MAX_STREAM:
                    raise FormatError(self._what, f"a stream of at most {MAX_STREAM} bytes", "more")
                yield from events.feed(part)
        else:
            raise FormatError(f"{self._what}, Content-Type", f"{JSON} or {EVENTS}", repr(kind)[:80])

    # --- the way to it ---------------------------------------------------------------------------------------------------------

    def _connected(self, end: float) -> _Far:
        """The connection that is there, if nothing has come on it unasked; else another."""
        far = self._far
        if far is not None and (self.line.is_cut_since(far.era) or time.monotonic() > far.until or not far.client.ready):
            self._drop("cut" if self.line.is_cut_since(far.era) else "closed")
        if self._far is None:
            self._far = self._dialled(end, self._came)
        return self._far

    def _dialled(self, end: float, came: float | None) -> _Far:
        """1. What is not public on the way, and each secret, is asked for. 2. A connection. 3. TLS, with the host.

        `came` is since when it was waited for, None where it was not.

        Raises Refused, Unavailable, Ended, OSError.
        """
        era, rulings, held, address = self.line.era, list[Ruling](), dict[str, Ruling](), ""
        within = min(DIAL_WITHIN, max(0.001, end - time.monotonic()))
        try:
            # 1
            addresses = self._addresses(rulings, came)
            for secret in sorted(self._remote.secrets):
                arguments = encode_json({"secret": secret, "url": self._url})
                rulings.append(self._ruled(SEND, f"secret:{secret}@{self._url}", arguments))
                held[secret] = rulings[-1]
            if refused := [one for one in rulings if not one.permit]:
                raise Refused(*refused[0].reasons)
            with contextlib.ExitStack() as kept:
                # 2
                raw = kept.enter_context(dialled(self.line, era, addresses, self._destination.port, within))
                address = raw.getpeername()[0]
                # 3
                stream = self._secured(raw, within) if self._secure else Stream(raw)
                client = Client(stream, self._what, self._destination.authority)
                return _Far(era, client, kept.pop_all(), rulings, address, time.monotonic() + LIFE, held)
        except BaseException:
            self._outcomes(rulings, {"address": address, "ended": "unavailable", "received": 0, "sent": 0}, done=False)
            raise

    def _addresses(self, rulings: list[Ruling], came: float | None) -> tuple[Address, ...]:
        """Where it is. Each address that is not public is asked for, also one that the file names. Raises Refused, Unavailable.

        Whoever waited while the name led nowhere is told the same: a slow look-up holds a turn once, and not one after another.
        """

        def ask(place: Destination) -> Ruling:
            return self._ruled(REACH, place.resource, self._arguments)

        literal = self._destination.literal
        if literal is not None and not is_public(literal):
            rulings.append(ask(at(literal, self._destination.port)))
        if came is not None and self._unnamed is not None and came < self._unnamed[0]:
            raise Unavailable(self._unnamed[1].what, self._unnamed[1].detail)
        try:
            return addresses_of(self._destination, self._resolver, ask, rulings)
        except Unavailable as error:
            self._unnamed = (time.monotonic(), error)
            raise

    def _ruled(self, action: str, resource: str, arguments: bytes) -> Ruling:
        return self._asks.ask(Action(action, resource, Digest.of(arguments)), arguments, gate=GATE)

    def _secured(self, raw: socket.socket, within: float) -> TlsStream:
        host = self._destination.host
        tls = TlsStream(raw, self._contexts[H1], name=host)
        try:
            tls.handshake(within)
        except ssl.SSLCertVerificationError as error:
            raise Unavailable("certificate", f"{host}: {error.verify_message}") from None
        except OSError:
            raise Unavailable("TLS", f"{host}: no handshake") from None
        return tls

    def _drop(self, ended: str) -> None:
        far, self._far = self._far, None
        if far is not None:
            self._end(far, ended)

    def _end(self, far: _Far, ended: str) -> None:
        """The connection is gone, and what it was permitted for has its outcome."""
        far.kept.close()
        if self.line.is_cut_since(far.era):
            ended = "cut"
        result = {"address": far.address, "ended": ended, "received": far.client.received, "sent": far.client.sent}
        self._outcomes(far.rulings, result, done=ended == "closed")

    def _outcomes(self, rulings: list[Ruling], result: Mapping[str, Any], *, done: bool) -> None:
        for ruling in rulings:
            if ruling.permit and not self._asks.outcome(ruling, done=done, result=encode_json(dict(result))):
                _LOG.error("outcome-not-durable", sequence=ruling.sequence)


def _answered(said: Answered) -> Mapping[str, Any] | Fault:
    return said.result if said.result is not None else Fault(*said.error) if said.error is not None else {}


def _whole(parts: Iterator[bytes], what: str) -> bytes:
    """Raises FormatError above the bound."""
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > MAX_REPLY:
            raise FormatError(what, f"at most {MAX_REPLY} bytes", "more")
    return bytes(body)
