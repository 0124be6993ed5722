"""Ways of one kind of connection each, for clients and servers that speak to no proxy. What passes is opaque, and one action.

agent ── 127.0.0.1:LISTEN inside ── `net.connect` on what the manifest's forward names
somebody ── an address of this host that its configuration names ── `net.accept` on tcp:PORT ── 127.0.0.1:PORT inside
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from enforcer.gates.egress import tunnel
from enforcer.gates.egress.answer import Answer
from enforcer.gates.egress.way import CONNECT, Passage, Way
from enforcer.quota import Quota
from enforcer.wire.destination import Destination
from enforcer.wire.dial import connect
from enforcer.wire.stream import Stream
from writ.formats.errors import Unavailable
from writ.formats.strict import encode_json

ACCEPT: Final = "net.accept"
INBOUND_SHARE: Final = 4
"""Of what an instance may write into its log, connections of others take one part of so many."""
_RECORDS: Final = 1_024
"""What a connection costs beside its first record: an outcome, and what both say."""
MakeWay = Callable[[int], Way]


class Served(Protocol):
    """What happens on each connection of a listener."""

    def serve(self, raw: socket.socket, era: int) -> None:
        """From its beginning to its end."""


class Forwarded:
    """Serves connections of the agent to a port of its own, each connected with `destination`."""

    def __init__(self, listen: int, destination: Destination, way: MakeWay) -> None:
        self._arguments, self._destination, self._way = encode_json({"listen": listen}), destination, way

    def serve(self, raw: socket.socket, era: int) -> None:
        """As the tunnel of a proxy: what begins TLS must name the host."""
        way = self._way(era)
        ruling = way.ask(CONNECT, self._destination.resource, self._arguments)
        if not ruling.permit:
            return
        with (
            way.passing(ruling, Answer(None, way.short), opaque=True) as passage,
            way.reached(self._destination, passage, CONNECT, self._arguments) as far,
        ):
            passage.loose = True
            tunnel.run(Stream(raw), Stream(far), self._destination, way.limits, passage.traffic)


class Local:
    """Serves connections of the agent to a port of its own, each connected with a unix socket of the host."""

    def __init__(self, listen: int, path: str, way: MakeWay) -> None:
        self._arguments, self._path, self._way = encode_json({"listen": listen}), path, way

    def serve(self, raw: socket.socket, era: int) -> None:
        """Bytes, as they are."""
        way = self._way(era)
        ruling = way.ask(CONNECT, f"unix:{self._path}", self._arguments)
        if not ruling.permit:
            return
        with way.passing(ruling, Answer(None, way.short), opaque=True) as passage:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            with _connected(way, made, self._path, passage, self._path) as far:
                tunnel.join(Stream(raw), Stream(far), way.limits, passage.traffic)


class Inbound:
    """Serves connections of others, each connected with a port inside; `inside` makes sockets of there."""

    def __init__(self, port: int, inside: Callable[[], socket.socket], address: str, quota: Quota, way: MakeWay) -> None:
        """`quota` is what others may use up of the instance's log, of which its own actions need the rest."""
        self._port, self._inside, self._address, self._quota, self._way = port, inside, address, quota, way

    def serve(self, raw: socket.socket, era: int) -> None:
        """Bytes, as they are: to the agent they come from its own loopback."""
        if self._quota.take(_RECORDS) is not None:
            return
        way, peer = self._way(era), raw.getpeername()
        arguments = encode_json({"peer": f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"})
        ruling = way.ask(ACCEPT, f"tcp:{self._port}", arguments)
        if not ruling.permit:
            return
        with (
            way.passing(ruling, Answer(None, way.short), opaque=True) as passage,
            _connected(way, self._inside(), (self._address, self._port), passage, peer[0]) as agent,
        ):
            passage.loose = True
            tunnel.join(Stream(agent), Stream(raw), way.limits, passage.traffic)


@contextmanager
def _connected(way: Way, made: socket.socket, to: tuple[str, int] | str, passage: Passage, address: str) -> Iterator[socket.socket]:
    """`made` is on the line, and connected. Raises Unavailable, Ended."""
    with way.line.joined(made, way.era):
        if said := connect(made, to, way.limits.dial_within):
            raise Unavailable("destination", said)
        passage.address = address
        yield made
