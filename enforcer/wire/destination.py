"""A destination as an agent names it: `HOST:PORT`, in one spelling, which is the resource of its action.

>>> parse_authority("API.Example.com:443").resource
'tcp:api.example.com:443'
>>> parse_authority("[2001:db8::1]", port=80).resource
'tcp:[2001:db8::1]:80'

Case is all that is normalised. Whatever somebody further on could read as another host is refused: user names, trailing dots, addresses
as one number, octal, hexadecimal, short or IPv6-mapped, ports with a sign, a zero before them or nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from writ.formats.errors import FormatError

Address = IPv4Address | IPv6Address
HTTP: Final = 80
HTTPS: Final = 443

_AUTHORITY: Final = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9_.-]{1,253}))(?::([^:]*))?\Z", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z", re.ASCII)
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z", re.ASCII)
"""A last label that makes readers of URLs take the whole for an IPv4 address (URL Standard, 3.5, "ends in a number")."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Destination:
    """`host` in lower case, an IPv6 address without its brackets; `literal` is the address that it is, None for a name."""

    host: str
    port: int
    literal: Address | None

    @property
    def authority(self) -> str:
        """`HOST:PORT`, with the brackets of an IPv6 address."""
        return f"[{self.host}]:{self.port}" if isinstance(self.literal, IPv6Address) else f"{self.host}:{self.port}"

    @property
    def resource(self) -> str:
        """What a grant names."""
        return f"tcp:{self.authority}"


def at(address: Address, port: int) -> Destination:
    """The destination that names `address` itself."""
    return Destination(str(address), port, address)


def parse_authority(text: str, *, port: int | None = None) -> Destination:
    """Read `HOST:PORT`; `port` is what a missing one means, None where there must be one. Raises FormatError."""
    found = _AUTHORITY.match(text.lower())
    if found is None:
        raise FormatError("authority", "HOST:PORT, without user name and percent signs", repr(text)[:80])
    six, host, given = found.groups()
    number = port if given is None else _port(given)
    if number is None:
        raise FormatError("authority", "a port", repr(text)[:80])
    if six is not None:
        return Destination(six, number, _six(six))
    labels = host.split(".")
    if _NUMBER.match(labels[-1]):
        return Destination(host, number, _four(host))
    if not all(map(_LABEL.match, labels)):
        raise FormatError("authority.host", "labels of letters, digits, - and _, without a dot at the end", repr(host)[:80])
    return Destination(host, number, None)


def _port(text: str) -> int:
    if not _PORT.match(text) or int(text) > 65535:
        raise FormatError("authority.port", "1 to 65535 in plain digits", repr(text)[:40])
    return int(text)


def _four(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise FormatError("authority.host", "an IPv4 address as four decimal numbers", repr(text)[:80]) from None


def _six(text: str) -> IPv6Address:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise FormatError("authority.host", "an IPv6 address", repr(text)[:80]) from None
    if address.ipv4_mapped is not None or str(address) != text:
        raise FormatError("authority.host", "an IPv6 address in its shortest spelling, which maps no IPv4 address", repr(text)[:80])
    return address
