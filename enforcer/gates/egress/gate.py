"""The gate to the network: an HTTP proxy for one agent, at which every destination, or every request, is an action.

The agent finds it in HTTP_PROXY and HTTPS_PROXY. It takes `CONNECT HOST:PORT`, and any method on `http://…`, one request a connection:

    > CONNECT api.example.org:443 HTTP/1.1
    < HTTP/1.1 200 Connection established                                                        and then a tunnel, or HTTP
    < HTTP/1.1 403 Refused                 {"ok": false, "reference": "5f1c09ab-12", "refusal": {…}}
    < HTTP/1.1 502 Failed                  {"ok": false, "reference": "5f1c09ab-12", "failure": {"what": …, "detail": …}}
    < HTTP/1.1 400 Malformed               {"ok": false, "reference": null, "refusal": {…}}       no action, no record

Where the grants name a URL of `HOST:PORT`, the way there is HTTP and ends here: each request is the action `http.get` (and so on) on its
URL, as `session` says. Anywhere else the action is `net.connect` on `tcp:HOST:PORT`, and what passes is opaque. The one is never the
other's second try.

A name is looked up after that was permitted, once. Each address that it leads to and that is not public is an action of its own, on
`tcp:ADDRESS:PORT`, so it takes a grant of its own.

Who connects needs no proof: the listener is in the network namespace of the agent's sandbox, where nobody else is.
"""

from __future__ import annotations

import socket
import threading

from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.egress import tunnel
from enforcer.gates.egress.answer import Answer, saying
from enforcer.gates.egress.exchange import Exchange, Spent
from enforcer.gates.egress.request import Wanted, asked_of_proxy, parse_head
from enforcer.gates.egress.session import Opened, Session
from enforcer.gates.egress.side import Http1
from enforcer.gates.egress.way import CONNECT, Way
from enforcer.wire.addresses import Resolver
from enforcer.wire.head import head_of
from enforcer.wire.limits import Limits
from enforcer.wire.line import ListeningLine
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError


class EgressGate:
    """The proxy of one instance. It can be cut and mended, and closed for good."""

    def __init__(
        self, server: socket.socket, *, gatekeeper: Gatekeeper, resolver: Resolver, short: str, limits: Limits | None = None,
        opened: Opened | None = None, room: threading.BoundedSemaphore | None = None,
    ) -> None:  # fmt: skip
        """`server` listens on a port that it was told, and is ours from now on. `short` is the instance's short name in references.

        `room` is shared with the other ways of the sandbox, where it has any.
        """
        self._gatekeeper, self._resolver, self._short, self._opened = gatekeeper, resolver, short, opened
        self._limits = limits or Limits()
        self._line = ListeningLine(
            server, self._serve, room or threading.BoundedSemaphore(self._limits.connections), self._limits
        )  # fmt: skip
        self._line.begin(gatekeeper)
        self.close = self._line.close

    def _serve(self, raw: socket.socket, era: int) -> None:
        near = Stream(raw)
        way = Way(self._gatekeeper, self._resolver, self._limits, self._line, era, self._short)
        try:
            data = head_of(near, self._limits.head_within, self._limits.head_within)
            if not data:
                return
            wanted = parse_head(data)
            way = way.of(wanted.trace)
            opened = self._opened if self._opened is not None and wanted.destination.authority in self._opened.authorities else None
            asked = None if opened is None or wanted.onward is None else asked_of_proxy(wanted)
        except FormatError as error:
            Answer(saying(near), self._short).malformed(error)
            return
        if opened is None:
            self._opaque(near, wanted, way)
        elif asked is not None:
            Session(way, opened, wanted.destination).once(near, asked, wanted.reader)
        else:
            _establish(near)
            Session(way, opened, wanted.destination).run(raw, wanted.reader.trailing_data[0], wanted.arguments)

    def _opaque(self, near: Stream, wanted: Wanted, way: Way) -> None:
        """1. the ruling on the destination, 2. the address and the connection, 3. the forwarding, 4. the outcome."""
        # 1
        ruling = way.ask(CONNECT, wanted.destination.resource, wanted.arguments)
        onward, side = wanted.onward, Http1(near, wanted.reader, keep=False)
        answer = Answer(saying(near), self._short, side.may_speak)
        if not ruling.permit:
            answer.refused(ruling.reasons, ruling.sequence)
            return
        # 4, 2
        with (
            way.passing(ruling, answer, opaque=onward is None) as passage,
            way.reached(wanted.destination, passage, CONNECT, wanted.arguments) as raw,
        ):
            # 3
            if onward is not None:
                near.settimeout(self._limits.idle)
                raw.settimeout(self._limits.idle)
                exchange = Exchange(side, Http1(Stream(raw)), self._limits, passage.traffic, Spent(self._limits))
                try:
                    exchange.run(onward)
                finally:
                    passage.passed(exchange)
                return
            passage.loose = True
            answer.silence()
            near.settimeout(self._limits.idle)
            _establish(near)
            tunnel.run(side.opened(), Stream(raw), wanted.destination, self._limits, passage.traffic)


def _establish(near: Stream) -> None:
    near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
