"""Reference Integrity Manifests of NVIDIA: SWID tags that sign themselves, and name the measurements that a firmware or driver gives.

    <SoftwareIdentity name="GH100" tagId="…" …><Meta colloquialVersion="550.144.03" product="GH100" …/><Payload>
      <Resource type="Measurement" index="7" active="True" alternatives="2" sha384:Hash0="…" sha384:Hash1="…" name="…" size="48"/>
      <Resource type="Measurement" index="4134" active="True" name="…" opaque:minSvn="3" …/> …</Payload><ds:Signature/></SoftwareIdentity>

An index counts from 0, an SPDM block from 1. From 4096 on it is the number of a field of opaque data, and what is named is the least
security version that the field may state. Inactive resources name nothing. Parsed, not verified.

>>> parse_rim(b"<a/>")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: RIM: expected one Signature, the last child of the document, got 0

Source: ISO/IEC 19770-2:2015; TCG Reference Integrity Manifest Information Model 1.01; NVIDIA attestation-sdk, rim.cpp.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json
from writ.formats.xmldsig import MAX_XML, Element, SignedXml, parse_signed_xml

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
_OPAQUE: Final = "https://docs.nvidia.com/attestation/specs/latest/opaque-data.html"
_FIRST_OPAQUE: Final = 0x1000
_LAST_OPAQUE: Final = _FIRST_OPAQUE + 0xFFFF
_LAST_MEASUREMENT: Final = 253
"""Of block 254."""
_MOST_ALTERNATIVES: Final = 64
_MOST_RESOURCES: Final = 1024
_MOST_DIGITS: Final = 8
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}){1,64}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class SvnFloor:
    """The least security version that the field `field` of opaque data may state, and what it is called."""

    field: int
    name: str
    least: int


@dataclass(frozen=True, slots=True)
class Rim:
    """What one RIM names. `version` is the colloquial one of driver or VBIOS; `measurements` are index (from 0) -> values.

    Any of the values of an index holds. `document` has the signature and the certificates.
    """

    version: str
    product: str
    tag_id: str
    measurements: Mapping[int, tuple[bytes, ...]]
    floors: tuple[SvnFloor, ...]
    document: SignedXml


def parse_rim(data: bytes) -> Rim:
    """Read exactly one RIM. Raises FormatError, and nothing else.

    A resource of an unknown kind is refused: it would name something that nobody compares.
    """
    document = parse_signed_xml(data, "RIM")
    root = document.root
    if root.name != (SWID, "SoftwareIdentity"):
        raise FormatError("RIM", "a SoftwareIdentity", root.name[1][:80])
    meta, payload = _only(root, "Meta"), _only(root, "Payload")
    measurements: dict[int, tuple[bytes, ...]] = {}
    floors: dict[int, SvnFloor] = {}
    seen: set[int] = set()
    for resource in payload.elements:
        if resource.name != (SWID, "Resource") or resource.attributes.get(("", "type")) != "Measurement":
            raise FormatError("RIM.Payload", "resources of type Measurement alone", resource.name[1][:80])
        index = _number(resource, "index", most=_LAST_OPAQUE)
        if index in seen or len(seen) == _MOST_RESOURCES or _LAST_MEASUREMENT < index < _FIRST_OPAQUE:
            raise FormatError("RIM.index", f"0 to {_LAST_MEASUREMENT}, or from {_FIRST_OPAQUE} on, each once", str(index))
        seen.add(index)
        if not _is_active(resource):
            continue
        if index >= _FIRST_OPAQUE:
            field = index - _FIRST_OPAQUE
            least = _digits(resource.attributes.get((_OPAQUE, "minSvn"), ""), "minSvn", most=0xFFFF)
            floors[field] = SvnFloor(field, _text(resource, "name"), least)
        else:
            measurements[index] = _values(resource)
    if not measurements:
        raise FormatError("RIM.Payload", "an active measurement", "none")
    tag = root.attributes.get(("", "tagId"), "")[:256]
    version, product = _text(meta, "colloquialVersion"), _text(meta, "product")
    return Rim(version, product, tag, measurements, tuple(floors[field] for field in sorted(floors)), document)


def parse_rim_file(data: bytes) -> tuple[str | None, Rim]:
    """A RIM as a file holds it: the document, or the answer of the RIM service, which says its id as well. Raises FormatError."""
    if data.lstrip()[:1] != b"{":
        return None, parse_rim(data)
    value = decode_json(data, "RIM", max_size=2 * MAX_XML)
    fields = Fields(value, "RIM") if isinstance(value, dict) else None
    if fields is None:
        raise FormatError("RIM", "a JSON object", type(value).__name__)
    try:
        document = base64.b64decode(fields.text("rim", most=2 * MAX_XML), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("RIM.rim", "base64", "text that is not") from None
    return fields.text("id", least=1, most=256), parse_rim(document)


def _only(root: Element, name: str) -> Element:
    found = [element for element in root.elements if element.name == (SWID, name)]
    if len(found) != 1:
        raise FormatError(f"RIM.{name}", "one", str(len(found)))
    return found[0]


def _text(element: Element, name: str) -> str:
    value = element.attributes.get(("", name), "")
    if not 1 <= len(value) <= 128 or not value.isascii() or not value.isprintable():
        raise FormatError(f"RIM.{name}", "1 to 128 printable characters", repr(value)[:80])
    return value


def _is_active(resource: Element) -> bool:
    value = resource.attributes.get(("", "active"))
    if value not in ("True", "False"):
        raise FormatError("RIM.active", "True or False", repr(value)[:40])
    return value == "True"


def _number(resource: Element, name: str, *, most: int) -> int:
    return _digits(resource.attributes.get(("", name), ""), name, most=most)


def _digits(text: str, name: str, *, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS and int(text) <= most):
        raise FormatError(f"RIM.{name}", f"a number up to {most}", repr(text)[:40])
    return int(text)


def _values(resource: Element) -> tuple[bytes, ...]:
    """The values of an active resource: as many as it says, each of the size that it says (in bytes, or in digits), and no other."""
    count, size = _number(resource, "alternatives", most=_MOST_ALTERNATIVES), _number(resource, "size", most=128)
    given = {name: value for (namespace, name), value in resource.attributes.items() if namespace == _SHA384}
    if count == 0 or set(given) != {f"Hash{number}" for number in range(count)}:
        raise FormatError("RIM.alternatives", f"Hash0 to Hash{count - 1}", ", ".join(sorted(given))[:80] or "none")
    values = []
    for name, text in given.items():
        if not _HEX.match(text) or size not in (len(text) // 2, len(text)):
            raise FormatError(f"RIM.{name}", f"hexadecimal of size {size}", repr(text)[:80])
        values.append(bytes.fromhex(text))
    return tuple(values)
