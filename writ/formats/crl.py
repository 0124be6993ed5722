"""Certificate revocation lists as frozen types: the DER as it came, and the fields that verdicts read.

A `Crl` is parsed, not verified. Only a list that speaks for all certificates
of its issuer is read: a delta, an indirect or a partial list says less than
it seems to, and is refused.

Source: RFC 5280 section 5.
"""

from __future__ import annotations

import base64
import binascii
import re
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
    number = None
    if (extensions := f.optional("extensions", 0xA0)) is not None:
        explicit = f.inside(extensions, "extensions")
        number = _number(explicit.sequence("list"))
        explicit.done()
    f.done()
    return Crl(der, issuer.raw, number, this_update, next_update, revoked, tbs.raw, parse_signature_algorithm(algorithm.raw), signature)


def _number(extensions: DerReader) -> int | None:
    """The cRLNumber among them, RFC 5280 section 5.2.3: of at most 20 bytes, beside the sign."""
    found = [extensions.inside(value, "number") for oid, value in _not_critical(extensions) if oid == CRL_NUMBER]
    numbers = [one.integer("value", most=21) for one in found]
    for one in found:
        one.done()
    if len(numbers) > 1 or any(number < 0 for number in numbers):
        raise FormatError("CRL.number", "one that is not negative", ", ".join(map(str, numbers)))
    return numbers[0] if numbers else None


def _revoked(f: DerReader) -> frozenset[int]:
    found: set[int] = set()
    while f.more:
        entry = f.sequence("entry")
        found.add(entry.integer("serial"))
        entry.time("date")
        if entry.more:
            _not_critical(entry.sequence("extensions"))
        entry.done()
        if len(found) > MOST_REVOKED:
            raise FormatError("CRL.revoked", f"at most {MOST_REVOKED} certificates", "more")
    return frozenset(found)


_NARROWING: Final = ("2.5.29.27", "2.5.29.28")
"""A delta, and a distribution point of some certificates only: critical by RFC 5280 (5.2.4, 5.2.5), and no list of all however marked."""


def _not_critical(items: DerReader) -> list[tuple[str, Element]]:
    """Each extension. One that is critical narrows what a CRL says: delta, issuing distribution point, certificate issuer."""
    found: list[tuple[str, Element]] = []
    while items.more:
        item = items.sequence("extension")
        oid = item.oid("oid")
        critical = item.next_tag == 0x01 and item.boolean("critical")
        if critical or oid in _NARROWING:
            raise FormatError("CRL", "a list of all certificates of its issuer", f"{'critical ' if critical else ''}extension {oid}")
        found.append((oid, item.next("value", OCTET_STRING)))
        item.done()
    return found
