"""DICE: what a certificate of a layered device says about the firmware that holds its key.

    TcbInfo            SEQUENCE { vendor [0] model [1] version [2] svn [3] layer [4] index [5] fwids [6] flags [7] vendorInfo [8] type [9] }
    CompositeDeviceID  SEQUENCE { version 1, SubjectPublicKeyInfo of the device, FWID }
    FWID               SEQUENCE { hash algorithm, digest }

TcbInfo is the extension 2.23.133.5.4.1.1, or 2.23.133.5.4.1, as are CompositeDeviceIDs of devices that came before it was written: those
begin with a number. What is read is worth what the certificate is.

>>> parse_tcb_info(bytes.fromhex("3014a612301006096086480165030402020403010203"))
TcbInfo(firmware=(b'\\x01\\x02\\x03',), flags=frozenset())

Source: TCG DICE Attestation Architecture 1.1, "TCB Info Extension"; TCG Implicit Identity Based Device Attestation 1.0,
"CompositeDeviceID".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.der import INTEGER, OCTET_STRING, SEQUENCE, DerReader
from writ.formats.errors import FormatError
from writ.formats.x509 import Certificate, extension_values

TCB_INFO: Final = ("2.23.133.5.4.1.1", "2.23.133.5.4.1")
NOT_SECURE: Final = 1
RECOVERY: Final = 2
DEBUG: Final = 3
"""Bits of OperationalFlags."""
_FIRMWARE: Final = 0xA6
_FLAGS: Final = 0x87
_LAST: Final = 0x0B
"""Number of the last member that is known (integrity registers)."""
_MOST_FIRMWARE: Final = 16


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """`firmware` are the digests of it, the first that of the layer's own; `flags` the bits of OperationalFlags that are set."""

    firmware: tuple[bytes, ...]
    flags: frozenset[int]


def tcb_info(certificate: Certificate) -> TcbInfo | None:
    """What the certificate says of its firmware, None where it says nothing. Raises FormatError."""
    values = extension_values(certificate)
    value = next((values[oid] for oid in TCB_INFO if oid in values), None)
    return None if value is None else parse_tcb_info(value)


def parse_tcb_info(der: bytes) -> TcbInfo:
    """Read exactly one TcbInfo or CompositeDeviceID. Raises FormatError, and nothing else."""
    outer = DerReader(der, "DICE")
    body = outer.sequence("whole")
    outer.done()
    if body.next_tag == INTEGER:
        if body.integer("version", most=1) != 1:
            raise body.error("version", "1", "another")
        body.next("device", SEQUENCE)
        firmware = _firmware(body.sequence("fwid"))
        body.done()
        return TcbInfo((firmware,), frozenset())
    found: list[bytes] = []
    flags: frozenset[int] = frozenset()
    last = -1
    while body.more:
        member = body.next("member")
        number = member.tag & 0x1F
        if member.tag >> 6 != 2 or not last < number <= _LAST:
            raise body.error("member", f"members 0 to {_LAST} in their order", f"tag {member.tag:02x}")
        last = number
        if member.tag == _FIRMWARE:
            items = body.inside(member, "fwids")
            while items.more:
                found.append(_firmware(items.sequence("fwid")))
                if len(found) > _MOST_FIRMWARE:
                    raise body.error("fwids", f"at most {_MOST_FIRMWARE}", "more")
        elif member.tag == _FLAGS:
            flags = _bits(member.content)
    return TcbInfo(tuple(found), flags)


def _firmware(f: DerReader) -> bytes:
    f.oid("hash")
    digest = f.next("digest", OCTET_STRING).content
    f.done()
    return digest


def _bits(content: bytes) -> frozenset[int]:
    if not content or content[0] > 7 or not 2 <= len(content) <= 5:
        raise FormatError("DICE.flags", "a BIT STRING of 1 to 32 bits", content[:8].hex() or "nothing")
    return frozenset(bit for bit in range(8 * (len(content) - 1)) if content[1 + bit // 8] >> (7 - bit % 8) & 1)
