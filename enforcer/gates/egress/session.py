"""HTTP that ends here: each request on a connection is an action on its URL, decided and recorded before any of it passes.

    agent ── TLS, as the host, by the CA of this instance ── requests, one after another ── TLS, as any client, verified ── the host

The connection with the destination serves this connection of the agent only, and is used again where nothing of an answer is left in it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import h11

from enforcer.gates.egress.answer import Answer, malformed
from enforcer.gates.egress.client_hello import HANDSHAKE
from enforcer.gates.egress.destination import Destination
from enforcer.gates.egress.exchange import Exchange
from enforcer.gates.egress.injection import injected
from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.gates.egress.request import END, MAX_HEAD, Asked, parse_asked
from enforcer.gates.egress.stream import Stream, TlsStream
from enforcer.gates.egress.tunnel import Ended, may_begin
from enforcer.gates.egress.way import CONNECT, Passage, Way
from enforcer.secrets.held import Secrets
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason

REACH: Final = "net.reach"
"""The action on an address that is not public and that a name leads to: unlike `net.connect` it opens no tunnel to it."""
_PART: Final = 64 << 10
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
    """Where TLS ends here: at `authorities`, each a `HOST:PORT` that a grant names; the CA for the agent, and the roots for the hosts.

    `secrets` are the instance's, for what goes there.
    """

    authorities: frozenset[str]
    ca: InstanceCa
    upstream: ssl.SSLContext
    secrets: Secrets


def head_of(near: Stream, within: float, idle: float) -> bytes:
    """What came, at least to the end of a head; none where nothing came at all. `idle` seconds for its first byte, `within` for the rest.

    Raises FormatError above `MAX_HEAD`, Ended where it does not come whole in time.
    """
    data, seconds, end = b"", idle, None
    while END not in data:
        if len(data) > MAX_HEAD:
            raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
        near.settimeout(max(0.001, seconds))
        try:
            part = near.recv(MAX_HEAD)
        except TimeoutError:
            raise Ended("idle") from None
        if not part and not data:
            return b""
        end = end or time.monotonic() + within
        seconds = end - time.monotonic()
        if not part or seconds < 0:
            raise Ended("idle")
        data += part
    if data.index(END) > MAX_HEAD:
        raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
    return data


class Session:
    """The requests of one connection of the agent, all to one destination."""

    def __init__(self, way: Way, opened: Opened, destination: Destination) -> None:
        self._way, self._opened, self._destination = way, opened, destination
        self._kept = contextlib.ExitStack()
        self._far: Stream | None = None
        self._address: str | None = None

    def run(self, raw: socket.socket, said: bytes, arguments: bytes) -> None:
        """One request after another, until one side ends. `said` came on the tunnel that `arguments` asked for."""
        near, secure = self._begin(raw, said, arguments)
        with self._kept:
            while True:
                try:
                    data = head_of(near, self._way.limits.head_within, self._way.limits.idle)
                    asked = parse_asked(data, self._destination, secure=secure) if data else None
                except FormatError as error:
                    Answer(near, self._way.short).malformed(error)
                    return
                if asked is None or not self._one(near, asked, keep=True):
                    return

    def once(self, near: Stream, asked: Asked) -> None:
        """One request, and the end."""
        with self._kept:
            self._one(near, asked, keep=False)

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

    def _one(self, near: Stream, asked: Asked, *, keep: bool) -> bool:
        """Whether another request may follow."""
        way, reader = self._way, asked.reader
        ruling = way.ask(asked.action, asked.resource, asked.arguments)
        answer = Answer(near, way.short, lambda: reader.our_state in (h11.IDLE, h11.SEND_RESPONSE))
        if not ruling.permit:
            answer.refused(ruling.reasons, ruling.sequence)
            return False
        again = False
        with way.passing(ruling, answer, opaque=False) as passage:
            headers = injected(list(asked.onward.headers.raw_items()), asked.resource, self._opened.secrets, way.ask, passage.rulings)
            onward = h11.Request(method=asked.onward.method, target=asked.onward.target, headers=headers)
            far = self._reach(asked, passage)
            exchange = Exchange(near, reader, far, way.limits, passage.traffic)
            try:
                again = exchange.run(onward, keep=keep)
            finally:
                passage.loose = exchange.switched
        if not again:
            self._drop()
        near.unread(reader.trailing_data[0])
        return passage.ended == "closed" and (reader.our_state, reader.their_state) == (h11.DONE, h11.DONE)

    def _reach(self, asked: Asked, passage: Passage) -> Stream:
        """The stream to the destination: the one that is there, if it has nothing to say unasked, or a new one.

        Raises Refused, Unavailable, Ended.
        """
        if self._far is not None and (self._far.waiting or select.select([self._far], [], [], 0)[0]):
            self._drop()
        if self._far is None:
            raw = self._kept.enter_context(self._way.reached(asked.destination, passage, REACH, asked.arguments))
            self._address, self._far = passage.address, self._secured(raw) if asked.secure else Stream(raw)
        passage.address = self._address
        return self._far

    def _secured(self, raw: socket.socket) -> TlsStream:
        """TLS with the destination, which has shown that it is the host. Raises Unavailable."""
        tls = TlsStream(raw, self._opened.upstream, name=self._destination.host)
        try:
            tls.handshake(self._way.limits.dial_within)
        except ssl.SSLCertVerificationError as error:
            raise Unavailable("certificate", f"{self._destination.host}: {error.verify_message}") from None
        except OSError:
            raise Unavailable("TLS", f"{self._destination.host}: no handshake") from None
        return tls

    def _drop(self) -> None:
        self._kept.close()
        self._far = None
