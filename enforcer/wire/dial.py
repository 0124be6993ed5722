"""From a destination that may be reached to a connection with one address of it, each step within its bounds."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from enforcer.gatekeeper import Ruling
from enforcer.wire.addresses import Resolver, is_public
from enforcer.wire.destination import Address, Destination, at
from enforcer.wire.line import OpenLine
from writ.formats.errors import Refused, Unavailable


def addresses_of(
    destination: Destination, resolver: Resolver, ask: Callable[[Destination], Ruling], rulings: list[Ruling]
) -> tuple[Address, ...]:
    """Where the destination leads. Each address that is not public is asked for, and its ruling is among `rulings`.

    Raises Refused where one of them was refused, Unavailable where there is none.
    """
    if destination.literal is not None:
        return (destination.literal,)
    addresses = resolver.addresses(destination.host)
    if not addresses:
        raise Unavailable("name", f"{destination.host}: no address")
    for address in addresses:
        if is_public(address):
            continue
        if not isinstance(address, IPv4Address) and address.ipv4_mapped is not None:
            raise Unavailable("name", f"{destination.host}: leads to an IPv4-mapped address")
        rulings.append(ask(at(address, destination.port)))
        if not rulings[-1].permit:
            raise Refused(*rulings[-1].reasons)
    return addresses


@contextlib.contextmanager
def dialled(line: OpenLine, era: int, addresses: tuple[Address, ...], port: int, within: float) -> Iterator[socket.socket]:
    """A connection to the first of `addresses` that takes one, on the line. Raises Unavailable, Ended."""
    end, said = time.monotonic() + within, "no address"
    for address in addresses:
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        with line.joined(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), era) as far:
            said = connect(far, (str(address), port), max(0.0, end - time.monotonic()))
            if not said:
                yield far
                return
    raise Unavailable("destination", said)


def connect(far: socket.socket, to: tuple[str, int] | str, within: float) -> str:
    """Connected within so many seconds, or why not."""
    far.setblocking(False)
    number = far.connect_ex(to)
    if number == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(far, select.POLLOUT)
        if not poll.poll(within * 1000):
            return f"no answer within {within:.0f} s"
        number = far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if not number:
        try:
            far.getpeername()  # cut while it was being dialled: no error, and no peer
        except OSError as error:
            number = error.errno or errno.ENOTCONN
    return os.strerror(number) if number else ""
