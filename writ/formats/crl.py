"""Certificate revocation lists as frozen types: the DER as it came, and the fields that verdicts read.

A `Crl` is parsed, not verified. It speaks of all certificates of its issuer,
or of those that its `scope` says: an issuer may divide its list by the address
at which a certificate finds its part, or into CAs and others. A delta, an
indirect list and one of some reasons only say less than they seem to, and are
refused.

Source: RFC 5280 section 5.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from writ.formats.der import GENERALIZED_TIME, OCTET_STRING, SEQUENCE, UTC_TIME, DerReader, Element
from writ.formats.errors import FormatError
from writ.formats.x509_key import SignatureAlgorithm, parse_signature_algorithm

MAX_CRL: Final = 1 << 20
"""Bytes of one list; TPM manufacturers revoke CAs and few EKs."""
MOST_REVOKED: Final = 32_768
CRL_NUMBER: Final = "2.5.29.20"

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END X509 CRL-----\s*\Z")


@dataclass(frozen=True, slots=True)
class Scope:
    """Of which certificates of its issuer a list speaks: those that name one of `points` (addresses; of any where there is none), and
    where `only` says so "users" (no CAs) or "cas"."""

    points: tuple[str, ...] = ()
    only: str = ""


ALL: Final = Scope()


@dataclass(frozen=True, slots=True)
class Crl:
    """A CertificateList as its DER says it.

    Times are seconds since the epoch; `next_update` is None where the issuer promises none, `number` where it does not count its lists.
    """

    der: bytes
    issuer: bytes
    number: int | None
    this_update: int
    next_update: int | None
    revoked: frozenset[int]
    signed: bytes
    algorithm: SignatureAlgorithm | None
    signature: bytes
    scope: Scope


def parse_crl(data: bytes) -> Crl:
    """Read exactly one CRL, in DER or as one PEM block. Raises FormatError, and nothing else."""
    if len(data) > 2 * MAX_CRL:
        raise FormatError("CRL", f"at most {MAX_CRL} bytes", f"{len(data)} bytes")
    der = _from_pem(data) if data.lstrip()[:10] == b"-----BEGIN" else data
    if len(der) > MAX_CRL:
        raise FormatError("CRL", f"at most {MAX_CRL} bytes", f"{len(der)} bytes")
    outer = DerReader(der, "CRL")
    whole = outer.sequence("whole")
    outer.done()
    tbs, algorithm, signature = whole.next("body", SEQUENCE), whole.next("algorithm", SEQUENCE), whole.bits("signature")
    whole.done()
    return _fields(der, tbs, algorithm, signature)


@lru_cache(maxsize=16)
def kept_crl(der: bytes) -> Crl:
    """The `parse_crl` of a list that is kept and read again and again: an enrolment reads all that are believed. Raises FormatError."""
    return parse_crl(der)


def _from_pem(data: bytes) -> bytes:
    block = _PEM.match(data.lstrip())
    try:
        return base64.b64decode(b"".join(block[1].split()), validate=True) if block else b""
    except binascii.Error:
        raise FormatError("CRL", "base64 in the PEM block", "text that is not") from None


def _fields(der: bytes, tbs: Element, algorithm: Element, signature: bytes) -> Crl:
    """TBSCertList, RFC 5280 section 5.1."""
    f = DerReader(tbs.content, "CRL")
    if f.next_tag == 0x02 and f.integer("version", most=1) != 1:
        raise FormatError("CRL.version", "2", "another")
    inner = f.next("algorithm", SEQUENCE)
    if f.inside(inner, "algorithm").oid("oid") != f.inside(algorithm, "algorithm").oid("oid"):
        raise FormatError("CRL.algorithm", "the same within and beside the signature", "two")
    issuer, this_update = f.next("issuer", SEQUENCE), f.time("this_update")
    next_update = f.time("next_update") if f.next_tag in (UTC_TIME, GENERALIZED_TIME) else None
    listed = f.optional("revoked", SEQUENCE)
    revoked = frozenset() if listed is None else _revoked(f.inside(listed, "revoked"))
    number, scope = None, ALL
    if (extensions := f.optional("extensions", 0xA0)) is not None:
        explicit = f.inside(extensions, "extensions")
        values = _extensions(explicit.sequence("list"), {_ISSUING_POINT})
        explicit.done()
        number, scope = _number(f, values), _scope(f, values)
    f.done()
    known = parse_signature_algorithm(algorithm.raw)
    return Crl(der, issuer.raw, number, this_update, next_update, revoked, tbs.raw, known, signature, scope)


def _number(f: DerReader, extensions: list[tuple[str, Element]]) -> int | None:
    """The cRLNumber among them, RFC 5280 section 5.2.3: of at most 20 bytes, beside the sign."""
    found = [f.inside(value, "number") for oid, value in extensions if oid == CRL_NUMBER]
    numbers = [one.integer("value", most=21) for one in found]
    for one in found:
        one.done()
    if len(numbers) > 1 or any(number < 0 for number in numbers):
        raise FormatError("CRL.number", "one that is not negative", ", ".join(map(str, numbers)))
    return numbers[0] if numbers else None


def _scope(f: DerReader, extensions: list[tuple[str, Element]]) -> Scope:
    """The issuingDistributionPoint among them, RFC 5280 section 5.2.5."""
    found = [f.inside(value, "scope") for oid, value in extensions if oid == _ISSUING_POINT]
    if not found:
        return ALL
    point = found[0].sequence("point")
    found[0].done()
    points: list[str] = []
    if (name := point.optional("name", 0xA0)) is not None:
        general = point.inside(point.inside(name, "name").next("full", 0xA0), "full")
        while general.more:
            if (one := general.next("name")).tag == _URI:
                points.append(one.content.decode("ascii", "replace")[:1024])
    users, cas = (_is_set(point, tag) for tag in (0x81, 0x82))
    narrower = point.optional("reasons", 0x83) is not None or any(_is_set(point, tag) for tag in (0x84, 0x85))
    point.done()
    if narrower or (users and cas) or len(found) > 1 or (name is not None and not points):
        raise FormatError(
            "CRL", _ALL_OF_ITS_ISSUER, "one of some reasons, of another issuer's certificates, of no address or of attributes"
        )
    return Scope(tuple(sorted(set(points))), "users" if users else "cas" if cas else "")


def _is_set(f: DerReader, tag: int) -> bool:
    """A BOOLEAN under a tag of its own, false where it is not there."""
    flag = f.optional("flag", tag)
    if flag is not None and flag.content not in (b"\0", b"\xff"):
        raise f.error("flag", "00 or ff", flag.content[:4].hex())
    return flag is not None and flag.content == b"\xff"


def _revoked(f: DerReader) -> frozenset[int]:
    found: set[int] = set()
    while f.more:
        entry = f.sequence("entry")
        found.add(entry.integer("serial"))
        entry.time("date")
        if entry.more:
            _extensions(entry.sequence("extensions"), frozenset())
        entry.done()
        if len(found) > MOST_REVOKED:
            raise FormatError("CRL.revoked", f"at most {MOST_REVOKED} certificates", "more")
    return frozenset(found)


_ISSUING_POINT: Final = "2.5.29.28"
_DELTA: Final = "2.5.29.27"
"""Critical by RFC 5280 (5.2.4), and no list of all however marked."""
_URI: Final = 0x86
_ALL_OF_ITS_ISSUER: Final = "a list of all certificates of its issuer, or of a part of them"


def _extensions(items: DerReader, understood: AbstractSet[str]) -> list[tuple[str, Element]]:
    """Each extension. A critical one that is not `understood` narrows what a CRL says: a delta, the issuer of an entry."""
    found: list[tuple[str, Element]] = []
    while items.more:
        item = items.sequence("extension")
        oid = item.oid("oid")
        critical = item.next_tag == 0x01 and item.boolean("critical")
        if (critical and oid not in understood) or oid == _DELTA:
            raise FormatError("CRL", _ALL_OF_ITS_ISSUER, f"{'critical ' if critical else ''}extension {oid}")
        found.append((oid, item.next("value", OCTET_STRING)))
        item.done()
    return found
