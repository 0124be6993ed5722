"""HTTP that ends here: each request on a connection is an action on its URL, decided and recorded before any of it passes.

    agent ── TLS, as the host, by the CA of this instance ── requests ── TLS, as any client, verified ── the host

In HTTP/2 they come at once, each on a stream of its own. What is refused is refused alone there.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import h11

from enforcer.gates.egress.answer import Answer, malformed, saying
from enforcer.gates.egress.client_hello import HANDSHAKE
from enforcer.gates.egress.exchange import Exchange, Spent
from enforcer.gates.egress.http2 import Http2, Http2Stream
from enforcer.gates.egress.injection import injected
from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.gates.egress.request import Asked, Headers, parse_asked, parse_fields
from enforcer.gates.egress.side import Http1, Side
from enforcer.gates.egress.tunnel import may_begin
from enforcer.gates.egress.upstream import Upstream
from enforcer.gates.egress.way import CONNECT, Passage, Way
from enforcer.secrets.held import Secrets
from enforcer.wire.destination import Destination
from enforcer.wire.head import head_of
from enforcer.wire.host_tls import H1, H2
from enforcer.wire.limits import Ended
from enforcer.wire.stream import Stream, TlsStream
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.service import observe

STREAMS: Final = 128
"""Each has a thread, another while its content is sent, and windows (`http2.WINDOW`) of what may wait."""
_PART: Final = 64 << 10
_LOG = observe.get_logger(__name__)
_ALERTS: Final[Mapping[str, str]] = {
    "TLSV1_ALERT_UNKNOWN_CA": "unknown_ca",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad_certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "certificate_unknown",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "certificate_expired",
    "TLSV1_ALERT_ACCESS_DENIED": "access_denied",
}
"""Alerts by which clients refuse a certificate (RFC 8446 6.2)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Where TLS ends here: at `authorities`, each a `HOST:PORT` that a grant names; the CA for the agent, and the roots for the hosts."""

    authorities: frozenset[str]
    ca: InstanceCa
    upstream: Mapping[str, ssl.SSLContext]
    secrets: Secrets
    room: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(STREAMS))
    """For requests of HTTP/2, on all connections of the instance at once."""


class Session:
    """The requests of one connection of the agent, all to one destination."""

    def __init__(self, way: Way, opened: Opened, destination: Destination) -> None:
        self._way, self._opened, self._destination = way, opened, destination
        self._spent = Spent(way.limits)

    def run(self, raw: socket.socket, said: bytes, arguments: bytes) -> None:
        """One request after another, or many at once, until one side ends. `said` came on the tunnel that `arguments` asked for."""
        near, secure = self._begin(raw, said, arguments)
        with contextlib.closing(self._upstream(near.protocol == H2)) as upstream:
            if near.protocol == H2:
                self._streams(near, upstream)
            else:
                self._one_by_one(near, upstream, secure=secure)

    def once(self, near: Stream, asked: Asked, reader: h11.Connection) -> None:
        """One request, and the end."""
        with contextlib.closing(self._upstream(False)) as upstream:
            near.settimeout(self._way.limits.idle)
            side = Http1(near, reader, keep=False)
            self._pass(asked, side, Answer(saying(near), self._way.short, side.may_speak), upstream)

    def _upstream(self, newer: bool) -> Upstream:
        return Upstream(self._way, self._opened.upstream, H2 if newer else H1)

    def _begin(self, raw: socket.socket, said: bytes, arguments: bytes) -> tuple[Stream, bool]:
        """The stream of requests, and whether it is within TLS.

        What begins TLS for another host, or does not take the certificate of the instance's CA, is refused, and recorded. Raises Ended.
        """
        limits, end = self._way.limits, time.monotonic() + self._way.limits.head_within
        try:
            while not may_begin(self._destination, said):
                raw.settimeout(max(0.001, end - time.monotonic()))
                if not (part := raw.recv(_PART)) or time.monotonic() > end:
                    raise Ended("unbegun")
                said += part
            if said[0] != HANDSHAKE:
                near = Stream(raw)
                near.unread(said)
                return near, False
            tls = TlsStream(raw, self._opened.ca.context(self._destination), name=None, said=said)
            tls.handshake(limits.head_within)
        except TimeoutError:
            raise Ended("idle") from None
        except FormatError as error:
            against = malformed(error)
        except OSError as error:
            said_why = _ALERTS.get(getattr(error, "reason", None) or "", "another end of the handshake")
            against = Reason("tls-refused", "certificate", "a client that trusts the instance's CA", said_why)
        else:
            return tls, True
        if not self._way.line.is_cut_since(self._way.era):
            self._way.ask(CONNECT, self._destination.resource, arguments, against)
        raise Ended("unbegun")

    def _one_by_one(self, near: Stream, upstream: Upstream, *, secure: bool) -> None:
        """HTTP/1.1: the next once the one before has its whole answer, and nothing after a refusal."""
        way = self._way
        while True:
            try:
                data = head_of(near, way.limits.head_within, way.limits.idle)
                if not data:
                    return
                asked, reader = parse_asked(data, self._destination, secure=secure)
            except FormatError as error:
                Answer(saying(near), way.short).malformed(error)
                return
            side = Http1(near, reader)
            near.settimeout(way.limits.idle)
            if not self._pass(asked, side, Answer(saying(near), way.short, side.may_speak), upstream) or not side.done:
                return
            side.opened()

    def _streams(self, near: Stream, upstream: Upstream) -> None:
        """HTTP/2: each in a thread of its own, as far as there is room."""
        near.settimeout(self._way.limits.idle)
        http2, threads = Http2(near, self._way.limits, client=False), set[threading.Thread]()
        try:
            http2.begin()
            while True:
                for stream, fields, ended in http2.read():
                    if not stream.may_speak() or not self._opened.room.acquire(blocking=False):
                        stream.leave(refused=True)
                        continue
                    thread = threading.Thread(
                        target=self._attend, args=(stream, fields, ended, upstream), name="egress-stream", daemon=True
                    )  # fmt: skip
                    try:
                        thread.start()
                    except RuntimeError:  # no thread is left for it
                        stream.leave(refused=True)
                        self._opened.room.release()
                        continue
                    threads.add(thread)
                threads = {thread for thread in threads if thread.is_alive()}
        except FormatError as error:
            _LOG.warning("egress-malformed", what=error.what, expected=error.expected)  # what came is content
        finally:
            http2.fail(Ended("reset"))
            for thread in threads:
                thread.join()

    def _attend(self, stream: Http2Stream, fields: Headers, ended: bool, upstream: Upstream) -> None:
        answer = Answer(stream.say, self._way.short, stream.may_speak)
        try:
            self._pass(parse_fields(fields, self._destination, ended=ended), stream, answer, upstream)
        except FormatError as error:
            answer.malformed(error)
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("egress-failed", exception=error)
        finally:
            with contextlib.suppress(OSError):
                stream.leave()
            self._opened.room.release()

    def _pass(self, asked: Asked, near: Side, answer: Answer, upstream: Upstream) -> bool:
        """1. the ruling on the URL, 2. secrets, and the way to the destination, 3. the exchange, 4. the outcome. Whether all passed."""
        # 1
        way = self._way.of(asked.trace)
        ruling = way.ask(asked.action, asked.resource, asked.arguments)
        if not ruling.permit:
            answer.refused(ruling.reasons, ruling.sequence)
            return False
        # 4, 2
        with way.passing(ruling, answer, opaque=False) as passage:
            onward = self._injected(asked, passage, way)
            with upstream.reached(asked, passage) as far:
                # 3
                exchange = Exchange(near, far, way.limits, passage.traffic, self._spent)
                try:
                    exchange.run(onward)
                finally:
                    passage.passed(exchange)
        return passage.ended == "closed"

    def _injected(self, asked: Asked, passage: Passage, way: Way) -> h11.Request:
        """The request with secrets in the place of their placeholders. Raises Refused, Unavailable."""
        onward = asked.onward
        headers = injected(list(onward.headers.raw_items()), asked.resource, self._opened.secrets, way.ask, passage.rulings)
        return h11.Request(method=onward.method, target=onward.target, headers=headers)
