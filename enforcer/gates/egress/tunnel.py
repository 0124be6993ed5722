"""Bytes both ways between an agent and the one address that it may talk to: counted, bounded, and begun as was granted.

What the agent says first decides. A TLS ClientHello must name the host of the grant, and only an address may go without a name; what is
no TLS passes where the port is not 443. After that the tunnel is opaque: nobody here can say what is in it.
"""

from __future__ import annotations

import select
import ssl
from dataclasses import dataclass, field
from typing import Final

from enforcer.gates.egress.client_hello import HANDSHAKE, read_client_hello
from enforcer.wire.destination import HTTPS, Destination
from enforcer.wire.limits import Ended, Limits
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError

_PART: Final = 64 << 10
_LATER: Final = (BlockingIOError, ssl.SSLWantReadError)


@dataclass(slots=True)
class Traffic:
    """What has passed so far, in bytes: `sent` by the agent, `received` by it."""

    sent: int = 0
    received: int = 0


def may_begin(destination: Destination, said: bytes) -> bool:
    """Whether a tunnel to `destination` may begin with `said`; False while that cannot be known yet. Raises FormatError where not."""
    if not said:
        return False
    if said[0] != HANDSHAKE:
        if destination.port == HTTPS:
            raise FormatError("tunnel", "a TLS ClientHello to port 443", f"0x{said[0]:02x} first")
        return True
    hello = read_client_hello(said)
    if hello is None:
        return False
    if hello.encrypted:
        raise FormatError("ClientHello", "no encrypted ClientHello", "one inside")
    expected = None if destination.literal is not None else destination.host
    named = None if hello.server_name is None else hello.server_name.lower()
    if named != expected:
        raise FormatError("ClientHello.server_name", expected or "none for an address", repr(hello.server_name)[:80])
    return True


@dataclass(slots=True)
class _Way:
    """One direction: what was read and not yet written, and how far it has come to its end."""

    source: Stream
    target: Stream
    waiting: bytearray = field(default_factory=bytearray)
    ended: bool = False
    closed: bool = False

    def reads(self) -> bool:
        return not self.ended and len(self.waiting) < _PART

    def writes(self) -> bool:
        return bool(self.waiting) or self.target.behind


def run(near: Stream, far: Stream, destination: Destination, limits: Limits, traffic: Traffic) -> None:
    """Both ways until both have ended, begun as may be. Raises Ended, FormatError (the beginning), OSError."""
    up, down = _pair(near, far)
    begun = _begins(up, destination)
    while not (up.closed and down.closed):
        _wait(up, down, begun, quiet=destination.port == HTTPS and not begun, idle=limits.idle)
        _read(up)
        _read(down)
        begun = begun or _begins(up, destination)
        if begun:
            traffic.sent += _write(up, limits.sent - traffic.sent)
        if begun or destination.port != HTTPS:
            traffic.received += _write(down, limits.received - traffic.received)


def join(near: Stream, far: Stream, limits: Limits, traffic: Traffic, *, halves: bool = True) -> None:
    """Both ways until both have ended, or with `halves` False until one has. Raises Ended, OSError."""
    up, down = _pair(near, far)
    while not (up.closed and down.closed) and (halves or not (up.closed or down.closed)):
        _wait(up, down, begun=True, quiet=False, idle=limits.idle)
        _read(up)
        _read(down)
        traffic.sent += _write(up, limits.sent - traffic.sent)
        traffic.received += _write(down, limits.received - traffic.received)


def _pair(near: Stream, far: Stream) -> tuple[_Way, _Way]:
    near.settimeout(0)
    far.settimeout(0)
    return _Way(near, far), _Way(far, near)


def _begins(up: _Way, destination: Destination) -> bool:
    """As `may_begin`; an agent that ends without a word only listens. Raises Ended where it ends in the middle of its beginning."""
    if may_begin(destination, bytes(up.waiting)):
        return True
    if up.ended and (up.waiting or destination.port == HTTPS):
        raise Ended("unbegun")
    return up.ended


def _wait(up: _Way, down: _Way, begun: bool, *, quiet: bool, idle: float) -> None:
    """Something can be read or written. Raises Ended after `idle` seconds without."""
    if any(way.reads() and way.source.waiting for way in (up, down)):
        return
    wanted: dict[int, int] = {}
    for way, writes in ((up, begun), (down, not quiet)):
        if way.reads():
            wanted[way.source.fileno()] = wanted.get(way.source.fileno(), 0) | select.POLLIN
        if way.writes() and writes:
            wanted[way.target.fileno()] = wanted.get(way.target.fileno(), 0) | select.POLLOUT
    poll = select.poll()
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    if not wanted or not poll.poll(idle * 1000):
        raise Ended("idle")


def _read(way: _Way) -> None:
    if not way.reads():
        return
    try:
        part = way.source.recv(_PART - len(way.waiting))
    except _LATER:
        return
    way.ended = not part
    way.waiting += part


def _write(way: _Way, left: int) -> int:
    """How many bytes were handed on; the end is handed on after the last. Raises Ended above `left`."""
    sent = 0
    try:
        if way.waiting:
            if left <= 0:
                raise Ended("limit")
            sent = way.target.send(memoryview(way.waiting)[: min(left, _PART)])
            del way.waiting[:sent]
        elif way.target.behind:
            way.target.flush()
    except _LATER:
        return sent
    if way.ended and not way.waiting and not way.target.behind and not way.closed:
        way.closed = True
        way.target.end()
    return sent
