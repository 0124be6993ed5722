"""AMD's certificates of the keys that sign SNP reports (VCEK and VLEK), and the table in which a host hands them to a guest.

What a certificate says beside its key stands in extensions below 1.3.6.1.4.1.3704.1:

    .1  structVersion          .3.1 boot loader  .3.2 TEE  .3.3 SNP  .3.8 microcode  .3.9 FMC, on Turin
    .2  productName            .3.4 to .3.7      levels without meaning yet
    .4  hwID, of a VCEK        .5   cspID, of a VLEK

Numbers are INTEGERs and names IA5Strings. A hwID stands plainly in the oldest
certificates, and in an OCTET STRING in later ones: both are read. It has 64
bytes, on Turin 8. The structVersion is 0 or 1, and decides nothing: what is
read has to be there under any.

Source: AMD Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification (57230) revision 1.00, section 3.1; SEV-ES Guest-Hypervisor
Communication Block Standardization (56421) revision 2.03, section 4.1.8.1 on
the certificate table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from writ.formats.der import OCTET_STRING, DerReader
from writ.formats.errors import FormatError
from writ.formats.x509 import MAX_CERTIFICATE, Certificate, extension_values

LINES: Final = {"Milan": "Milan", "Genoa": "Genoa", "Bergamo": "Genoa", "Siena": "Genoa", "Turin": "Turin"}
"""Name of a product -> the line whose CAs certify it."""
CHIP_ID_SIZE: Final = 64
HWID_SIZES: Final = {"Milan": 64, "Genoa": 64, "Turin": 8}

_PREFIX: Final = "1.3.6.1.4.1.3704.1."
_IA5: Final = 0x16
_LEVELS: Final = {
    "Milan": ("1", "2", "4", "5", "6", "7", "3", "8"),
    "Genoa": ("1", "2", "4", "5", "6", "7", "3", "8"),
    "Turin": ("9", "1", "2", "3", "5", "6", "7", "8"),
}
"""Line -> the extension below .3 of each byte of a TCB_VERSION, in its order."""
_NO_MEANING: Final = frozenset("4567")
"""Levels that a certificate may leave out: they are zero."""

_TABLE_ENTRY: Final = 24
_MOST_ENTRIES: Final = 16
_TABLE_CERTIFICATES: Final = {
    "63da758d-e664-4564-adc5-f4b93be8accd": "VCEK",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1": "VLEK",
    "4ab7b379-bbac-4fe4-a02f-05aef327c782": "ASK",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae": "ARK",
}
"""GUID -> whose certificate it names. A host may add entries of its own, and a CRL."""
CERTIFICATES: Final = frozenset(_TABLE_CERTIFICATES.values())


@dataclass(frozen=True, slots=True)
class Vek:
    """A VCEK's or VLEK's certificate, and what it says of its key. Proves nothing about who issued it.

    `line` is the product line of `product`; `tcb` is a TCB_VERSION (8 bytes, in the layout of the line) for which the key was derived.
    `hwid` (64 bytes, 8 on Turin) is the chip of a VCEK, `csp` the cloud whose key a VLEK is; the other of the two is None.
    """

    certificate: Certificate
    kind: str
    product: str
    line: str
    tcb: bytes
    hwid: bytes | None
    csp: str | None

    @property
    def chip_id(self) -> bytes | None:
        """The CHIP_ID that a report of this chip states: the hwID, followed by zeros on Turin."""
        return None if self.hwid is None else self.hwid.ljust(CHIP_ID_SIZE, b"\0")


def parse_vek(certificate: Certificate) -> Vek | None:
    """What `certificate` says as that of a VCEK or VLEK; None where it is no such certificate. Raises FormatError."""
    said = {oid.removeprefix(_PREFIX): value for oid, value in extension_values(certificate).items() if oid.startswith(_PREFIX)}
    if not said or certificate.is_ca:
        return None
    _integer(said, "1")
    product = _name(said, "2")
    line = LINES.get(product.partition("-")[0])
    if line is None:
        raise FormatError("VEK.productName", f"one of {', '.join(LINES)}", repr(product[:40]))
    kinds = [kind for part, kind in (("4", "VCEK"), ("5", "VLEK")) if part in said]
    if len(kinds) != 1:
        raise FormatError("VEK", "a hwID or a cspID", " and ".join(kinds) or "neither")
    tcb = bytes(0 if level in _NO_MEANING and f"3.{level}" not in said else _integer(said, f"3.{level}") for level in _LEVELS[line])
    hwid = _hwid(said["4"], HWID_SIZES[line]) if "4" in said else None
    return Vek(certificate, kinds[0], product, line, tcb, hwid, _name(said, "5") if "5" in said else None)


def _value(said: Mapping[str, bytes], part: str) -> DerReader:
    if part not in said:
        raise FormatError("VEK", f"the extension {_PREFIX}{part}", "none")
    return DerReader(said[part], f"VEK.{part}")


def _integer(said: Mapping[str, bytes], part: str) -> int:
    reader = _value(said, part)
    value = reader.integer("level", most=2)
    reader.done()
    if not 0 <= value <= 0xFF:
        raise FormatError(f"VEK.{part}", "0 to 255", str(value))
    return value


def _name(said: Mapping[str, bytes], part: str) -> str:
    reader = _value(said, part)
    content = reader.next("name", _IA5).content
    reader.done()
    if not content.isascii() or not 1 <= len(content) <= 128:
        raise FormatError(f"VEK.{part}", "1 to 128 characters of ASCII", f"{len(content)} bytes")
    return content.decode("ascii")


def _hwid(value: bytes, size: int) -> bytes:
    if len(value) == size:
        return value
    reader = DerReader(value, "VEK.hwID")
    content = reader.next("value", OCTET_STRING).content
    reader.done()
    if len(content) != size:
        raise FormatError("VEK.hwID", f"{size} bytes", f"{len(content)} bytes")
    return content


def parse_certificate_table(data: bytes) -> tuple[tuple[str, bytes], ...]:
    """The entries of a host's certificate table: (whose, or the GUID of an entry that is not AMD's; its bytes). Raises FormatError.

    What lies between the entries and behind the last is padding to whole pages, and zero where it lies behind.
    """
    found: list[tuple[str, bytes]] = []
    spans: list[tuple[int, int]] = []
    at = 0
    while True:
        entry = data[at : at + _TABLE_ENTRY]
        if len(entry) < _TABLE_ENTRY or len(found) > _MOST_ENTRIES:
            raise FormatError("SNP certificate table", f"at most {_MOST_ENTRIES} entries and an end of zeros", "another", at)
        at += _TABLE_ENTRY
        if not any(entry):
            break
        start, size = int.from_bytes(entry[16:20], "little"), int.from_bytes(entry[20:24], "little")
        if not 1 <= size <= MAX_CERTIFICATE or start + size > len(data):
            raise FormatError("SNP certificate table", f"an entry of 1 to {MAX_CERTIFICATE} bytes within it", f"{size} at {start}", at)
        found.append((_whose(entry[:16]), data[start : start + size]))
        spans.append((start, start + size))
    if any(start < at for start, _ in spans) or any(data[max([at, *(end for _, end in spans)]) :]):
        raise FormatError("SNP certificate table", "entries behind their list, and zeros behind them", "other bytes")
    return tuple(found)


def _whose(guid: bytes) -> str:
    """Whose certificate it is, or the GUID as text. Hosts write AMD's with its digits in order, some with the first three parts turned."""
    turned = guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]
    texts = [f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" for text in (guid.hex(), turned.hex())]
    return next((_TABLE_CERTIFICATES[text] for text in texts if text in _TABLE_CERTIFICATES), texts[0])
