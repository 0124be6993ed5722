"""From a name to addresses, once; and which addresses are not public.

What is dialled is the address that was looked at: no name is looked up a second time between the check and the connection.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final, Protocol

from enforcer.wire.destination import Address
from writ.formats.errors import Unavailable

MAX_ADDRESSES: Final = 8
"""Of one name; what a name has beyond is passed over."""
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


class SystemResolver:
    """As this host resolves names, but each only as it stands: no search list makes another name of it."""

    def addresses(self, name: str) -> tuple[Address, ...]:
        """Raises Unavailable."""
        try:
            found = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        except (OSError, UnicodeError) as error:
            raise Unavailable("name", f"{name}: {getattr(error, 'strerror', None) or 'cannot be looked up'}") from None
        return tuple(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))[:MAX_ADDRESSES]


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
