"""The SGX extensions of a PCK certificate: which platform it is of, and at which TCB level it was issued.

    1.2.840.113741.1.13.1   SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, value }
       .1 PPID              OCTET STRING 16           .5 SGX type              ENUMERATED
       .2 TCB               SEQUENCE of the same:     .6 platform instance     OCTET STRING 16, of multi-package platforms
          .1 to .16         component SVNs            .7 configuration         SEQUENCE of the same:
          .17 PCE SVN       INTEGER                      .1 dynamic platform   BOOLEAN
          .18 CPU SVN       OCTET STRING 16              .2 cached keys        BOOLEAN
       .3 PCE ID            OCTET STRING 2               .3 SMT enabled        BOOLEAN
       .4 FMSPC             OCTET STRING 6

Each stands once, in any order; others are passed over.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification 1.5, section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.der import BOOLEAN, INTEGER, OCTET_STRING, SEQUENCE, DerReader, Element
from writ.formats.errors import FormatError
from writ.formats.x509 import Certificate, extension_values

SGX_EXTENSIONS: Final = "1.2.840.113741.1.13.1"
COMPONENTS: Final = 16
SGX_TYPES: Final = ("standard", "scalable", "scalable with integrity")

_ENUMERATED: Final = 0x0A
_MOST_ITEMS: Final = 32


@dataclass(frozen=True, slots=True)
class PckExtension:
    """What a PCK certificate says of its platform. `components` are the 16 SVNs that TCB levels are compared with.

    `platform_instance`, `dynamic_platform`, `cached_keys` and `smt` are None where the certificate does not say.
    """

    ppid: bytes
    components: tuple[int, ...]
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: str
    platform_instance: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None


def parse_pck(certificate: Certificate) -> PckExtension:
    """Read the SGX extensions of `certificate`. Raises FormatError, and nothing else."""
    value = extension_values(certificate).get(SGX_EXTENSIONS)
    if value is None:
        raise FormatError("PCK", f"a certificate with the SGX extensions ({SGX_EXTENSIONS})", "another")
    reader = DerReader(value, "PCK")
    items = _items(reader.sequence("extensions"), SGX_EXTENSIONS)
    reader.done()
    tcb = _inside(items, "2")
    configuration = _inside(items, "7") if "7" in items else {}
    kind = int.from_bytes(_value(items, "5", _ENUMERATED).content[:2], "big")
    if len(_value(items, "5", _ENUMERATED).content) != 1 or kind >= len(SGX_TYPES):
        raise FormatError("PCK.type", f"0 to {len(SGX_TYPES) - 1}", str(kind))
    return PckExtension(
        ppid=_octets(items, "1", 16),
        components=tuple(_svn(tcb, str(number), 0xFF) for number in range(1, COMPONENTS + 1)),
        pce_svn=_svn(tcb, "17", 0xFFFF),
        cpu_svn=_octets(tcb, "18", 16),
        pce_id=_octets(items, "3", 2),
        fmspc=_octets(items, "4", 6),
        sgx_type=SGX_TYPES[kind],
        platform_instance=_octets(items, "6", 16) if "6" in items else None,
        dynamic_platform=_flag(configuration, "1"),
        cached_keys=_flag(configuration, "2"),
        smt=_flag(configuration, "3"),
    )


_Items = dict[str, Element]


def _items(f: DerReader, arc: str) -> _Items:
    """Last arc -> value, of the items below `arc`."""
    found: _Items = {}
    while f.more:
        item = f.sequence("item")
        oid, value = item.oid("oid"), item.next("value")
        item.done()
        above, _, last = oid.rpartition(".")
        if above != arc or last in found or len(found) == _MOST_ITEMS:
            raise FormatError("PCK", f"at most {_MOST_ITEMS} items below {arc}, each once", oid)
        found[last] = value
    return found


def _inside(items: _Items, key: str) -> _Items:
    return _items(DerReader(_value(items, key, SEQUENCE).content, "PCK"), f"{SGX_EXTENSIONS}.{key}")


def _value(items: _Items, key: str, tag: int) -> Element:
    if key not in items or items[key].tag != tag:
        raise FormatError("PCK", f"item {key} with tag {tag:02x}", "none" if key not in items else f"tag {items[key].tag:02x}")
    return items[key]


def _octets(items: _Items, key: str, size: int) -> bytes:
    content = _value(items, key, OCTET_STRING).content
    if len(content) != size:
        raise FormatError("PCK", f"item {key} of {size} bytes", f"{len(content)} bytes")
    return content


def _svn(items: _Items, key: str, most: int) -> int:
    value = DerReader(_value(items, key, INTEGER).raw, "PCK").integer(key, most=4)
    if not 0 <= value <= most:
        raise FormatError("PCK", f"item {key} from 0 to {most}", str(value))
    return value


def _flag(items: _Items, key: str) -> bool | None:
    return DerReader(_value(items, key, BOOLEAN).raw, "PCK").boolean(key) if key in items else None
