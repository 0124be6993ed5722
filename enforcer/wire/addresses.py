"""From a name to addresses, once; and which addresses are not public.

What is dialled is the address that was looked at: no name is looked up a second time between the check and the connection.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from enforcer.wire.destination import Address
from writ.formats.errors import Unavailable

MAX_ADDRESSES: Final = 8
"""Of one name; what a name has beyond is passed over."""
LOOKED_UP_WITHIN: Final = 10.0
"""Seconds: as long as the C library asks one server in vain (resolv.conf(5): timeout, attempts), so that it may ask another."""
MAX_LOOKED_UP: Final = 16
"""Look-ups of one resolver at once, also of those that nobody waits for any more."""
_Found = tuple[Address, ...] | Unavailable
# IANA's registries of special-purpose addresses (RFC 6890 and its updates): all that is not globally reachable, or is somebody's tunnel.
_FOUR: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
            "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # public by IANA, and in Azure the host of a machine: WireServer, which has its certificates and settings
        ),
    )
)  # fmt: skip
_GLOBAL: Final = IPv6Network("2000::/3")
"""The only unicast that IANA has given out. Outside: loopback, unique local, link-local, multicast, mapped, NAT64, fd00:ec2::254."""
_SIX: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))


class Resolver(Protocol):
    """Where names are looked up."""

    def addresses(self, name: str) -> tuple[Address, ...]:
        """The addresses of `name`, in the order to be tried. Raises Unavailable where there are none."""


def asked(name: str) -> list[str]:
    """The addresses that this host finds, each as often as it finds it. Takes as long as it likes. Raises OSError, UnicodeError."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)]


class SystemResolver:
    """As this host resolves names, but each only as it stands: no search list makes another name of it.

    The C library cannot be told when to stop. So it is asked on a thread that nobody waits for beyond the bound, and that has one of so
    many places until it ends: the threads of a pool would be waited for at the end of the process.
    """

    def __init__(self, ask: Callable[[str], Iterable[str]] = asked, *, within: float = LOOKED_UP_WITHIN, most: int = MAX_LOOKED_UP) -> None:
        """`ask` as `asked`. `within` is seconds, for a place and the answer together; `most` is how many places there are."""
        self._ask, self._within, self._most = ask, within, most
        self._room = threading.BoundedSemaphore(most)

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Raises Unavailable, also where there is no answer in time."""
        end = time.monotonic() + self._within
        if not self._room.acquire(timeout=self._within):
            raise Unavailable("name", f"{name}: {self._most} others are looked up and have no answer")
        answer = queue.SimpleQueue[_Found]()
        try:
            threading.Thread(target=self._look_up, args=(name, answer), name="look-up", daemon=True).start()
        except RuntimeError:
            self._room.release()
            raise Unavailable("name", f"{name}: no thread is left to look it up") from None
        try:
            found = answer.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise Unavailable("name", f"{name}: no answer within {self._within:g} s") from None
        if isinstance(found, Unavailable):
            raise found
        return found

    def _look_up(self, name: str, answer: queue.SimpleQueue[_Found]) -> None:
        try:
            answer.put(self._found(name))
        except Unavailable as error:
            answer.put(error)
        finally:
            self._room.release()

    def _found(self, name: str) -> tuple[Address, ...]:
        try:
            found = self._ask(name)
        except (OSError, UnicodeError) as error:
            raise Unavailable("name", f"{name}: {getattr(error, 'strerror', None) or 'cannot be looked up'}") from None
        return tuple(dict.fromkeys(ip_address(one.partition("%")[0]) for one in found))[:MAX_ADDRESSES]


def is_public(address: Address) -> bool:
    """Whether `address` belongs to the whole internet and is none of this host's own."""
    if isinstance(address, IPv4Address):
        special = any(address in network for network in _FOUR)
    else:
        special = address not in _GLOBAL or any(address in network for network in _SIX)
    return not special and not is_ours(address)


def is_ours(address: Address) -> bool:
    """Whether a connection to `address` would end on this host. Nothing is sent to find out."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False
        return ip_address(probe.getsockname()[0]) == address
