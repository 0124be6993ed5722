"""Token Status List: one or a few bits for each token issued, compressed, in a signed token of its own.

    {"exp":…,"iat":…,"status_list":{"bits":1,"lst":"eNrbuRgAAhcBXQ"},"sub":"https://…/status/1","ttl":30}

Index i of a list of `bits` bits lies in byte i*bits//8, least significant bit first.

>>> revoked = StatusList.expand(1, bytes.fromhex("78dadbb918000217015d"))
>>> [revoked.get(i) for i in range(8)]
[1, 0, 0, 1, 1, 1, 0, 1]

Source: draft-ietf-oauth-status-list-21 sections 4, 5, 6, 7.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Misuse
from writ.formats.strict import Fields, b64url, decode_json, encode_json, parse_b64url

TYP: Final = "statuslist+jwt"
VALID: Final = 0
INVALID: Final = 1
SUSPENDED: Final = 2

BITS: Final = (1, 2, 4, 8)
MAX_BYTES: Final = 1 << 20
"""Bytes of one list when expanded: 8 million tokens at one bit. zlib packs zeros a thousandfold, so this is checked while expanding."""


@dataclass(frozen=True, slots=True)
class StatusList:
    """Statuses by index, packed. `values` holds them expanded, 1 byte to 1 MiB."""

    bits: int
    values: bytes

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise FormatError("status list.bits", "1, 2, 4 or 8", str(self.bits)[:40])
        if not 1 <= len(self.values) <= MAX_BYTES:
            raise FormatError("status list", f"1 to {MAX_BYTES} bytes", f"{len(self.values)} bytes")

    @classmethod
    def empty(cls, bits: int, size: int) -> StatusList:
        """A list with room for at least `size` tokens, all VALID."""
        return cls(bits, bytes((size * bits + 7) // 8))

    @classmethod
    def expand(cls, bits: int, compressed: bytes) -> StatusList:
        """Read the ZLIB stream `compressed` (RFC 1950), never holding more than 1 MiB. Raises FormatError."""
        stream = zlib.decompressobj()
        try:
            values = stream.decompress(compressed, MAX_BYTES + 1)
        except zlib.error:
            raise FormatError("status list", "a ZLIB stream", "bytes that are not one") from None
        if len(values) > MAX_BYTES:
            raise FormatError("status list", f"at most {MAX_BYTES} bytes when expanded", "more")
        if not stream.eof or stream.unused_data:
            raise FormatError("status list", "one whole ZLIB stream", "a part of one, or trailing bytes")
        return cls(bits, values)

    def compress(self) -> bytes:
        """The ZLIB stream, level 9. Another zlib may write another stream for the same list."""
        return zlib.compress(self.values, 9)

    @property
    def size(self) -> int:
        """How many tokens the list has room for."""
        return len(self.values) * 8 // self.bits

    def get(self, index: int) -> int:
        """The status at `index`. Outside of the list there is no status: raises FormatError."""
        at, shift = self._place(index)
        return self.values[at] >> shift & ((1 << self.bits) - 1)

    def with_status(self, index: int, value: int) -> StatusList:
        """The same list with `value` at `index`. Raises FormatError outside of the list, Misuse for a value of too many bits."""
        at, shift = self._place(index)
        mask = (1 << self.bits) - 1
        if not 0 <= value <= mask:
            raise Misuse(f"status {value} does not fit {self.bits} bits")
        changed = bytearray(self.values)
        changed[at] = changed[at] & ~(mask << shift) | value << shift
        return StatusList(self.bits, bytes(changed))

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.size:
            raise FormatError("status list index", f"0 to {self.size - 1}", str(index)[:40])
        return index * self.bits // 8, index * self.bits % 8


@dataclass(frozen=True, slots=True)
class StatusListToken:
    """The claims of a status list token. Not verified, and not said to be fresh.

    `sub` is the URI under which the list is fetched and to which tokens refer;
    `iat`, `exp` in seconds since the epoch, `ttl` in seconds.
    """

    sub: str
    iat: int
    exp: int
    ttl: int
    statuses: StatusList


def encode_status_list(token: StatusListToken) -> bytes:
    """The claims as JSON, the payload of a JWT with typ `statuslist+jwt`."""
    inner = {"bits": token.statuses.bits, "lst": b64url(token.statuses.compress())}
    return encode_json({"sub": token.sub, "iat": token.iat, "exp": token.exp, "ttl": token.ttl, "status_list": inner})


def parse_status_list(payload: bytes) -> StatusListToken:
    """Read the claims of a status list token; all five are required, of ours as of any. Raises FormatError."""
    f = Fields(decode_json(payload, "status list token", max_size=2 * MAX_BYTES), "status list token")
    inner = f.fields("status_list")
    bits = inner.uint("bits", most=8)
    lst = parse_b64url(inner.text("lst", most=2 * MAX_BYTES), "status list token.lst")
    inner.done()
    token = StatusListToken(
        sub=f.text("sub", least=1),
        iat=f.uint("iat"),
        exp=f.uint("exp"),
        ttl=f.uint("ttl"),
        statuses=StatusList.expand(bits, lst),
    )
    f.done()
    if token.exp <= token.iat:
        raise FormatError("status list token.exp", "a time after iat", str(token.exp))
    return token
