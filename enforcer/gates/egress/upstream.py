"""The way to one destination for one connection of the agent: what is there is used again, where nothing of an answer is left in it.

Only an agent that speaks HTTP/2 leads to a host by HTTP/2; then its requests share one connection, as far as the host has room on it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from enforcer.gates.egress.http2 import Http2, Http2Stream
from enforcer.gates.egress.request import Asked
from enforcer.gates.egress.side import Http1, Side
from enforcer.gates.egress.way import Passage, Way
from enforcer.wire.destination import Destination
from enforcer.wire.host_tls import H1, H2
from enforcer.wire.limits import Ended
from enforcer.wire.stream import Stream, TlsStream
from writ.formats.errors import FormatError, Unavailable
from writ.service import observe

REACH: Final = "net.reach"
"""The action on an address that is not public and that a name leads to: unlike `net.connect` it opens no tunnel to it."""
_IDLE: Final = 8
"""Connections of HTTP/1.1 that are kept for another request."""
_LOG = observe.get_logger(__name__)


@dataclass(slots=True)
class _Far:
    """One connection with the destination; `http2` where that is spoken on it."""

    stream: Stream
    kept: contextlib.ExitStack
    address: str | None
    http2: Http2 | None = None


@dataclass(slots=True)
class Upstream:
    """Connections with one destination. Thread-safe; closed with the connection that it is for."""

    way: Way
    contexts: Mapping[str, ssl.SSLContext]
    newest: str
    """The version that may be spoken: `H1`, or `H2` and `H1`."""
    _all: list[_Far] = field(default_factory=list)
    _free: list[_Far] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _dialling: threading.Lock = field(default_factory=threading.Lock)
    _spoken: str | None = None

    @contextlib.contextmanager
    def reached(self, asked: Asked, passage: Passage) -> Iterator[Side]:
        """The far side of one exchange. Raises Refused, Unavailable, Ended."""
        far, side = self._taken(asked, passage)
        passage.address = far.address
        try:
            yield side
        finally:
            if isinstance(side, Http2Stream):
                with contextlib.suppress(OSError):
                    side.leave()
            else:
                self._give_back(far, side)

    def close(self) -> None:
        """None is there any more."""
        for far in list(self._all):
            self._drop(far)

    def _taken(self, asked: Asked, passage: Passage) -> tuple[_Far, Http1 | Http2Stream]:
        """One that is there, or a new one. Before it is known what is spoken there, one asks, and the others wait for what it finds."""
        if asked.secure and self.newest == H2 and self._spoken != H1:
            within = self.way.limits.dial_within
            if not self._dialling.acquire(timeout=within):
                raise Unavailable("destination", f"no answer within {within:.0f} s")
            try:
                if self._spoken != H1:
                    return self._shared() or self._dialled(asked, passage)
            finally:
                self._dialling.release()
        return self._waiting() or self._dialled(asked, passage)

    def _shared(self) -> tuple[_Far, Http2Stream] | None:
        for far in list(self._all):
            if far.http2 is None:
                continue
            if (side := far.http2.reserve()) is not None:
                return far, side
            if far.http2.spent:
                self._drop(far)
        return None

    def _waiting(self) -> tuple[_Far, Http1] | None:
        """One that has nothing to say unasked."""
        while True:
            with self._lock:
                if not self._free:
                    return None
                far = self._free.pop()
            with contextlib.suppress(OSError):
                if far.stream.come(1) is None:  # what TLS alone was told, as new tickets, is nothing
                    return far, Http1(far.stream)
            self._drop(far)

    def _dialled(self, asked: Asked, passage: Passage) -> tuple[_Far, Http1 | Http2Stream]:
        with contextlib.ExitStack() as kept:
            way = self.way.of(asked.trace)
            raw = kept.enter_context(way.reached(asked.destination, passage, REACH, asked.arguments))
            stream = self._secured(raw, asked.destination) if asked.secure else Stream(raw)
            stream.settimeout(self.way.limits.idle)
            far = _Far(stream, kept, passage.address)
            side: Http1 | Http2Stream | None = Http1(stream)
            if stream.protocol == H2:
                far.http2 = self._begun(stream, asked.destination, kept)
                side = far.http2.reserve()
            if side is None:
                raise Unavailable("HTTP/2", f"{asked.destination.host}: takes no request")
            far.kept = kept.pop_all()
        with self._lock:
            self._all.append(far)
            self._spoken = H1 if far.http2 is None else H2
        return far, side

    def _secured(self, raw: socket.socket, destination: Destination) -> TlsStream:
        """TLS with the destination, which has shown that it is the host. Raises Unavailable."""
        tls = TlsStream(raw, self.contexts[self.newest], name=destination.host)
        try:
            tls.handshake(self.way.limits.dial_within)
        except ssl.SSLCertVerificationError as error:
            raise Unavailable("certificate", f"{destination.host}: {error.verify_message}") from None
        except OSError:
            raise Unavailable("TLS", f"{destination.host}: no handshake") from None
        return tls

    def _begun(self, stream: Stream, destination: Destination, kept: contextlib.ExitStack) -> Http2:
        """Somebody reads from it, until it is closed. Raises Unavailable."""
        http2 = Http2(stream, self.way.limits, client=True)
        try:
            http2.begin()
            http2.settle()
        except (Ended, OSError, FormatError):
            raise Unavailable("HTTP/2", f"{destination.host}: no settings") from None
        thread = threading.Thread(target=_read, args=(http2,), name="egress-upstream", daemon=True)
        thread.start()
        kept.callback(thread.join)
        kept.callback(http2.fail, Ended("unanswered"))
        return http2

    def _give_back(self, far: _Far, side: Http1) -> None:
        with self._lock:
            if keep := side.done and len(self._free) < _IDLE:
                self._free.append(far)
        if not keep:
            self._drop(far)

    def _drop(self, far: _Far) -> None:
        with self._lock:
            self._all = [one for one in self._all if one is not far]
            self._free = [one for one in self._free if one is not far]
        far.kept.close()


def _read(http2: Http2) -> None:
    why: Exception = Ended("unanswered")
    try:
        while True:
            http2.read()
    except (Ended, OSError, FormatError) as error:
        why = error
    except Exception as error:  # noqa: BLE001 - a bug ends the connection, and its text does not leave
        _LOG.error("egress-failed", exception=error)
    finally:
        http2.fail(why)
